-- Taking BullMQ's jobs. Behind lanes.lua and bullmq.lua, in front of fetch.lua and beat.lua.
--
-- A job is {id, data, opts, timestamp in ms, attempts made, slow-downs, lost replies, marks, reason to fail}, all strings.
-- The marks:
--   a  it failed for good before, and somebody wants it tried again     s  it may have been sent by another worker,
--   r  it was here before these workers were: its row tells             which took it and never finished
--   o  the process that had it died: it may be what killed it
--
-- Jobs of a scheduler (rjk) or with a parent are left where they stand: who takes one of the first kind must create the
-- next one, and what the other kind owes its parent is BullMQ's own matter.
local JOBS_LANE = '\1bullmq'
local LOOK_AT_MOST = 1000
local MOVE_AT_MOST = 200
local AWAY_MS = 600000
local LOOK_AGAIN_MS = 120000
local foreign, moved = {}, 0
local free, since_ms, has_limiter
local turns, from_head

local function earlier(one, other)
  if one == '' or one == nil then
    return other or ''
  end
  return other and math.min(one, other) or one
end

-- Remembers that these workers are here. Who comes first, or back after a while, finds jobs that others may have sent.
local function visit()
  local known = redis.call('HMGET', OWN .. 'state', 'since', 'seen')
  since_ms = tonumber(known[1])
  local seen_ms = tonumber(known[2]) or 0
  if not since_ms or REAL_MS - seen_ms > AWAY_MS then
    since_ms = REAL_MS
    redis.call('HSET', OWN .. 'state', 'since', ms(REAL_MS), 'seen', ms(REAL_MS))
  elseif REAL_MS - seen_ms > 10000 then
    redis.call('HSET', OWN .. 'state', 'seen', ms(REAL_MS))
  end
end

local function near_campaign(index)
  local id = redis.call('LINDEX', QUEUE .. 'wait', index)
  local data = id and redis.call('HGET', QUEUE .. id, 'data')
  return data and string.match(data, '"campaign_?[iI]d"%s*:%s*"?([^",}]*)') or ''
end

-- Returns the ms until something changes by itself, or nil.
local function prepare_jobs()
  visit()
  local due_ms = promote_jobs()
  local limited_ms
  free, limited_ms = room()
  has_limiter = redis.call('HEXISTS', QUEUE .. 'meta', 'max') == 1
  if due_ms or limited_ms then
    return math.min(due_ms or math.huge, limited_ms or math.huge)
  end
end

-- `paused` too: after BullMQ 6 has resumed what BullMQ 5 had paused, some may stay there.
local function standing_jobs()
  return redis.call('LLEN', QUEUE .. 'wait') + redis.call('ZCARD', QUEUE .. 'prioritized')
    + redis.call('LLEN', QUEUE .. 'paused')
end

local function jobs_may_be_taken()
  return free > 0 and #foreign < LOOK_AT_MOST and standing_jobs() > #foreign
end

local function moved_enough()
  return moved >= MOVE_AT_MOST
end

-- Wakes one idle process, unless one is about to be woken.
local function wake_one()
  if redis.call('LLEN', WAITING) == 0 then
    redis.call('RPUSH', WAITING, WAKE)
  end
end

-- 1: the process is to listen; 2: it was, but has no room any more, and somebody else should; 0: neither.
local function listen(process, lease_ms, can)
  local ear = redis.call('GET', OWN .. 'ear')
  -- After a step back of Redis's clock a dead one's lease would go on for that long.
  if ear and ear ~= process and redis.call('ZSCORE', ALIVE, ear) then
    return 0
  end
  if can then
    redis.call('SET', OWN .. 'ear', process, 'PX', lease_ms)
    return 1
  end
  return redis.call('DEL', OWN .. 'ear') * 2
end

local function read_job(id, mark)
  local job = QUEUE .. id
  local f = redis.call('HMGET', job, 'data', 'opts', 'timestamp', 'atm', 'mail:slow', 'mail:again', 'defa',
    'mail:suspect', 'mail:lost')
  local marks = (f[6] and 'a' or '') .. (f[8] and 's' or '') .. ((tonumber(f[3]) or 0) < since_ms and 'r' or '')
    .. (mark or '')
  return { id, f[1] or '', f[2] or '', f[3] or '0', f[4] or '0', f[5] or '0', f[9] or '0', marks, f[7] or '' }
end

-- Takes over a job whose process died; the ledger knows how far it was. Not while the app has paused the queue.
local function adopt_orphan(process)
  while not paused() do
    local id = redis.call('LPOP', OWN .. 'orphans')
    if not id then
      return nil
    end
    local lock = QUEUE .. id .. ':lock'
    if redis.call('GET', lock) == ORPHAN_TOKEN then
      if redis.call('EXISTS', QUEUE .. id) == 0 then
        redis.call('DEL', lock)
      elseif is_deadly(QUEUE .. id) then
        redis.call('DEL', lock)
        redis.call('LREM', QUEUE .. 'active', 1, id)
        finish(id, 'failed', DEADLY, { -1, -1, 0 })
      else
        redis.call('SET', lock, token_of(process), 'PX', LOCK_MS)
        redis.call('HSET', taken_by(process), id, '')
        return read_job(id, 'o')
      end
    end
  end
end

