-- Records a mail's result and queues the database update: one atomic step, so that neither exists without the other.
--
-- KEYS[1]  mail:ledger:CAMPAIGN  HASH   subscriber -> state (see claim.lua)
-- KEYS[2]  mail:counts:CAMPAIGN  HASH   sent | failed | uncertain -> number, for `mail-worker status`
-- KEYS[3]  mail:outbox           STREAM of results that the database doesn't hold yet
-- KEYS[4]  mail:campaigns        SET    of campaigns that aren't known to be complete
-- ARGV[1]  campaign, empty for a mail outside any campaign: then there's only the ledger
-- ARGV[2]  subscriber
-- ARGV[3]  s | f | u
-- ARGV[4]  the server's words
-- ARGV[5]  seconds that the ledger is kept
--
-- Returns 1, or 0 when the ledger already held a final result.
local before = redis.call('HGET', KEYS[1], ARGV[2])
local kind = before and string.sub(before, 1, 1)
if kind == 's' or kind == 'f' then
  return 0
end
local now = redis.call('TIME')
local now_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3] .. ':' .. now_ms .. ':' .. ARGV[4])
redis.call('EXPIRE', KEYS[1], ARGV[5])
if ARGV[1] == '' then
  return 1
end
local names = { s = 'sent', f = 'failed', u = 'uncertain' }
redis.call('HINCRBY', KEYS[2], names[ARGV[3]], 1)
redis.call('EXPIRE', KEYS[2], ARGV[5])
if ARGV[3] ~= 'u' then
  redis.call('XADD', KEYS[3], '*', 'campaign', ARGV[1], 'subscriber', ARGV[2], 'result', ARGV[3], 'at', now_ms)
  redis.call('SADD', KEYS[4], ARGV[1])
end
return 1
