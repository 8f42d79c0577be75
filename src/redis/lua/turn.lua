-- KEYS: birth mark, turn.
-- ARGV: take | stamp | end, job, life of a turn in ms, how long it is remembered in ms, begun_at or ''.
-- Only who knows of the last stamp gives the turn back.
-- A turn of another life of the memory names nobody: what happened in between is not known.
local now = now_ms()
local life = birth(KEYS[1], now)
local verb, job, span = ARGV[1], ARGV[2], tonumber(ARGV[3])
local turn = redis.call('HMGET', KEYS[2], 'job', 'taken_at', 'begun_at', 'epoch')
local holder, taken_at, begun_at = turn[1], tonumber(turn[2] or '') or 0, tonumber(turn[3] or '')
if turn[4] ~= life[1] then
  holder, taken_at, begun_at = false, 0, nil
end
local stands = holder and now < math.max(begun_at or 0, taken_at) + span

local function write()
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'job', job, 'taken_at', text(taken_at), 'epoch', life[1])
  if begun_at then
    redis.call('HSET', KEYS[2], 'begun_at', text(begun_at))
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end

if verb == 'take' then
  if holder and holder ~= job then
    if stands then
      return { 'held' }
    end
    begun_at, taken_at = nil, now
  elseif not (stands and begun_at) then
    -- A stamped turn is not made longer by looking at it; one that ran out proves again once its own job has it again.
    taken_at = now
  end
  write()
  return { 'ours', begun_at and text(begun_at) or '' }
elseif verb == 'stamp' then
  if holder ~= job or not stands then
    return { 'lost' }
  end
  begun_at = tonumber(ARGV[5])
  write()
  return { 'ours' }
elseif holder == job and begun_at == tonumber(ARGV[5]) then
  redis.call('DEL', KEYS[2])
end
return { 'over' }
