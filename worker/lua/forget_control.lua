-- Forgets what was said of campaigns that are long over, a part at a time. Behind lanes.lua and bullmq.lua.
--
-- KEYS[12]  mail:campaigns           SET of campaigns that aren't known to be complete
-- KEYS[13]  PREFIX:QUEUE             what BullMQ's keys begin with (see bullmq.lua)
-- KEYS[14]  mail:bullmq:PREFIX:QUEUE what our keys about it begin with
-- KEYS[15]  mail:control:idle        ZSET campaign -> ms since when nothing else is known of it
-- KEYS[16]  mail:campaigns:parked    HASH campaign -> [ms, reason]
-- KEYS[17]  mail:woken               LIST of ids that woke idle processes
-- KEYS[18]  mail:control or mail:priorities, which is looked through
-- ARGV[1]   ms after which it's forgotten   ARGV[2]  cursor, 0 at first   ARGV[3]  campaigns to look at, about
--
-- A mail of a campaign leaves counts behind, and waits in its lane or among its parked jobs. What nobody has looked at
-- yet could be any campaign's: while something of the kind waits, nothing is forgotten.
--
-- Returns {cursor (0: that was all), campaigns that were forgotten, …}.
local has_jobs = open(KEYS[13], KEYS[14])

local function something_waits()
  return redis.call('EXISTS', WAITING, DELAYED_MESSAGES, KEYS[17]) > 0 or has_jobs and redis.call('EXISTS', QUEUE .. 'wait',
    QUEUE .. 'paused', QUEUE .. 'prioritized', QUEUE .. 'delayed', QUEUE .. 'active', QUEUE .. 'waiting-children') > 0
end

local function is_known(campaign)
  return redis.call('EXISTS', 'mail:counts:' .. campaign, 'mail:ledger:' .. campaign, 'mail:lane:' .. campaign,
    KEYS[14] .. ':parked:' .. campaign) > 0
    or redis.call('SISMEMBER', KEYS[12], campaign) == 1
    or redis.call('HEXISTS', KEYS[16], campaign) == 1
end

local waits = something_waits()
local part = redis.call('HSCAN', KEYS[18], ARGV[2], 'COUNT', ARGV[3])
local answer = { part[1] }
for i = 1, #part[2], 2 do
  local campaign = part[2][i]
  if is_known(campaign) then
    redis.call('ZREM', KEYS[15], campaign)
  else
    redis.call('ZADD', KEYS[15], 'NX', NOW_MS, campaign)
    if not waits and tonumber(redis.call('ZSCORE', KEYS[15], campaign)) <= NOW_MS - ARGV[1] then
      redis.call('HDEL', CONTROL, campaign)
      redis.call('HDEL', PRIORITIES, campaign)
      redis.call('ZREM', KEYS[15], campaign)
      answer[#answer + 1] = campaign
    end
  end
end
return answer
