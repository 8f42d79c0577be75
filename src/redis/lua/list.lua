-- KEYS: index of what is shown. ARGV: what the keys of what is shown begin with, what the jobs begin with, newest instant or
-- '+inf', how many of the index to pass over, how many to look at.
-- Answers now, how many were looked at, then for each job that has something to show: job, instant in the index, names and
-- values. Newest first; jobs of one instant in the order of their names, last first.
local prefix, wanted = ARGV[1], ARGV[2]
local index = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[3], '-inf', 'WITHSCORES', 'LIMIT', ARGV[4], ARGV[5])
local answer = { text(now_ms()), text(#index / 2) }
for n = 1, #index, 2 do
  local job = index[n]
  if string.sub(job, 1, #wanted) == wanted then
    local shown = redis.call('HGETALL', prefix .. job)
    if #shown > 0 then
      table.insert(answer, { job, index[n + 1], unpack(shown) })
    end
  end
end
return answer
