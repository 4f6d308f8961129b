-- Reads whose mails the jobs of one of BullMQ's states are, a part at a time. Behind ids.lua.
--
-- KEYS[1]  PREFIX:QUEUE:STATE   LIST or ZSET of ids
-- ARGV[1]  campaign   ARGV[2]  ids that were looked at before   ARGV[3]  ids to look at, at the most
-- ARGV[4]  PREFIX:QUEUE:   ARGV[5]  bytes of jobs after which no further one is looked at
--
-- Returns {ids that were looked at (0: that was all), subscribers of the campaign, …}.
local kind = redis.call('TYPE', KEYS[1]).ok
local last = ARGV[2] + ARGV[3] - 1
local ids, from, step = {}, 1, 1
if kind == 'list' then
  -- From the tail: others take there, and add at the head.
  ids = redis.call('LRANGE', KEYS[1], -last - 1, -ARGV[2] - 1)
  from, step = #ids, -1
elseif kind == 'zset' then
  ids = redis.call('ZRANGE', KEYS[1], ARGV[2], last)
end
local function job_of(job)
  return job
end

local looked, bytes, answer = 0, 0, { 0 }
for i = from, #ids + 1 - from, step do
  local data = redis.call('HGET', ARGV[4] .. ids[i], 'data') or ''
  answer[#answer + 1] = recipient_at_a_glance(data, ARGV[1], job_of)
  looked, bytes = looked + 1, bytes + #data
  if bytes >= tonumber(ARGV[5]) then
    break
  end
end
answer[1] = looked
return answer
