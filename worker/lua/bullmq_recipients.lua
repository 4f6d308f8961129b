-- Reads whose mails the jobs of one of BullMQ's states are, a part at a time.
--
-- KEYS[1]  PREFIX:QUEUE:STATE   LIST or ZSET of ids
-- ARGV[1]  campaign   ARGV[2]  ids that were looked at before   ARGV[3]  ids to look at   ARGV[4]  PREFIX:QUEUE:
--
-- Returns {ids that were looked at (0: that was all), subscribers of the campaign, …}.
local kind = redis.call('TYPE', KEYS[1]).ok
local last = ARGV[2] + ARGV[3] - 1
local ids = {}
if kind == 'list' then
  -- From the tail: others take there, and add at the head.
  ids = redis.call('LRANGE', KEYS[1], -last - 1, -ARGV[2] - 1)
elseif kind == 'zset' then
  ids = redis.call('ZRANGE', KEYS[1], ARGV[2], last)
end
local answer = { #ids }
for _, id in ipairs(ids) do
  answer[#answer + 1] = recipient_of(decode(redis.call('HGET', ARGV[4] .. id, 'data') or ''), ARGV[1])
end
return answer
