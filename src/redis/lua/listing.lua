-- A listing of an account's products. It belongs to one life of the memory: one of another counts as none.
--
-- KEYS: birth mark, listing under way, newest complete one, newest incomplete one, what the records' keys begin with.
-- ARGV: join | page | failed | leave, job, lease in ms, how long a whole one may be read in ms, then
--   join: not_before; page: next link or '', then name, product and body of each; failed: failures at most.
-- A listing's products lie in keys of their own, one for each name: prefix of KEYS[2] .. ':' .. id .. ':' .. name.
local now = now_ms()
local life = birth(KEYS[1], now)
local verb, job, lease, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function read(key)
  local known = redis.call('HMGET', key, 'epoch', 'id', 'started_at', 'next', 'job', 'until', 'failures', 'whole_at')
  if known[1] ~= life[1] then
    return nil
  end
  return {
    id = known[2], started_at = tonumber(known[3]), next = known[4] or '', job = known[5] or '',
    ['until'] = tonumber(known[6] or '0'), failures = tonumber(known[7] or '0'), whole_at = tonumber(known[8] or '0'),
  }
end

local function write(key, listing)
  redis.call('HSET', key, 'epoch', life[1], 'id', listing.id, 'started_at', text(listing.started_at),
    'next', listing.next, 'job', listing.job, 'until', text(listing['until']), 'failures', text(listing.failures),
    'whole_at', text(listing.whole_at))
  redis.call('PEXPIRE', key, keep)
end

local function whole(key, not_before)
  local listing = read(key)
  return listing and listing.whole_at + keep > now and listing.started_at >= not_before
end

local function over(listing, is_complete)
  listing.whole_at, listing.job, listing['until'] = now, '', 0
  write(is_complete and KEYS[3] or KEYS[4], listing)
  redis.call('DEL', KEYS[2])
  if is_complete then
    redis.call('DEL', KEYS[4])
  end
end

-- Does the job that reads still have a claim that lives? One without a record has nothing to lose.
local function lives(reader)
  local record = redis.call('HGET', KEYS[5] .. reader, 'record')
  if not record then
    return true
  end
  local holder = cjson.decode(record).holder
  return type(holder) == 'table' and holder['until'] > now
end

local known = read(KEYS[2])
if verb == 'join' then
  local not_before = tonumber(ARGV[5])
  if whole(KEYS[3], not_before) then
    return { 'whole', '1' }
  end
  if whole(KEYS[4], not_before) then
    return { 'whole', '0' }
  end
  if known and known.job ~= '' and known.job ~= job and known['until'] > now and lives(known.job) then
    return { 'read' }
  end
  if not known or known.started_at < not_before then
    redis.call('DEL', KEYS[2])
    local id = string.sub(redis.sha1hex(life[1] .. text(now) .. job), 1, 16)
    known = { id = id, started_at = now, next = '', failures = 0, whole_at = 0 }
  end
  known.job, known['until'] = job, now + lease
  write(KEYS[2], known)
  return { 'ours', known.next }
end

if not known or known.job ~= job or known['until'] <= now then
  return { 'lost' }
end
if verb == 'page' then
  for n = 6, #ARGV - 3, 3 do
    local names = KEYS[2] .. ':' .. known.id .. ':' .. ARGV[n]
    redis.call('HSET', names, ARGV[n + 1], ARGV[n + 2])
    redis.call('PEXPIRE', names, keep * 2)
  end
  known.next, known.failures, known['until'] = ARGV[5], 0, now + lease
  if known.next == '' then
    over(known, true)
  else
    write(KEYS[2], known)
  end
elseif verb == 'failed' then
  known.failures = known.failures + 1
  if known.failures >= tonumber(ARGV[5]) then
    over(known, false)
  else
    known.job, known['until'] = '', 0
    write(KEYS[2], known)
  end
else
  known.job, known['until'] = '', 0
  write(KEYS[2], known)
end
return { 'done' }
