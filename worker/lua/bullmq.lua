-- Shared by all scripts that touch the web app's BullMQ queue: its layout as the majors 5 and 6 have it in common.
-- Stands behind clock.lua, and in front of the script that uses it.
--
-- BullMQ's own keys, all with `PREFIX:QUEUE:` in front:
--   ID           HASH name data opts timestamp delay priority; processedOn ats pb atm stc finishedOn returnvalue
--                failedReason stacktrace defa; where used parentKey parent deid rjk
--   wait         LIST, the next one at its tail       active  LIST, those that are taken
--   prioritized  ZSET by priority * 2^32 + counter    delayed ZSET by ms * 4096 + n
--   completed, failed  ZSET by ms                     marker  ZSET 0 -> 0: there's work; 1 -> ms of the next delayed
--   ID:lock      STRING token of who has taken it     events  STREAM
--   meta         HASH paused concurrency max duration opts.maxLenEvents version
--   limiter pc stalled stalled-check de:ID dn:ID
-- and this package's, with `mail:bullmq:PREFIX:QUEUE:` in front:
--   taken:PROCESS    HASH id -> JSON of the ledger's mail once it's claimed, or empty
--   orphans          LIST of ids that a dead process had taken: locked, for the next one that fetches
--   parked:CAMPAIGN  SET of ids that wait in `delayed` until the campaign is resumed
--   ear              STRING the process that listens for new jobs, a lease
--   state            HASH since (ms: who was here before may have sent older jobs), seen (ms: these workers were here),
--                    turn, foreign (jobs at the head that are left where they stand), left (all that stood there then)
-- On a job's hash, for the next time that it's taken: mail:again (it failed for good), mail:slow (slow-downs so far),
-- mail:lost (lost replies), mail:suspect (another worker took it and never finished); and mail:held (it waits for an
-- operator, and is kept).
--
-- On a queue that is paused neither `wait` nor `paused` is written: BullMQ 5 renames one over the other, 6 doesn't.
-- What goes back goes to `delayed`, due now, which both leave alone.
local QUEUE, OWN
local LOCK_MS = 300000
local PAST_ALL_MS = 10 * 365 * 86400000
local TOKEN_PREFIX = 'mail-worker:'
local ORPHAN_TOKEN = TOKEN_PREFIX .. 'orphan'
local MAX_STALLED = 1
local MAX_REASONS = 10
local TRIM_AT_ONCE = 300
-- Stands among the waiting messages' ids to wake an idle process; worker/base/keys.py has it too.
local WAKE = '-'
local STALLED_EVERY_MS = 30000
local max_events = nil

-- Says which queue it is; false if there's none (worker/base/keys.py says how that is told).
local function open(queue, own)
  if queue == '' or queue == own then
    return false
  end
  QUEUE, OWN = queue .. ':', own .. ':'
  return true
end

local function ms(number)
  return string.format('%.0f', number)
end

local function token_of(process)
  return TOKEN_PREFIX .. process
end

local function taken_by(process)
  return OWN .. 'taken:' .. process
end

local function emit(event, id, ...)
  if not max_events then
    max_events = redis.call('HGET', QUEUE .. 'meta', 'opts.maxLenEvents')
    if not max_events then
      max_events = '10000'
      redis.call('HSET', QUEUE .. 'meta', 'opts.maxLenEvents', max_events)
    end
  end
  redis.call('XADD', QUEUE .. 'events', 'MAXLEN', '~', max_events, '*', 'event', event, 'jobId', id, ...)
end

-- Asked once: no script of ours pauses a queue.
local is_paused
local function paused()
  if is_paused == nil then
    is_paused = redis.call('HEXISTS', QUEUE .. 'meta', 'paused') == 1
  end
  return is_paused
end

-- How many jobs may be taken now, and the ms until more may be if that's the limiter's matter.
local function room()
  local meta = redis.call('HMGET', QUEUE .. 'meta', 'paused', 'concurrency', 'max')
  if meta[1] then
    return 0
  end
  local free = math.huge
  if tonumber(meta[2]) then
    free = math.max(meta[2] - redis.call('LLEN', QUEUE .. 'active'), 0)
  end
  if tonumber(meta[3]) then
    local left = meta[3] - (redis.call('GET', QUEUE .. 'limiter') or 0)
    local wait_ms = redis.call('PTTL', QUEUE .. 'limiter')
    if wait_ms == 0 then
      redis.call('DEL', QUEUE .. 'limiter')
    elseif left <= 0 and wait_ms > 0 then
      return 0, wait_ms
    elseif left > 0 then
      free = math.min(free, left)
    end
  end
  return free
end

local function prioritize(id, priority)
  local counter = redis.call('INCR', QUEUE .. 'pc')
  redis.call('ZADD', QUEUE .. 'prioritized', priority * 4294967296 + counter % 4294967296, id)
end

