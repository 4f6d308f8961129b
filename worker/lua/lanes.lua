-- Shared by fetch, beat, settle and control: where messages wait. Stands in front of each of them, behind clock.lua and
-- ids.lua.
--
-- Dramatiq's own keys; producers that know Dramatiq alone work unchanged:
-- KEYS[1]   dramatiq:mail             LIST of ids in the order in which producers queued them
-- KEYS[2]   dramatiq:mail.msgs        HASH id -> message
-- KEYS[3]   dramatiq:mail.DQ          LIST of ids of messages that a producer delayed
-- KEYS[4]   dramatiq:mail.DQ.msgs     HASH id -> message
-- KEYS[5]   dramatiq:mail.XQ          ZSET of dead ids by time in ms
-- KEYS[6]   dramatiq:mail.XQ.msgs     HASH id -> message
-- and this package's:
-- KEYS[7]   mail:alive                ZSET of processes by the ms of their last sign of life
-- KEYS[8]   mail:due                  ZSET of delayed ids by the time in ms at which they are due
-- KEYS[9]   mail:lanes                prefix of the ZSETs :high, :normal, :low of campaigns by messages taken
-- KEYS[10]  mail:control              HASH campaign -> paused:REASON | cancelled:REASON
-- KEYS[11]  mail:priorities           HASH campaign -> high | low
-- Made of names that are found on the way:
--   mail:lane:CAMPAIGN  LIST of ids;  mail:counts:CAMPAIGN  HASH;  mail:dead:ID  STRING, a dead letter's reason
local WAITING, MESSAGES, DELAYED, DELAYED_MESSAGES = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local DEAD, DEAD_MESSAGES, ALIVE = KEYS[5], KEYS[6], KEYS[7]
local DUE, LANES, CONTROL, PRIORITIES = KEYS[8], KEYS[9], KEYS[10], KEYS[11]
local CLASSES = { 'high', 'normal', 'low' }
-- As worker/queue/producer.py has it: a process would have to hold several copies of it at a time.
local MAX_MESSAGE_BYTES = 8000000
-- As worker/ledger/ledger.py has it (LEDGER_SECONDS).
local COUNTS_SECONDS = 30 * 86400
local DEAD_LETTER_SECONDS = 7 * 86400
-- What one call looks at, so that Redis serves others in between.
local SORT_BYTES = 3000000
local LATEST = 100
local LATEST_BYTES = 1500000
local SINGLE_BYTES = 100000
local PROMOTE_BYTES = 2000000
-- At a message's end, where Dramatiq writes its options.
local OPTIONS_BYTES = 4000
-- No process that rests (rest.lua) would hear of what is delayed by Dramatiq's own means.
local AWAKE_FOR_DELAYS = 'mail:awake:delays'
local AWAKE_FOR_DELAYS_SECONDS = 7 * 86400

local function bury(id, messages, reason)
  local data = redis.call('HGET', messages, id)
  if data then
    redis.call('ZADD', DEAD, REAL_MS, id)
    redis.call('HSET', DEAD_MESSAGES, id, data)
    redis.call('SET', 'mail:dead:' .. id, reason, 'EX', DEAD_LETTER_SECONDS)
    redis.call('HDEL', messages, id)
  end
end

-- A message's campaign; empty for a mail outside any.
local function lane_of(data)
  local message = decode(data)
  return campaign_of(type(message.args) == 'table' and message.args[1]) or ''
end

-- The same without reading all of a mail's HTML, where the text tells.
local function lane_at_a_glance(data)
  return glance(data, CAMPAIGN_NAMES) or lane_of(data)
end

local function lanes_of(campaign)
  -- Mails outside any campaign are those that somebody waits for: a password reset, a receipt.
  local class = campaign == '' and 'high' or redis.call('HGET', PRIORITIES, campaign) or 'normal'
  return LANES .. ':' .. class
end

-- Puts a lane into the rotation, as well served as the least served one.
local function enter(campaign)
  local lanes = lanes_of(campaign)
  if not redis.call('ZSCORE', lanes, campaign) then
    redis.call('ZADD', lanes, redis.call('ZRANGE', lanes, 0, 0, 'WITHSCORES')[2] or 0, campaign)
  end
end

local function leave(campaign)
  for _, class in ipairs(CLASSES) do
    redis.call('ZREM', LANES .. ':' .. class, campaign)
  end
end

