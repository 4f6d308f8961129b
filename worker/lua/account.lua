-- What a provider's reply means for a whole account, on all hosts at once.
--
-- KEYS[1]  mail:account:NAME              HASH (see claim.lua)
-- KEYS[2]  mail:account:NAME:connections  HASH process -> open connections
-- KEYS[3]  dramatiq:__heartbeats__        ZSET of living processes
-- KEYS[4]  mail:account:NAME:wanting      HASH process -> ms since when it has wanted a connection, `:`, and when it
--                                         asked last
-- ARGV[1]  what happened, and by that:
--   slow     ms that the provider asked for (0: it didn't say)     it wants less speed
--   stop     reason, ms of the first pause, of the longest, kind   it refuses the account: `login` or `sending`
--   resume   -                                                     an operator or a new start says: try now
--   connect  process, its open connections, the most for the fleet (0: no limit)
--   count    process, its open connections                         some were closed
--
-- Returns ms to wait: of `connect`, 0 when one more connection may be opened, -1 when it tells whether a refused login
-- works by now, -2 while the fleet has all that it may have, or others come first; of `stop`, until the next try.
local clock = redis.call('TIME')
local NOW_MS = clock[1] * 1000 + math.floor(clock[2] / 1000)
local SLOWEST_INTERVAL_MS = 60000
local SAME_EPISODE_MS = 2000
-- Who wants a connection asks every second.
local WANTING_MS = 3000

local function number(field)
  return tonumber(redis.call('HGET', KEYS[1], field) or 0) or 0
end

local happened = ARGV[1]
if happened == 'slow' then
  local asked_ms = tonumber(ARGV[2])
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
elseif happened == 'stop' then
  local pause_ms = number('pause_ms')
  local until_ms = number('stopped_until')
  if pause_ms == 0 then
    pause_ms = tonumber(ARGV[3])
    until_ms = NOW_MS + pause_ms
  elseif until_ms - NOW_MS < pause_ms and NOW_MS - number('stopped_at') > SAME_EPISODE_MS then
    pause_ms = math.min(pause_ms * 2, tonumber(ARGV[4]))
    until_ms = NOW_MS + pause_ms
  end
  redis.call('HSET', KEYS[1], 'stopped', ARGV[2], 'stopped_kind', ARGV[5], 'stopped_until', until_ms,
    'pause_ms', pause_ms, 'stopped_at', NOW_MS)
  return math.max(until_ms - NOW_MS, 0)
elseif happened == 'resume' then
  redis.call('HDEL', KEYS[1], 'stopped', 'stopped_kind', 'stopped_until', 'pause_ms', 'hold_until', 'interval_ms',
    'slowed_at')
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
