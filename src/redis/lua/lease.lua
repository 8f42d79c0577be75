-- KEYS: lease. ARGV: take | give-back, owner, span in ms. Answers 1 when the lease is (or was) the owner's.
local owner = redis.call('GET', KEYS[1])
if ARGV[1] == 'take' then
  if owner and owner ~= ARGV[2] then
    return 0
  end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
  return 1
end
if owner ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