-- Puts a waiting message into its campaign's lane: at the head if it was delayed, and so has waited before. Returns the
-- bytes that it looked at.
local function sort(id)
  local size = redis.call('HSTRLEN', MESSAGES, id)
  if size == 0 then
    return 0
  end
  if size > MAX_MESSAGE_BYTES then
    bury(id, MESSAGES, string.format('the message has %.0f bytes; at most %.0f are sent', size, MAX_MESSAGE_BYTES))
    return 0
  end
  local data = redis.call('HGET', MESSAGES, id)
  local campaign = lane_at_a_glance(data)
  local state = redis.call('HGET', CONTROL, campaign)
  if state and string.sub(state, 1, 9) == 'cancelled' and lane_of(data) == campaign then
    redis.call('HDEL', MESSAGES, id)
    redis.call('HINCRBY', 'mail:counts:' .. campaign, 'cancelled', 1)
    redis.call('EXPIRE', 'mail:counts:' .. campaign, COUNTS_SECONDS)
    return size
  end
  local delayed = string.find(string.sub(data, -OPTIONS_BYTES), '"eta"', 1, true)
  redis.call(delayed and 'LPUSH' or 'RPUSH', 'mail:lane:' .. campaign, id)
  if not state then
    enter(campaign)
  end
  return size
end

-- Mails outside any campaign are taken from the end too: nobody waits for a campaign's thousands in front of them.
local function sort_latest(most)
  local ids, bytes, singles = redis.call('LRANGE', WAITING, -most, -1), 0, {}
  for i = #ids, 1, -1 do
    local size = redis.call('HSTRLEN', MESSAGES, ids[i])
    if size > 0 and size <= SINGLE_BYTES then
      bytes = bytes + size
      if bytes > LATEST_BYTES then
        break
      end
      if lane_at_a_glance(redis.call('HGET', MESSAGES, ids[i])) == '' then
        singles[#singles + 1] = ids[i]
      end
    end
  end
  for i = #singles, 1, -1 do
    redis.call('LREM', WAITING, -1, singles[i])
    sort(singles[i])
  end
end

-- Sorts waiting messages into their lanes, the oldest first.
local function sort_some(most)
  local bytes = 0
  while most > 0 and bytes < SORT_BYTES do
    local ids = redis.call('LPOP', WAITING, math.min(most, 50))
    if not ids then
      return
    end
    local sorted = 0
    while sorted < #ids and bytes < SORT_BYTES do
      sorted = sorted + 1
      bytes = bytes + sort(ids[sorted])
    end
    for i = #ids, sorted + 1, -1 do
      redis.call('LPUSH', WAITING, ids[i])
    end
    most = most - #ids
  end
  sort_latest(LATEST)
end

-- Moves messages that are due to the head of the waiting ones, where they also wake an idle process.
-- Returns the ms until the next one is due, or an empty string.
local function promote()
  if redis.call('EXISTS', DELAYED, DUE) == 0 then
    return ''
  end
  local bytes = 0
  for number = 1, 100 do
    local id = bytes < PROMOTE_BYTES and redis.call('LPOP', DELAYED)
    if not id then
      break
    end
    if number == 1 then
      redis.call('SET', AWAKE_FOR_DELAYS, '1', 'EX', AWAKE_FOR_DELAYS_SECONDS)
    end
    local data = redis.call('HGET', DELAYED_MESSAGES, id)
    if data then
      bytes = bytes + #data
      local options = decode(data).options
      local eta = type(options) == 'table' and tonumber(options.eta)
      -- Not a number, infinite, or so late that it overflows: now.
      redis.call('ZADD', DUE, eta and eta > 0 and eta < 1e15 and eta + NOW_MS - REAL_MS or NOW_MS, id)
    end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', NOW_MS, 'LIMIT', 0, 100)) do
    if bytes >= PROMOTE_BYTES then
      break
    end
    redis.call('ZREM', DUE, id)
    local data = redis.call('HGET', DELAYED_MESSAGES, id)
    if data then
      bytes = bytes + #data
      redis.call('HSET', MESSAGES, id, data)
      redis.call('HDEL', DELAYED_MESSAGES, id)
      redis.call('LPUSH', WAITING, id)
    end
  end
  local next_due = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
  return next_due and math.max(math.ceil(next_due - NOW_MS), 0) or ''
end

-- Takes a lane's first messages back to the waiting ones, which wakes as many idle processes.
local function nudge(campaign)
  local ids = redis.call('LPOP', 'mail:lane:' .. campaign, 100) or {}
  if #ids > 0 then
    redis.call('RPUSH', WAITING, unpack(ids))
  end
end
