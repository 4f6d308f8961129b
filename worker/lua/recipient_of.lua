-- Whose mail a job is, as reconciling looks for it. In front of recipients.lua and bullmq_recipients.lua.

-- Returns the job's subscriber if it's of this campaign.
local function recipient_of(job, wanted)
  if type(job) ~= 'table' then
    return nil
  end
  local campaign, subscriber = job.campaignId or job.campaign_id, job.subscriberId or job.subscriber_id
  if type(campaign) == 'number' then
    campaign = string.format('%.0f', campaign)
  end
  if type(subscriber) == 'number' then
    subscriber = string.format('%.0f', subscriber)
  end
  return campaign == wanted and type(subscriber) == 'string' and subscriber or nil
end
