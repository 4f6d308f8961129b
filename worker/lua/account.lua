-- What a provider's reply means for a whole account, on all hosts at once; and who may open a connection.
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
--   slow     ms that the provider asked for (0: it didn't say), its words   it wants less speed
--   strained its words                                             it had trouble with one recipient (451)
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
--
-- Behind pace.lua and same_words.lua.

-- Who wants a connection asks twice a second.
local WANTING_MS = 3000
local STRAINED_FROM = 10

local happened = ARGV[1]
if happened == 'slow' then
  slow_down(tonumber(ARGV[2]), ARGV[3])
elseif happened == 'strained' then
  local period = math.floor(NOW_MS / 10000)
  if number('strained_period') ~= period then
    redis.call('HSET', KEYS[1], 'strained_period', period, 'strained', 0)
  end
  local strained = redis.call('HINCRBY', KEYS[1], 'strained', 1)
  if strained >= STRAINED_FROM and strained * 5 > number('granted') + number('granted_before') then
    slow_down(0, ARGV[2])
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
