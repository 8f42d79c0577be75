-- KEYS: birth mark, record.
local now = now_ms()
return present(birth(KEYS[1], now), now, KEYS[2])
