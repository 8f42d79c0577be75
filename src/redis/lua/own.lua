-- KEYS: owner. ARGV: job, life in ms. The first fact stays; the same one again stays longer.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
