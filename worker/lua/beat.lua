-- A process says that it's alive, and takes care of what dead ones have left behind.
--
-- KEYS[12]  mail:processes               HASH name -> what the process tells about itself
-- KEYS[13]  mail:account:NAME:flight     ZSET claimant -> ms, the account's mails that are being sent
-- KEYS[14]  mail:account:NAME:connections HASH process -> open connections
-- KEYS[15]  mail:commands                HASH month -> Redis commands that were sent, month:inside -> run in scripts
-- KEYS[16]  mail:woken                   LIST of ids that woke idle processes
-- KEYS[17]  PREFIX:QUEUE                 what BullMQ's keys begin with (see bullmq.lua)
-- KEYS[18]  mail:bullmq:PREFIX:QUEUE     what our keys about it begin with
-- KEYS[19]  mail:uncertain               HASH mail -> [ms, why, held | resent | given up]
-- KEYS[20]  dramatiq:__heartbeats__      ZSET of plain Dramatiq's processes by the ms of their own clocks
-- KEYS[21]  mail:durations               HASH of how long mails wait and take (see durations.lua)
-- ARGV[1]   process   ARGV[2]  its name   ARGV[3]  its line for mail:processes
-- ARGV[4]   ms of silence after which a process is dead; empty: this one can't judge that yet
-- ARGV[5]   1 if the process has nothing to do
-- ARGV[6]   Redis commands since the last beat   ARGV[7]  month, as 2026-11
-- ARGV[8]   ms for which the process listens for jobs if nobody else does   ARGV[9]  seconds that a ledger is kept
-- ARGV[10]  what NOW_MS was at its last beat, or empty   ARGV[11]  ms since then, by the process's own clock
-- ARGV[12]  ms by which its next beat comes later if it rests   ARGV[13]  commands run in scripts since the last beat
-- ARGV[14…] fields of mail:durations, and what is to be added to each, in turn
--
-- Returns {ids that wait unsorted, ms until the next delayed message is due or '', dead processes that held messages,
-- 1 if the process is to listen for jobs, NOW_MS, 1 if the time went on evenly since the last beat, 1 if it may rest}.
local STEP_MS = 5000
-- Their clocks may be wrong by minutes.
local PLAIN_DEAD_AFTER_MS = 1800000

local idle = ARGV[5] == '1'
local has_jobs = open(KEYS[17], KEYS[18])
-- Who rests is as if it spoke later: it's silent for so much longer.
local rests = idle and may_rest(ARGV[12], has_jobs, KEYS[16], KEYS[20])
local rest_ms = rests and tonumber(ARGV[12]) or 0
redis.call('ZADD', ALIVE, NOW_MS + rest_ms, ARGV[1])
if not idle then
  keep_awake()
end
redis.call('HSET', KEYS[12], ARGV[2], ARGV[3])
redis.call('HINCRBY', KEYS[15], ARGV[7], ARGV[6])
redis.call('HINCRBY', KEYS[15], ARGV[7] .. ':inside', ARGV[13])
for i = 14, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[21], ARGV[i], ARGV[i + 1])
end
local next_due = promote()

local function give_back(list, ids, messages, target)
  for _, id in ipairs(ids) do
    if redis.call('HEXISTS', messages, id) == 1 then
      redis.call('LPUSH', target, id)
    end
  end
  if #ids > 0 then
    redis.call('DEL', list)
  end
  return #ids
end

-- Another worker went on with what this process had taken, as Node does once its lock is gone.
local function list_if_begun(process, mail)
  local kind, since_ms, detail = read_state(mail)
  if kind == 'c' and string.match(detail, '^[^:]*') == process then
    list_uncertain(mail, KEYS[19], 'its process died, and another worker took its job', 'resent', ARGV[9])
  end
end

-- What a dead process had taken stays locked, for the next one of ours that fetches: in `wait` a Node worker might take
-- it, and send again what was sent.
local function orphan_jobs(process)
  local taken = redis.call('HGETALL', taken_by(process))
  for i = 1, #taken, 2 do
    local id, mail = taken[i], taken[i + 1]
    local token = redis.call('GET', QUEUE .. id .. ':lock')
    if token == token_of(process) or (not token and redis.call('LPOS', QUEUE .. 'active', id)) then
      suspect(QUEUE .. id)
      redis.call('SET', QUEUE .. id .. ':lock', ORPHAN_TOKEN, 'PX', LOCK_MS)
      redis.call('RPUSH', OWN .. 'orphans', id)
    elseif mail ~= '' then
      list_if_begun(process, cjson.decode(mail))
    end
  end
  redis.call('DEL', taken_by(process))
  return #taken
end

local function renew_locks(process)
  for _, id in ipairs(redis.call('HKEYS', taken_by(process))) do
    local lock = QUEUE .. id .. ':lock'
    local token = redis.call('GET', lock)
    if token == token_of(process) or (not token and redis.call('LPOS', QUEUE .. 'active', id)) then
      redis.call('SET', lock, token_of(process), 'PX', LOCK_MS)
    else
      redis.call('HDEL', taken_by(process), id)
    end
  end
  for _, id in ipairs(redis.call('LRANGE', OWN .. 'orphans', 0, -1)) do
    redis.call('PEXPIRE', QUEUE .. id .. ':lock', LOCK_MS)
  end
end

