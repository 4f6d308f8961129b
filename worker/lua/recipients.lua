-- Reads whose mails a hash of messages holds, a part at a time, so that megabytes of HTML stay where they are.
--
-- KEYS[1]  a HASH id -> message
-- ARGV[1]  campaign   ARGV[2]  cursor, 0 at first   ARGV[3]  messages to look at, about
--
-- Returns {cursor (0: that was all), subscribers of the campaign, …}.
local part = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local answer = { part[1] }
for i = 2, #part[2], 2 do
  local message = decode(part[2][i])
  answer[#answer + 1] = recipient_of(type(message.args) == 'table' and message.args[1], ARGV[1])
end
return answer
