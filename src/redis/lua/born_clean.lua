-- KEYS: birth mark. ARGV: '1' to write it only when it is missing.
-- Answers 1 when the mark was written: the memory is born now, and nothing was under way before.
if ARGV[1] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = now_ms()
local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('HSET', KEYS[1], 'id', id, 'at', text(now), 'clean', '1')
return 1
