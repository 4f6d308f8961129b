-- Reads whose mails a hash of messages holds, a part at a time, so that megabytes of HTML stay where they are. Behind
-- ids.lua.
--
-- KEYS[1]  a HASH id -> message
-- ARGV[1]  campaign   ARGV[2]  cursor, 0 at first   ARGV[3]  messages to look at, about
--
-- Returns {cursor (0: that was all), bytes that were looked at, subscribers of the campaign, …}.
local function job_of(message)
  return type(message.args) == 'table' and message.args[1]
end

local part = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local bytes, answer = 0, { part[1], 0 }
for i = 2, #part[2], 2 do
  bytes = bytes + #part[2][i]
  answer[#answer + 1] = recipient_at_a_glance(part[2][i], ARGV[1], job_of)
end
answer[2] = bytes
return answer
