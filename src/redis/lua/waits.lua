-- KEYS: jobs of the account that wait for a poll. ARGV: job, life of a job in ms.
-- One that nobody has touched for a job's life is gone, whatever became of it.
local now = now_ms()
redis.call('ZADD', KEYS[1], text(now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