-- Puts a job into `delayed`. Several of the same ms keep their order.
local function delay(id, due_ms, shown_ms)
  local least, most = due_ms * 4096, (due_ms + 1) * 4096 - 1
  local last = redis.call('ZREVRANGEBYSCORE', QUEUE .. 'delayed', most, least, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  redis.call('ZADD', QUEUE .. 'delayed', ms(last and math.min(last + 1, most) or least), id)
  redis.call('HSET', QUEUE .. id, 'delay', ms(shown_ms))
  emit('delayed', id, 'delay', ms(due_ms))
  local first = redis.call('ZRANGE', QUEUE .. 'delayed', 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', QUEUE .. 'marker', first / 4096, '1')
end

-- Moves jobs that are due to the waiting ones, as BullMQ does; not on a paused queue. Returns ms until the next one.
local function promote_jobs()
  if redis.call('EXISTS', QUEUE .. 'delayed') == 0 or paused() then
    return nil
  end
  local due = (REAL_MS + 1) * 4096 - 1
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', QUEUE .. 'delayed', 0, due, 'LIMIT', 0, 500)) do
    redis.call('ZREM', QUEUE .. 'delayed', id)
    if redis.call('EXISTS', QUEUE .. id) == 1 then
      local priority = tonumber(redis.call('HGET', QUEUE .. id, 'priority')) or 0
      if priority == 0 then
        redis.call('LPUSH', QUEUE .. 'wait', id)
      else
        prioritize(id, priority)
      end
      emit('waiting', id, 'prev', 'delayed')
      redis.call('HSET', QUEUE .. id, 'delay', 0)
      redis.call('ZADD', QUEUE .. 'marker', 0, '0')
    end
  end
  local first = redis.call('ZRANGE', QUEUE .. 'delayed', 0, 0, 'WITHSCORES')[2]
  return first and math.max(math.floor(first / 4096) - REAL_MS, 0)
end

-- Ends a process's hold of a job, which was queued at `timestamp`. False if it isn't the process's any more, or is gone;
-- another one of the same id, queued after an `obliterate`, is left alone.
local function release(id, process, timestamp)
  local stored = redis.call('HGET', QUEUE .. id, 'timestamp')
  if stored and timestamp and stored ~= timestamp then
    return false
  end
  redis.call('HDEL', taken_by(process), id)
  local lock = QUEUE .. id .. ':lock'
  local mine = redis.call('GET', lock) == token_of(process)
  if mine then
    redis.call('DEL', lock)
    redis.call('SREM', QUEUE .. 'stalled', id)
  end
  return mine and redis.call('LREM', QUEUE .. 'active', -1, id) > 0 and redis.call('EXISTS', QUEUE .. id) == 1
end

local function remove(id)
  local job = QUEUE .. id
  redis.call('DEL', job, job .. ':logs', job .. ':dependencies', job .. ':processed', job .. ':failed',
    job .. ':unsuccessful')
end

-- What a job did that was added meanwhile and had to wait for this one: deduplication's keepLastIfActive.
local function queue_next_of(deduplication)
  local key = QUEUE .. 'dn:' .. deduplication
  local stored = redis.call('HMGET', key, 'name', 'data', 'opts', 'jid')
  if not stored[1] then
    return
  end
  redis.call('DEL', key)
  local counted = ms(redis.call('INCR', QUEUE .. 'id'))
  local id = stored[4] or counted
  local ok, opts = pcall(cjson.decode, stored[3] or '')
  opts = ok and type(opts) == 'table' and opts or {}
  local wait_ms = tonumber(opts.delay) or 0
  redis.call('SET', QUEUE .. 'de:' .. deduplication, id)
  redis.call('HSET', QUEUE .. id, 'name', stored[1], 'data', stored[2] or '', 'opts', stored[3] or '{}',
    'timestamp', ms(REAL_MS), 'delay', ms(wait_ms), 'priority', ms(tonumber(opts.priority) or 0), 'deid', deduplication)
  emit('added', id, 'name', stored[1])
  delay(id, REAL_MS + wait_ms, wait_ms)
end

-- Removes a finished job, but for one that an operator must decide about.
local function drop(set, id)
  if redis.call('HEXISTS', QUEUE .. id, 'mail:held') == 1 then
    return false
  end
  remove(id)
  redis.call('ZREM', set, id)
  return true
end

-- keep: {count, age in s, limit}, -1 for none of them.
local function trim(set, keep)
  local count, age, limit = keep[1], keep[2], keep[3]
  if age >= 0 then
    local old = redis.call('ZREVRANGEBYSCORE', set, REAL_MS - age * 1000, '-inf', 'LIMIT', 0, limit)
    for _, id in ipairs(old) do
      drop(set, id)
    end
  end
  if count > 0 then
    -- So many at once that Redis doesn't stand still where nobody has ever cleaned up.
    local left = math.min(redis.call('ZCARD', set) - count, TRIM_AT_ONCE)
    for _, id in ipairs(left > 0 and redis.call('ZRANGE', set, 0, 2 * TRIM_AT_ONCE - 1) or {}) do
      if left > 0 and drop(set, id) then
        left = left - 1
      end
    end
  end
end

-- Says why a try failed, as the last of all such reasons.
local function blame(job, reason)
  local ok, reasons = pcall(cjson.decode, redis.call('HGET', job, 'stacktrace') or '[]')
  reasons = ok and type(reasons) == 'table' and reasons or {}
  reasons[#reasons + 1] = reason
  while #reasons > MAX_REASONS do
    table.remove(reasons, 1)
  end
  redis.call('HSET', job, 'failedReason', reason, 'stacktrace', cjson.encode(reasons))
end

local function finish_unsafely(id, state, value, keep)
  local job = QUEUE .. id
  local fields = redis.call('HMGET', job, 'deid', 'opts')
  if fields[1] then
    local key = QUEUE .. 'de:' .. fields[1]
    local left_ms = redis.call('PTTL', key)
    if left_ms == 0 or (left_ms == -1 and redis.call('GET', key) == id) then
      redis.call('DEL', key)
    end
    queue_next_of(fields[1])
  end
  local attempts = redis.call('HINCRBY', job, 'atm', 1)
  local name = state == 'completed' and 'returnvalue' or 'failedReason'
  if keep[1] ~= 0 then
    redis.call('ZADD', QUEUE .. state, ms(REAL_MS), id)
    redis.call('HSET', job, 'finishedOn', ms(REAL_MS))
    if state == 'failed' then
      blame(job, value)
      redis.call('HSET', job, 'mail:again', 1)
      redis.call('HDEL', job, 'defa', 'mail:slow', 'mail:lost', 'mail:held')
    else
      redis.call('HSET', job, name, value)
      redis.call('HDEL', job, 'mail:again', 'mail:slow', 'mail:lost', 'mail:held', 'mail:suspect')
    end
    trim(QUEUE .. state, keep)
  else
    remove(id)
  end
  emit(state, id, name, value, 'prev', 'active')
  if state == 'failed' then
    local ok, opts = pcall(cjson.decode, fields[2] or '')
    local most = ok and type(opts) == 'table' and tonumber(opts.attempts) or 1
    if attempts >= most then
      emit('retries-exhausted', id, 'attemptsMade', attempts)
    end
  end
  if redis.call('EXISTS', QUEUE .. 'wait', QUEUE .. 'active', QUEUE .. 'prioritized') == 0 then
    redis.call('XADD', QUEUE .. 'events', '*', 'event', 'drained')
  end
end

-- Finishes a job that was released. state: completed | failed; value: returnvalue as JSON, or the reason. Whatever
-- somebody's hand has written there: a job that is in none of the lists would be lost.
local function finish(id, state, value, keep)
  local ok, problem = pcall(finish_unsafely, id, state, value, keep)
  if not ok and redis.call('EXISTS', QUEUE .. id) == 1 then
    redis.call('ZADD', QUEUE .. state, ms(REAL_MS), id)
    redis.call('HSET', QUEUE .. id, 'failedReason', 'its end went wrong: ' .. tostring(problem), 'finishedOn', ms(REAL_MS))
  end
end

-- Where a job comes next when it goes back untouched.
local function give_back_job(id)
  local job = QUEUE .. id
  redis.call('HINCRBY', job, 'ats', -1)
  redis.call('HDEL', job, 'pb', 'processedOn')
  if paused() then
    delay(id, REAL_MS, 0)
    return
  end
  local priority = tonumber(redis.call('HGET', job, 'priority')) or 0
  if priority == 0 then
    redis.call('RPUSH', QUEUE .. 'wait', id)
  else
    -- In front of all others of its priority.
    redis.call('ZADD', QUEUE .. 'prioritized', priority * 4294967296, id)
  end
  redis.call('ZADD', QUEUE .. 'marker', 0, '0')
  emit('waiting', id, 'prev', 'active')
end

-- Puts a released job of a paused campaign out of everybody's way, where the app sees it as delayed.
local function park(id, campaign)
  redis.call('HDEL', QUEUE .. id, 'pb', 'processedOn')
  redis.call('SADD', OWN .. 'parked:' .. campaign, id)
  delay(id, REAL_MS + PAST_ALL_MS, PAST_ALL_MS)
end

-- Makes up to `most` of a campaign's parked jobs due; returns their number.
local function unpark(campaign, most)
  local ids = redis.call('SPOP', OWN .. 'parked:' .. campaign, most)
  for _, id in ipairs(ids) do
    -- The app may have removed or promoted it.
    if (tonumber(redis.call('ZSCORE', QUEUE .. 'delayed', id)) or 0) > (REAL_MS + PAST_ALL_MS / 2) * 4096 then
      redis.call('ZREM', QUEUE .. 'delayed', id)
      delay(id, REAL_MS, 0)
    end
  end
  return #ids
end
