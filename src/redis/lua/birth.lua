-- Put before every script that reads or writes a record. Source: docs/protocol.md, "Memory that is gone".

local function text(number)
  return string.format('%.0f', number)
end

-- The last argument moves the clock, for tests.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[#ARGV]
end

-- The memory's life: { epoch, instant, clean }. The replication id is new at every start and every promotion; the mark
-- is gone after a flush, which changes no id. Either way a new life begins here, and nobody says it is clean.
local function birth(key, now)
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  local mark = redis.call('HMGET', key, 'id', 'at', 'clean')
  if mark[1] ~= id then
    mark = { id, text(now), '0' }
    redis.call('HSET', key, 'id', mark[1], 'at', mark[2], 'clean', mark[3])
  end
  return { string.sub(redis.sha1hex(mark[1] .. ':' .. mark[2]), 1, 32), mark[2], mark[3] }
end

-- What `load` brings: epoch, instant of the birth, clean, now, version, record.
local function present(life, now, key)
  local record = redis.call('HMGET', key, 'version', 'record')
  return { life[1], life[2], life[3], text(now), record[1] or '0', record[2] or '' }
end
