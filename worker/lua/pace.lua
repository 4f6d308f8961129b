-- The account's speed and pauses. Behind clock.lua, in front of account.lua, which has the map of the keys.
--
-- The last argument of all: something that changes with the account's credentials.
local CREDENTIALS = ARGV[#ARGV]
local SLOWEST_INTERVAL_MS = 60000
local SAME_EPISODE_MS = 2000

local function number(field)
  return tonumber(redis.call('HGET', KEYS[1], field) or 0) or 0
end

local function slow_down(asked_ms, why)
  redis.call('HSET', KEYS[1], 'slow_asked_at', REAL_MS, 'slow_asked_why', why)
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
