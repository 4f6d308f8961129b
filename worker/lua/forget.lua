-- Removes the ledgers of campaigns that have ended, a week after their last change. Redis removes a key that expires at
-- once and serves nobody meanwhile, for a second with a million recipients; UNLINK does it beside. So a ledger's EXPIRE
-- is only the last resort, where no recorder runs. Behind clock.lua.
--
-- KEYS[1]  mail:ledgers            ZSET campaign -> ms at which its ledger is looked at
-- KEYS[2]  mail:campaigns          SET  of campaigns that aren't known to be complete
-- KEYS[3]  mail:campaigns:parked   HASH campaign -> [ms, why]
-- KEYS[4]  mail:control            HASH campaign -> paused:REASON | cancelled:REASON
-- Made of names that are found on the way: mail:ledger:CAMPAIGN, mail:counts:CAMPAIGN
-- ARGV[1]  ms for which each change of a ledger lets it live
-- ARGV[2]  ms without a change after which that of a complete campaign goes, and
-- ARGV[3]  of one that was put aside or cancelled, which may go on: less than ARGV[1]
-- ARGV[4]  campaigns to look at, at the most
--
-- Returns how many ledgers were removed.
local DAY_MS = 86400000
local removed = 0
for _, campaign in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', REAL_MS, 'LIMIT', 0, ARGV[4])) do
  local ledger = 'mail:ledger:' .. campaign
  local left_ms = redis.call('PTTL', ledger)
  local waits = redis.call('HEXISTS', KEYS[3], campaign) == 1
    or string.sub(redis.call('HGET', KEYS[4], campaign) or '', 1, 9) == 'cancelled'
  local idle_ms, kept_ms = ARGV[1] - left_ms, tonumber(waits and ARGV[3] or ARGV[2])
  if left_ms == -2 then
    redis.call('ZREM', KEYS[1], campaign)
  elseif redis.call('SISMEMBER', KEYS[2], campaign) == 1 then
    redis.call('ZADD', KEYS[1], REAL_MS + DAY_MS, campaign)
  elseif idle_ms >= kept_ms then
    redis.call('UNLINK', ledger, 'mail:counts:' .. campaign)
    redis.call('ZREM', KEYS[1], campaign)
    removed = removed + 1
  else
    -- It may be put aside, cancelled or opened meanwhile.
    redis.call('ZADD', KEYS[1], REAL_MS + math.min(kept_ms - idle_ms, DAY_MS), campaign)
  end
end
return removed
