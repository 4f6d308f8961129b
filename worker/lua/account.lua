-- What a provider's reply means for a whole account, on all hosts at once.
--
-- KEYS[1]  mail:account:NAME              HASH (see claim.lua)
-- KEYS[2]  mail:account:NAME:connections  HASH process -> open connections
-- KEYS[3]  mail:alive                     ZSET of living processes
-- KEYS[4]  mail:account:NAME:wanting      HASH process -> ms since when it has wanted a connection, `:`, and when it
--                                         asked last
-- KEYS[5]  mail:account:NAME:words:DIGEST HASH about one reply that different recipients got, for some minutes, of `same`:
--          r:DIGEST (ms of a recipient's first one), known (how many of these), series (JSON: at, recipients, domains
--          (some digests), number_of_domains, campaigns (id -> mails sent until then), told (what was said when the
--          account was paused for it))
-- ARGV[1]  what happened, and by that:
--   slow     ms that the provider asked for (0: it didn't say)     it wants less speed
--   strained -                                                     it had trouble with one recipient (451)
--   stop     reason, ms of the first pause, of the longest, kind   it refuses the account: `login` or `sending`
--   same     reply, ms of the first pause, of the longest, recipient, domain, campaign, others accepted (0 or 1)
--                                                                  it refused a recipient in words that may mean all
--   resume   -                                                     an operator says: try now
--   begin    -                                                     a process starts; if it has other credentials than
--                                                                  those that were refused, likewise
--   connect  process, its open connections, the most for the fleet (0: no limit)
--   count    process, its open connections                         some were closed
--
-- Returns ms to wait: of `connect`, 0 when one more connection may be opened, -1 when it tells whether a refused login
-- works by now, -2 while the fleet has all that it may have, or others come first; of `stop`, until the next try. Of
-- `same` a list: fail, again, account or campaign, and the last two with recipients, domains, seconds, mails that were
-- accepted, and the reply, as they were when the account was paused.
-- The last argument of all: something that changes with the account's credentials.
local CREDENTIALS = ARGV[#ARGV]
local SLOWEST_INTERVAL_MS = 60000
local SAME_EPISODE_MS = 2000
-- Who wants a connection asks twice a second.
local WANTING_MS = 3000
local STRAINED_FROM = 10
local SERIES_SECONDS = 900
local FEW_RECIPIENTS = 5
local MANY_RECIPIENTS = 20
local ANEW_AFTER = 50
local MOST_KNOWN = 2000
local DOUBT_MS = 30000

local function number(field)
  return tonumber(redis.call('HGET', KEYS[1], field) or 0) or 0
end

local function slow_down(asked_ms)
  redis.call('HSET', KEYS[1], 'hold_until', math.max(number('hold_until'), NOW_MS + math.max(asked_ms, 1000)))
  -- All mails in flight bring the same news: only the first one counts.
  if NOW_MS - number('slowed_at') > SAME_EPISODE_MS or number('interval_ms') == 0 then
    local interval_ms = number('interval_ms') * 2
    if interval_ms == 0 then
      -- Half the speed of late.
      local counted_ms = math.min(10000 + NOW_MS % 10000, math.max(NOW_MS - number('busy_since'), 500))
      local granted = number('granted') + number('granted_before')
      interval_ms = 2 * counted_ms / math.max(granted, 1)
    end
    interval_ms = math.min(math.max(interval_ms, 10), SLOWEST_INTERVAL_MS)
    redis.call('HSET', KEYS[1], 'interval_ms', interval_ms, 'slowed_at', NOW_MS)
  end
end

local function stop(reason, first_ms, longest_ms, kind)
  local pause_ms = number('pause_ms')
  local until_ms = number('stopped_until')
  if pause_ms == 0 then
    pause_ms = tonumber(first_ms)
    until_ms = NOW_MS + pause_ms
  elseif until_ms - NOW_MS < pause_ms and NOW_MS - number('stopped_at') > SAME_EPISODE_MS then
    pause_ms = math.min(pause_ms * 2, tonumber(longest_ms))
    until_ms = NOW_MS + pause_ms
  end
  redis.call('HSET', KEYS[1], 'stopped', reason, 'stopped_kind', kind, 'stopped_until', until_ms,
    'pause_ms', pause_ms, 'stopped_at', NOW_MS, 'stopped_with', CREDENTIALS)
  return math.max(until_ms - NOW_MS, 0)
end

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
      slow_down(0) -- It may be a rate, of which a part gets through.
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

local happened = ARGV[1]
if happened == 'slow' then
  slow_down(tonumber(ARGV[2]))
elseif happened == 'strained' then
  local period = math.floor(NOW_MS / 10000)
  if number('strained_period') ~= period then
    redis.call('HSET', KEYS[1], 'strained_period', period, 'strained', 0)
  end
  local strained = redis.call('HINCRBY', KEYS[1], 'strained', 1)
  if strained >= STRAINED_FROM and strained * 5 > number('granted') + number('granted_before') then
    slow_down(0)
  end
elseif happened == 'same' then
  return judge(unpack(ARGV, 2))
elseif happened == 'stop' then
  return stop(ARGV[2], ARGV[3], ARGV[4], ARGV[5])
elseif happened == 'resume'
  or (happened == 'begin' and (redis.call('HGET', KEYS[1], 'stopped_with') or CREDENTIALS) ~= CREDENTIALS) then
  redis.call('HDEL', KEYS[1], 'stopped', 'stopped_kind', 'stopped_until', 'pause_ms', 'hold_until', 'interval_ms',
    'slowed_at', 'stopped_with')
  redis.call('HSET', KEYS[1], 'resumed_at', NOW_MS)
elseif happened == 'connect' then
  local answer = 0
  local until_ms = number('stopped_until')
  if redis.call('HEXISTS', KEYS[1], 'stopped') == 1 then
    if NOW_MS < until_ms then
      return until_ms - NOW_MS
    end
    if redis.call('HGET', KEYS[1], 'stopped_kind') == 'login' then
      -- One process tries; the others wait for what comes of it.
      redis.call('HSET', KEYS[1], 'stopped_until', NOW_MS + number('pause_ms'))
      answer = -1
    end
  end
  local most, open = tonumber(ARGV[4]), tonumber(ARGV[3])
  if most > 0 then
    local all, has = open, {}
    local counts = redis.call('HGETALL', KEYS[2])
    for i = 1, #counts, 2 do
      if not redis.call('ZSCORE', KEYS[3], counts[i]) then
        redis.call('HDEL', KEYS[2], counts[i])
      elseif counts[i] ~= ARGV[2] then
        has[counts[i]] = tonumber(counts[i + 1])
        all = all + counts[i + 1]
      end
    end
    -- Those with fewer connections come first, and among equals those who have wanted one for longer: otherwise whoever
    -- replaces its connections would keep them all.
    local since_ms, ahead, others = NOW_MS, 0, {}
    local wanting = redis.call('HGETALL', KEYS[4])
    for i = 1, #wanting, 2 do
      local since, asked = string.match(wanting[i + 1], '^(%d+):(%d+)$')
      since, asked = tonumber(since), tonumber(asked)
      if NOW_MS - asked > WANTING_MS then
        redis.call('HDEL', KEYS[4], wanting[i])
      elseif wanting[i] == ARGV[2] then
        since_ms = since
      else
        others[wanting[i]] = since
      end
    end
    for process, since in pairs(others) do
      local theirs = has[process] or 0
      if theirs < open or (theirs == open and (since < since_ms or (since == since_ms and process < ARGV[2]))) then
        ahead = ahead + 1
      end
    end
    if all + ahead >= most then
      redis.call('HSET', KEYS[4], ARGV[2], string.format('%.0f:%.0f', since_ms, NOW_MS))
      redis.call('PEXPIRE', KEYS[4], WANTING_MS)
      return -2
    end
    redis.call('HDEL', KEYS[4], ARGV[2])
    redis.call('HSET', KEYS[2], ARGV[2], open + 1)
  end
  return answer
elseif happened == 'count' then
  if ARGV[3] == '0' then
    redis.call('HDEL', KEYS[2], ARGV[2])
  else
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
  end
end
return 0
