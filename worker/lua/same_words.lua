-- Whose matter a refusal is that different recipients got in the same words. Behind pace.lua, in front of account.lua.
local SERIES_SECONDS = 900
local FEW_RECIPIENTS = 5
local MANY_RECIPIENTS = 20
local ANEW_AFTER = 50
local MOST_KNOWN = 2000
local DOUBT_MS = 30000

local function sent_of(campaign)
  return tonumber(redis.call('HGET', 'mail:counts:' .. campaign, 'sent') or 0) or 0
end

-- Since the first one of a series: mails that were accepted, of the campaigns in it.
local function accepted_in(campaigns)
  local sum = 0
  for campaign, before in pairs(campaigns) do
    sum = sum + math.max(sent_of(campaign) - before, 0)
  end
  return sum
end

-- Whose matter a refusal is. The account's, when recipients in five domains got the same words and no more mails were
-- accepted since the first of them; or twenty recipients, whatever their domains, and hardly a mail was. If mails of other
-- campaigns then get through, it was the campaign's. Where most mails are accepted, counting begins anew after fifty, so
-- that what changes all of a sudden shows at the fifth recipient, however many got their mail before.
local function judge(reply, first_ms, longest_ms, recipient, domain, campaign, others_accepted)
  local series = KEYS[5]
  local is_stopped = redis.call('HEXISTS', KEYS[1], 'stopped') == 1
  local stored = redis.call('HMGET', series, 'series', 'r:' .. recipient, 'known')
  local s = stored[1] and cjson.decode(stored[1])
  local before_ms, known = tonumber(stored[2]), tonumber(stored[3] or 0)
  local answer

  if s and s.told and is_stopped then
    stop(reply, first_ms, longest_ms, 'sending')
    answer = { 'account', unpack(s.told) }
  elseif s and s.told then
    -- Something was accepted since, or an operator has ended the pause.
    local only_one = true
    for other in pairs(s.campaigns) do
      only_one = only_one and other == campaign
    end
    if only_one and campaign ~= '' and s.at > number('resumed_at') and sent_of(campaign) == s.campaigns[campaign] then
      return { 'campaign', unpack(s.told) }
    end
    -- What was refused until then says nothing against anybody.
    redis.call('DEL', series)
    s, before_ms, known = nil, nil, 0
  elseif s then
    local accepted = accepted_in(s.campaigns)
    if s.recipients + accepted >= ANEW_AFTER and accepted > s.recipients then
      s = nil
    end
  end

  if not answer then
    s = s or { at = NOW_MS, recipients = 0, domains = {}, number_of_domains = 0, campaigns = {} }
    if not before_ms or before_ms < s.at then
      s.recipients = s.recipients + 1
    end
    if not s.domains[domain] and s.number_of_domains < FEW_RECIPIENTS then
      s.domains[domain] = 1
      s.number_of_domains = s.number_of_domains + 1
    end
    s.campaigns[campaign] = s.campaigns[campaign] or sent_of(campaign)
    local accepted = accepted_in(s.campaigns)
    local others = campaign == '' and others_accepted == '1'
    local few = s.number_of_domains >= FEW_RECIPIENTS and accepted <= s.recipients
    local many = s.recipients >= MANY_RECIPIENTS and accepted * 4 <= s.recipients
    if (few or many) and not others then
      s.told = { s.recipients, s.number_of_domains, math.max(math.ceil((NOW_MS - s.at) / 1000), 1), accepted, reply }
      stop(reply, first_ms, longest_ms, 'sending')
      slow_down(0, reply) -- It may be a rate, of which a part gets through.
      answer = { 'account', unpack(s.told) }
    elseif known >= MOST_KNOWN or (before_ms and NOW_MS - before_ms >= DOUBT_MS) then
      answer = { 'fail' }
    else
      answer = { 'again' }
    end
  end
  if not before_ms and known < MOST_KNOWN then
    redis.call('HSET', series, 'r:' .. recipient, NOW_MS, 'known', known + 1)
  end
  redis.call('HSET', series, 'series', cjson.encode(s))
  redis.call('EXPIRE', series, SERIES_SECONDS)
  return answer
end
