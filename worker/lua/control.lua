-- What an operator does with a campaign, or the worker with one that goes wrong.
--
-- KEYS[12]  mail:campaigns   SET of campaigns that aren't known to be complete
-- KEYS[13]  PREFIX:QUEUE     what BullMQ's keys begin with (see bullmq.lua)
-- KEYS[14]  mail:bullmq:PREFIX:QUEUE   what our keys about it begin with
-- KEYS[15]  mail:control:idle   ZSET campaign -> ms since when nothing else is known of it (see forget_control.lua)
-- ARGV[1]   pause | fault | resume | cancel | priority | unpark   ARGV[2]  campaign
-- ARGV[3]   the reason to pause or cancel; what is wrong with a job, of fault; the sender of jobs that name none that can
--           be read, or empty, of resume; the priority: high | normal | low
-- ARGV[4]   messages to drop at once, of cancel; BullMQ's jobs to bring back at once, of unpark; subscriber, of fault;
--           seconds for which the campaign's counts live, of resume
-- ARGV[5]   those seconds, of fault   ARGV[6]  what is the same in such jobs, of fault
-- ARGV[7]   1 if no job alone can be wrong in this way, of fault
--
-- In mail:counts:CAMPAIGN, besides the counts (see states.lua):
--   fault   JSON of the jobs that were wrong in the same way of late: at (ms), sent (mails until then), words, who
--           (some of their subscribers)
--   from    the sender of jobs whose own can't be read
--
-- Returns 1 when it changed something, of resume 2 when it took a cancel back; of cancel, the number of messages that
-- were dropped, of unpark that of jobs that are due again: call it until it's 0. Of fault, a list: ms after which the job
-- is to come back, 0 when its campaign is paused, -1 when it's at fault alone; 1 if it was paused just now; the sender.
local action, campaign = ARGV[1], ARGV[2]
local counts = 'mail:counts:' .. campaign
local AGAIN_MS = 5000
local NOT_YET_MS = 2000
local AMONG_SENT_MS = 10000
local ALONE_MS = 20000
local SERIES_MS = 300000

-- Whether all jobs of the campaign are wrong: `yes`, `no`, or nobody can say yet. While nothing of it is sent, three of
-- three are enough, or one for which no other comes along. When mails of it were sent, others have to be as wrong while
-- none is sent any more; but it needs no others where no job alone can be wrong so.
local function in_all_jobs(words, subscriber)
  local known = redis.call('HMGET', counts, 'sent', 'fault')
  local sent, fault = tonumber(known[1]) or 0, known[2] and cjson.decode(known[2])
  if not fault or NOW_MS - fault.at > SERIES_MS then
    fault = { at = NOW_MS, sent = sent }
  end
  if fault.words ~= words then
    fault.words, fault.who = words, {}
  end
  local new = #fault.who < 5
  for _, one in ipairs(fault.who) do
    new = new and one ~= subscriber
  end
  if new then
    fault.who[#fault.who + 1] = subscriber
  end
  redis.call('HSET', counts, 'fault', cjson.encode(fault))
  redis.call('EXPIRE', counts, ARGV[5])
  local age_ms, others = NOW_MS - fault.at, #fault.who
  if sent == 0 then
    return ((others >= 3 and age_ms >= NOT_YET_MS) or age_ms >= ALONE_MS) and 'yes'
  elseif ARGV[7] == '1' then
    return age_ms >= AMONG_SENT_MS and 'yes'
  elseif sent > fault.sent then
    return 'no'
  elseif age_ms >= AMONG_SENT_MS then
    return others >= 5 and 'yes' or 'no'
  end
end

redis.call('ZREM', KEYS[15], campaign)
if action == 'fault' then
  local sender = redis.call('HGET', counts, 'from') or ''
  local state = redis.call('HGET', CONTROL, campaign)
  if state then
    -- Of a cancelled campaign it's dropped when it comes back.
    return { string.sub(state, 1, 6) == 'paused' and 0 or AGAIN_MS, 0, sender }
  end
  local all = in_all_jobs(ARGV[6], ARGV[4])
  if all == 'yes' then
    redis.call('HSET', CONTROL, campaign, 'paused:' .. ARGV[3])
    leave(campaign)
    return { 0, 1, sender }
  end
  return { all == 'no' and -1 or AGAIN_MS, 0, sender }
elseif action == 'pause' then
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
  redis.call('HDEL', counts, 'fault')
  if ARGV[3] ~= '' then
    redis.call('HSET', counts, 'from', ARGV[3])
  end
  redis.call('EXPIRE', counts, ARGV[4])
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
    redis.call('EXPIRE', counts, COUNTS_SECONDS)
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
