-- The time, in front of each script that needs it. Redis's own may be set back, by hand, by NTP or by a failover to
-- another host: whatever waits for a time, or has ended by it, would wait for the clock to catch up. So NOW_MS never goes
-- back by more than a second. What people or others see (the database, BullMQ) has REAL_MS.
--
--   mail:clock  HASH last (ms: NOW_MS, to the second), ahead (ms by which it's before Redis's)
local REAL_MS, NOW_MS
do
  local clock = redis.call('TIME')
  REAL_MS = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local stored = redis.call('HMGET', 'mail:clock', 'last', 'ahead')
  local last, ahead = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
  NOW_MS = REAL_MS + ahead
  if NOW_MS < last then
    redis.call('HSET', 'mail:clock', 'ahead', string.format('%.0f', last - REAL_MS))
    NOW_MS = last
  elseif NOW_MS - last >= 1000 then
    redis.call('HSET', 'mail:clock', 'last', string.format('%.0f', NOW_MS))
  end
end