-- Whether a living process has the job in hand: it renews its lock soon, however that ended, as by a step of the clock.
local function in_hand(id)
  for _, process in ipairs(redis.call('ZRANGE', ALIVE, 0, -1)) do
    if redis.call('HEXISTS', taken_by(process), id) == 1 then
      return true
    end
  end
  return false
end

-- BullMQ's own sweep, which its workers do for each other: what stood in `active` without a lock in two sweeps goes back.
local function sweep_stalled()
  if redis.call('EXISTS', QUEUE .. 'active') == 0
    or not redis.call('SET', QUEUE .. 'stalled-check', ms(REAL_MS), 'PX', STALLED_EVERY_MS, 'NX') then
    return
  end
  local stalled = QUEUE .. 'stalled'
  for _, id in ipairs(redis.call('SMEMBERS', stalled)) do
    local job = QUEUE .. id
    if redis.call('EXISTS', job .. ':lock') == 0 and not in_hand(id)
      and redis.call('LREM', QUEUE .. 'active', 1, id) > 0 and redis.call('EXISTS', job) == 1 then
      if redis.call('HINCRBY', job, 'stc', 1) > MAX_STALLED and redis.call('HEXISTS', job, 'rjk') == 0 then
        redis.call('HSET', job, 'defa', 'job stalled more than allowable limit')
      end
      if paused() then
        delay(id, REAL_MS, 0)
      else
        redis.call('RPUSH', QUEUE .. 'wait', id)
        redis.call('ZADD', QUEUE .. 'marker', 0, '0')
        emit('waiting', id, 'prev', 'active')
      end
      emit('stalled', id)
    end
  end
  redis.call('DEL', stalled)
  local active = redis.call('LRANGE', QUEUE .. 'active', 0, -1)
  for from = 1, #active, 5000 do
    redis.call('SADD', stalled, unpack(active, from, math.min(from + 4999, #active)))
  end
end

-- After a step of the clock everybody looks dead.
local steady = ARGV[10] == '' or math.abs(NOW_MS - ARGV[10] - ARGV[11]) < STEP_MS
local dead, holders = {}, 0
if ARGV[4] ~= '' and steady then
  dead = redis.call('ZRANGEBYSCORE', ALIVE, '-inf', NOW_MS - ARGV[4])
  for _, process in ipairs(dead) do
    local fetched = 'mail:fetched:' .. process
    local ids = redis.call('SMEMBERS', fetched)
    accuse(process)
    for _, id in ipairs(ids) do
      suspect(id)
      if is_deadly(id) then
        bury(id, MESSAGES, DEADLY)
      end
    end
    local held = give_back(fetched, ids, MESSAGES, WAITING)
    if has_jobs then
      held = held + orphan_jobs(process)
    end
    holders = holders + (held > 0 and 1 or 0)
    redis.call('HDEL', KEYS[14], process)
    redis.call('ZREM', ALIVE, process)
    redis.call('HDEL', 'mail:fences', process)
  end
  -- Plain Dramatiq workers look after each other; for the last one nobody would.
  for _, process in ipairs(redis.call('ZRANGEBYSCORE', KEYS[20], '-inf', REAL_MS - PLAIN_DEAD_AFTER_MS)) do
    local acks = 'dramatiq:__acks__.' .. process .. '.mail'
    give_back(acks, redis.call('SMEMBERS', acks), MESSAGES, WAITING)
    acks = acks .. '.DQ'
    give_back(acks, redis.call('SMEMBERS', acks), DELAYED_MESSAGES, DELAYED)
    redis.call('ZREM', KEYS[20], process)
  end
  if #dead > 0 then
    local gone = {}
    for _, process in ipairs(dead) do
      gone[process] = true
    end
    for _, claimant in ipairs(redis.call('ZRANGE', KEYS[13], 0, -1)) do
      if gone[string.match(claimant, '^[^:]*')] then
        -- As old as can be: the next claim puts it among those that have left.
        redis.call('ZADD', KEYS[13], 0, claimant)
      end
    end
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEAD, '-inf', REAL_MS - DEAD_LETTER_SECONDS * 1000, 'LIMIT', 0, 100)) do
    redis.call('ZREM', DEAD, id)
    redis.call('HDEL', DEAD_MESSAGES, id)
  end
end
-- A connection that was cut, whether its process lives or not, may live on in Redis, first in the line of those that
-- wait, and be woken in vain.
if idle and not rests then
  give_back(KEYS[16], redis.call('LRANGE', KEYS[16], 0, -1), MESSAGES, WAITING)
end
-- Messages in lanes wake nobody: a process that died after it had sorted them may have been the only busy one.
if idle and not rests and redis.call('EXISTS', unpack(lanes)) > 0 and redis.call('LLEN', WAITING) == 0 then
  for _, lane in ipairs(lanes) do
    for _, campaign in ipairs(redis.call('ZRANGE', lane, 0, -1)) do
      nudge(campaign)
    end
  end
end
local listens = 0
if has_jobs and rests then
  visit()
  next_due = earlier(next_due, promote_jobs())
elseif has_jobs then
  next_due = earlier(next_due, prepare_jobs())
  renew_locks(ARGV[1])
  sweep_stalled()
  if idle and worth_waking() then
    wake_one()
  end
end
if has_jobs and (idle or redis.call('GET', OWN .. 'ear') == ARGV[1]) then
  listens = listen(ARGV[1], ARGV[8] + rest_ms, true)
end
local unsorted = rests and 0 or redis.call('LLEN', WAITING)
return { unsorted, next_due, holders, listens, NOW_MS, steady and 1 or 0, rests and 1 or 0 }
