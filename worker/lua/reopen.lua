-- Gives recipients that failed another try (`mail-worker retry-failed`). Behind states.lua and bullmq.lua.
--
-- KEYS[1]  PREFIX:QUEUE               what BullMQ's keys begin with
-- KEYS[2]  mail:bullmq:PREFIX:QUEUE   what our keys about it begin with
-- KEYS[3]  mail:campaigns             SET of campaigns that aren't known to be complete
-- ARGV[1]  campaign   ARGV[2]  seconds for which its counts live
-- ARGV[3]  JSON [[subscriber, id of its failed job in BullMQ's queue, or empty], …]
--
-- Returns the places in that list, from 0, of those that have no result any more. A job is due at once; it and its
-- recipient's result are one step.
local campaign, seconds = ARGV[1], ARGV[2]
local counts = 'mail:counts:' .. campaign
local queue = open(KEYS[1], KEYS[2])
local reopened = {}

for place_in_list, item in ipairs(cjson.decode(ARGV[3])) do
  local mail, id = { campaign, item[1] }, item[2]
  if read_state(mail) == 'f' and (id == '' or (queue and redis.call('ZREM', QUEUE .. 'failed', id) == 1)) then
    if id ~= '' then
      redis.call('HDEL', QUEUE .. id, 'finishedOn', 'processedOn', 'failedReason', 'atm', 'ats')
      delay(id, REAL_MS, 0)
    end
    redis.call('HDEL', place(mail))
    count(mail, 'failed', -1, seconds)
    reopened[#reopened + 1] = place_in_list - 1
  end
end

if #reopened > 0 then
  -- Until the new results are there, the campaign isn't complete; and fewer failed than when it was resumed.
  redis.call('SADD', KEYS[3], campaign)
  local failed = redis.call('HMGET', counts, 'failed', 'failed_before')
  if failed[2] and tonumber(failed[1]) < tonumber(failed[2]) then
    redis.call('HSET', counts, 'failed_before', failed[1])
  end
end
return reopened
