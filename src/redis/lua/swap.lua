-- KEYS: birth mark, record, jobs of the account that wait for a poll, what is shown of the job, index of what is shown.
-- ARGV: epoch, version, record, life of the record in ms, '1' when the job stands at its poll, the job, life of what is
-- shown in ms, then names and values of what is shown.
-- Answers the new version when the record is written, else what `load` would bring.
local now = now_ms()
local life = birth(KEYS[1], now)
local version = redis.call('HGET', KEYS[2], 'version') or '0'
if life[1] ~= ARGV[1] or version ~= ARGV[2] then
  return present(life, now, KEYS[2])
end
-- Grows with the clock as well: a version is never met again, not even by a record that was removed and written anew.
local next_version = math.max(tonumber(version) + 1, now)
redis.call('HSET', KEYS[2], 'version', text(next_version), 'record', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
if ARGV[5] ~= '1' then
  redis.call('ZREM', KEYS[3], ARGV[6])
end
local news = redis.call('HSET', KEYS[4], 'touched_at', text(now), unpack(ARGV, 8, #ARGV - 1))
redis.call('PEXPIRE', KEYS[4], ARGV[7])
-- The index changes with the first claim, and when the ticket first tells when the job was accepted.
if news > 0 then
  redis.call('ZADD', KEYS[5], redis.call('HGET', KEYS[4], 'accepted_at') or text(now), ARGV[6])
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', text(now - 2 * ARGV[7]))
  redis.call('PEXPIRE', KEYS[5], text(2 * ARGV[7]))
end
return { text(next_version) }
