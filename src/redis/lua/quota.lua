-- The account's rate: `domain/quota.rs`, rule for rule; `tests/redis/equality.rs` holds the two together.
--
-- KEYS: bucket. ARGV: verb, life of the bucket in ms, then the limits:
--   calls a minute, share of the class, ahead in us, least wait, most wait, memory of the waiting (ms), floor, slow-down,
--   recovery, failures to close, first and last closing (ms); then by verb:
--   admit: class 0..3 (the last is looks), refusals, chance; throttled: pause in ms; failed, succeeded, paused: nothing.
-- The last argument moves the clock, for tests.
-- Answers a word, the instant it speaks of or '', now, and until when the service asked for a pause (0: never).
local late_look, looks_apart = 5000, 8
local verb = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[#ARGV]
local limit, share, ahead_us, wait_min, wait_max, waiting_memory, floor_rate, slow_down, recovery, to_close, close_min,
  close_max = unpack(ARGV, 3, 14)
limit, share, ahead_us = tonumber(limit), tonumber(share), tonumber(ahead_us)
wait_min, wait_max, waiting_memory = tonumber(wait_min), tonumber(wait_max), tonumber(waiting_memory)
floor_rate, slow_down, recovery = tonumber(floor_rate), tonumber(slow_down), tonumber(recovery)
to_close, close_min, close_max = tonumber(to_close), tonumber(close_min), tonumber(close_max)

local bucket = {}
local stored = redis.call('HGETALL', KEYS[1])
for n = 1, #stored, 2 do
  bucket[stored[n]] = tonumber(stored[n + 1])
end

local function text(number)
  return string.format('%.17g', number)
end

local changed = {}
local function set(field, value)
  bucket[field] = value
  table.insert(changed, field)
  table.insert(changed, text(value))
end

local function whole(number)
  return string.format('%.0f', number)
end

-- Kept until the pause is over, however long that is: it must not be forgotten while it stands.
local function save()
  if #changed > 0 then
    redis.call('HSET', KEYS[1], unpack(changed))
    redis.call('PEXPIRE', KEYS[1], whole(ARGV[2] + math.max((bucket.pause or 0) - now, 0)))
  end
end

local function answer(word, at)
  save()
  return { word, at and whole(at) or '', whole(now), whole(bucket.pause or 0) }
end

local function power(base, exponent)
  local result = 1
  while true do
    if exponent % 2 == 1 then
      result = result * base
    end
    exponent = math.floor(exponent / 2)
    if exponent == 0 then
      return result
    end
    base = base * base
  end
end

local function rate()
  if not bucket.learned then
    return limit
  end
  local minutes = math.min(math.floor(math.max(now - bucket.learned_at, 0) / 60000), 10000)
  local grown = bucket.learned * power(1 + recovery, minutes)
  return math.max(math.min(floor_rate, limit), math.min(grown, limit))
end

local function interval_us(per_minute)
  return math.ceil(math.max(1, math.min(60000000 / math.max(per_minute, 1e-300), 86400000000)))
end

local gate = math.max(bucket.pause or 0, bucket.closed or 0)

if verb == 'admit' then
  local class, refusals, chance = ARGV[15], tonumber(ARGV[16]), tonumber(ARGV[17])
  if now < gate then
    return answer('gate', gate + math.ceil(wait_min * chance))
  end
  local is_look = class == '3'
  local now_us = now * 1000
  local function sane(arrival)
    arrival = arrival or 0
    if arrival > now_us + 60000000 then
      arrival = now_us
    end
    return math.max(arrival, now_us)
  end
  local calls = rate()
  local at_us = sane(bucket.common)
  if not is_look then
    at_us = math.max(at_us, sane(bucket['class' .. class]))
  end
  local next_us = at_us + interval_us(calls)
  local look_at = bucket.look_at or 0
  local is_kept = look_at > 0 and now < look_at + late_look
  local is_for_a_look = not is_look and is_kept and next_us > look_at * 1000 + ahead_us
  if is_for_a_look or at_us - now_us > ahead_us then
    local before = bucket.was_look == 1 and next_us or at_us
    local least = math.max(before - now_us - ahead_us, 0) / 1000
    local waiting = bucket['waiting' .. class] or 0
    if now - (bucket['refused' .. class] or 0) >= waiting_memory then
      waiting = 0
    end
    waiting = refusals == 0 and waiting + 1 or math.max(waiting, 1)
    set('waiting' .. class, waiting)
    set('refused' .. class, now)
    local per_second = math.max(calls * share / 60, 1e-300)
    local wait = waiting / per_second / (refusals + 1) * 1000
    wait = math.max(math.min(wait, wait_max / 1.25), wait_min)
    if is_look then
      local spread = interval_us(calls) / 1000 * looks_apart
      wait = math.min(math.max(math.min(wait, least + spread), least), wait_max)
    end
    local till = now + math.ceil(math.min(wait + wait * 0.25 * chance, wait_max))
    if is_look then
      set('look_at', is_kept and math.min(look_at, till) or till)
    end
    return answer('wait', till)
  end
  set('common', next_us)
  set('was_look', is_look and 1 or 0)
  if is_look then
    set('look_at', 0)
  else
    set('class' .. class, at_us + interval_us(calls * share))
  end
  if refusals > 0 and (bucket['waiting' .. class] or 0) > 0 then
    set('waiting' .. class, bucket['waiting' .. class] - 1)
  end
  return answer('granted', math.floor((at_us + 999) / 1000))
elseif verb == 'throttled' then
  if now >= (bucket.pause or 0) then
    set('learned', math.max(rate() * slow_down, floor_rate))
    set('learned_at', now)
  end
  set('pause', math.max(bucket.pause or 0, now + tonumber(ARGV[15])))
  return answer('paused', math.max(bucket.pause, bucket.closed or 0))
elseif verb == 'failed' then
  set('failures', (bucket.failures or 0) + 1)
  if bucket.failures < to_close then
    return answer('open')
  end
  if now >= (bucket.closed or 0) then
    set('closed_for', math.max(close_min, math.min((bucket.closed_for or 0) * 2, close_max)))
    set('closed', now + bucket.closed_for)
  end
  return answer('closed', bucket.closed)
end
if verb == 'paused' then
  return answer('paused', gate)
end
-- succeeded
if (bucket.failures or 0) > 0 then
  set('failures', 0)
  set('closed_for', 0)
  set('closed', 0)
end
return answer('open')
