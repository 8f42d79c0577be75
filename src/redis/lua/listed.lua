-- KEYS: birth mark, newest complete listing, newest incomplete one. ARGV: prefix of the products' keys, name.
-- Answers product and body, again and again; the newer listing first.
local now = now_ms()
local life = birth(KEYS[1], now)
local listings = {}
for n = 2, 3 do
  local known = redis.call('HMGET', KEYS[n], 'epoch', 'id', 'started_at')
  if known[1] == life[1] then
    table.insert(listings, { id = known[2], started_at = tonumber(known[3]) })
  end
end
table.sort(listings, function(a, b) return a.started_at > b.started_at end)
local products = {}
for _, listing in ipairs(listings) do
  for _, part in ipairs(redis.call('HGETALL', ARGV[1] .. ':' .. listing.id .. ':' .. ARGV[2])) do
    table.insert(products, part)
  end
end
return products
