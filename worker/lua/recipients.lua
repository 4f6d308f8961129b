-- Reads whose mails a hash of messages holds, a part at a time, so that megabytes of HTML stay where they are.
--
-- KEYS[1]  a HASH id -> message
-- ARGV[1]  campaign   ARGV[2]  cursor, 0 at first   ARGV[3]  messages to look at, about
--
-- Returns {cursor (0: that was all), subscribers of the campaign, …}.
local part = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3])
local answer = { part[1] }
for i = 2, #part[2], 2 do
  local ok, message = pcall(cjson.decode, part[2][i])
  local job = ok and type(message) == 'table' and type(message.args) == 'table' and message.args[1]
  if type(job) == 'table' then
    local campaign, subscriber = job.campaignId or job.campaign_id, job.subscriberId or job.subscriber_id
    if type(campaign) == 'number' then
      campaign = string.format('%.0f', campaign)
    end
    if type(subscriber) == 'number' then
      subscriber = string.format('%.0f', subscriber)
    end
    if campaign == ARGV[1] and type(subscriber) == 'string' then
      answer[#answer + 1] = subscriber
    end
  end
end
return answer
