-- What an operator does with a campaign, or the worker with one that goes wrong.
--
-- KEYS[12]  mail:campaigns   SET of campaigns that aren't known to be complete
-- KEYS[13]  PREFIX:QUEUE     what BullMQ's keys begin with (see bullmq.lua)
-- KEYS[14]  mail:bullmq:PREFIX:QUEUE   what our keys about it begin with
-- ARGV[1]   pause | resume | cancel | priority | unpark   ARGV[2]  campaign
-- ARGV[3]   the reason to pause or cancel; the priority: high | normal | low
-- ARGV[4]   messages to drop at once, of cancel; BullMQ's jobs to bring back at once, of unpark
--
-- Returns 1 when it changed something, of resume 2 when it took a cancel back; of cancel, the number of messages that
-- were dropped, of unpark that of jobs that are due again: call it until it's 0.
local action, campaign = ARGV[1], ARGV[2]
local counts = 'mail:counts:' .. campaign
if action == 'pause' then
  local changed = redis.call('HSETNX', CONTROL, campaign, 'paused:' .. ARGV[3])
  leave(campaign)
  return changed
elseif action == 'resume' then
  local state = redis.call('HGET', CONTROL, campaign)
  if not state then
    return 0
  end
  redis.call('HDEL', CONTROL, campaign)
  if string.sub(state, 1, 6) ~= 'paused' then
    -- Not one that nobody has seen yet: its id may have been wrong.
    if redis.call('EXISTS', counts, 'mail:ledger:' .. campaign) > 0 then
      redis.call('SADD', KEYS[12], campaign)
    end
    return 2
  end
  -- What failed until now doesn't pause it once more.
  local before = redis.call('HMGET', counts, 'failed', 'sent')
  redis.call('HSET', counts, 'failed_before', before[1] or 0, 'sent_before', before[2] or 0)
  enter(campaign)
  nudge(campaign)
  return 1
elseif action == 'cancel' then
  redis.call('HSET', CONTROL, campaign, 'cancelled:' .. ARGV[3])
  redis.call('SREM', KEYS[12], campaign)
  leave(campaign)
  local dropped = 0
  for _, id in ipairs(redis.call('LPOP', 'mail:lane:' .. campaign, ARGV[4]) or {}) do
    dropped = dropped + redis.call('HDEL', MESSAGES, id)
  end
  if dropped > 0 then
    redis.call('HINCRBY', counts, 'cancelled', dropped)
  end
  return dropped
elseif action == 'unpark' then
  return open(KEYS[13], KEYS[14]) and unpark(campaign, ARGV[4]) or 0
elseif action == 'priority' then
  local waits = false
  for _, class in ipairs(CLASSES) do
    waits = redis.call('ZSCORE', LANES .. ':' .. class, campaign) or waits
  end
  leave(campaign)
  if ARGV[3] == 'normal' then
    redis.call('HDEL', PRIORITIES, campaign)
  else
    redis.call('HSET', PRIORITIES, campaign, ARGV[3])
  end
  if waits then
    enter(campaign)
  end
  return 1
end