local function next_waiting()
  if turns == nil then -- Two bodies are read for that, so not where no job is taken.
    turns = redis.call('LLEN', QUEUE .. 'wait') > 1 and near_campaign(0) ~= near_campaign(-1)
    from_head = turns and redis.call('HINCRBY', OWN .. 'state', 'turn', 1) % 2 == 0
  end
  if turns then
    from_head = not from_head
  end
  local id = redis.call(from_head and 'LPOP' or 'RPOP', QUEUE .. 'wait')
  if id then
    return id
  end
  id = redis.call('RPOP', QUEUE .. 'paused')
  if id then
    return id
  end
  local first = redis.call('ZPOPMIN', QUEUE .. 'prioritized')
  if first[1] then
    return first[1], first[2]
  end
  redis.call('DEL', QUEUE .. 'pc')
end

-- Whether an idle process is worth waking. Not for jobs that a fetch has just left where they stand.
local function worth_waking()
  if paused() then
    return false
  end
  -- Those of dead processes count as active: under the app's own concurrency they may be what takes all of it.
  if redis.call('EXISTS', OWN .. 'orphans') == 1 then
    return true
  end
  local standing, seen = standing_jobs(), redis.call('HMGET', OWN .. 'state', 'left', 'left_at')
  local known = tostring(standing) == seen[1] and REAL_MS - (tonumber(seen[2]) or 0) < LOOK_AGAIN_MS
  return free > 0 and standing > 0 and not known
end

-- What an operator has decided about the job's campaign; true if the job is out of the way by that.
local function is_controlled(id, job)
  if redis.call('EXISTS', CONTROL) == 0 then
    return false
  end
  local campaign = campaign_of(decode(redis.call('HGET', job, 'data') or ''))
  local state = campaign and redis.call('HGET', CONTROL, campaign)
  if not state then
    return false
  end
  if string.sub(state, 1, 6) == 'paused' then
    park(id, campaign)
  else
    redis.call('HINCRBY', 'mail:counts:' .. campaign, 'cancelled', 1)
    redis.call('EXPIRE', 'mail:counts:' .. campaign, COUNTS_SECONDS)
    finish(id, 'failed', 'the campaign is cancelled', { -1, -1, 0 })
  end
  return true
end

-- The next job for a process, or nil.
local function take_job(process, name)
  while free > 0 and #foreign < LOOK_AT_MOST and moved < MOVE_AT_MOST do
    local id, score = next_waiting()
    if not id then
      return nil
    end
    local job = QUEUE .. id
    local f = redis.call('HMGET', job, 'rjk', 'parentKey', 'atm', 'ats', 'stc', 'pb')
    local size = redis.call('HSTRLEN', job, 'data')
    if f[1] or f[2] then
      foreign[#foreign + 1] = { id, score, from_head }
    elseif redis.call('EXISTS', job) == 0 then
      moved = moved + 1 -- A job that is gone, or a marker of BullMQ 4's.
    elseif size > MAX_MESSAGE_BYTES then
      moved = moved + 1
      finish(id, 'failed', string.format('the job has %.0f bytes; at most %.0f are sent', size, MAX_MESSAGE_BYTES),
        { -1, -1, 0 })
    elseif is_controlled(id, job) then
      moved = moved + 1
    else
      free = free - 1
      redis.call('LPUSH', QUEUE .. 'active', id)
      redis.call('SET', job .. ':lock', token_of(process), 'PX', LOCK_MS)
      redis.call('HSET', taken_by(process), id, '')
      if has_limiter and redis.call('INCR', QUEUE .. 'limiter') == 1 then
        local duration_ms = tonumber(redis.call('HGET', QUEUE .. 'meta', 'duration')) or 1000
        redis.call('PEXPIRE', QUEUE .. 'limiter', ms(math.max(math.floor(math.abs(duration_ms)), 1)))
      end
      redis.call('HSET', job, 'processedOn', ms(REAL_MS), 'pb', TOKEN_PREFIX .. name)
      redis.call('HINCRBY', job, 'ats', 1)
      emit('active', id, 'prev', 'waiting')
      local started, made, stalled = tonumber(f[4]) or 0, tonumber(f[3]) or 0, tonumber(f[5]) or 0
      local ours = string.sub(f[6] or '', 1, #TOKEN_PREFIX) == TOKEN_PREFIX
      if not ours and (started > made or stalled > 0) then
        redis.call('HSET', job, 'mail:suspect', 1)
      end
      return read_job(id)
    end
  end
end

-- Back to where they stood, in their order.
local function put_back_foreign()
  for i = #foreign, 1, -1 do
    local id, score, was_head = foreign[i][1], foreign[i][2], foreign[i][3]
    if score then
      redis.call('ZADD', QUEUE .. 'prioritized', score, id)
    else
      redis.call(was_head and 'LPUSH' or 'RPUSH', QUEUE .. 'wait', id)
    end
  end
  if #foreign > 0 then
    redis.call('HSET', OWN .. 'state', 'foreign', #foreign, 'left', standing_jobs(), 'left_at', ms(REAL_MS))
  elseif redis.call('HEXISTS', OWN .. 'state', 'foreign') == 1 then
    redis.call('HDEL', OWN .. 'state', 'foreign', 'left', 'left_at')
  end
end
