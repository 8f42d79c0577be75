-- KEYS: birth mark, record, what is shown of the job. Answers what `load` brings, then names and values of what is shown.
local now = now_ms()
local answer = present(birth(KEYS[1], now), now, KEYS[2])
for _, part in ipairs(redis.call('HGETALL', KEYS[3])) do
  table.insert(answer, part)
end
return answer
