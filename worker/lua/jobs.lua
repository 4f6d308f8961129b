-- Settles BullMQ's jobs that a process has taken and that no result finishes (see record.lua). Behind states.lua and
-- bullmq.lua. One that isn't the process's any more is left alone.
--
-- KEYS[1]   PREFIX:QUEUE               what BullMQ's keys begin with
-- KEYS[2]   mail:bullmq:PREFIX:QUEUE   what our keys about it begin with
-- KEYS[3]   mail:uncertain:msgs        HASH mail -> what is held
-- KEYS[4]   dramatiq:mail              LIST of ids in the order in which producers queued them
-- KEYS[5]   mail:alive                 ZSET of living processes
-- KEYS[6]   mail:control               HASH campaign -> paused:REASON | cancelled:REASON
-- KEYS[7]   mail:uncertain             HASH mail -> [ms, why, held | resent | given up]
-- ARGV[1]   process
-- ARGV[2]   JSON [[what to do, id, timestamp, …], …], with mails as in states.lua and what to keep as in bullmq.lua:
--   done   mail, returnvalue, keep completed, keep failed   the ledger had its result before
--   fail   reason, keep failed                              it can't become a mail
--   delay  ms, attempts spent (0 or 1), reason, slow-downs, lost replies  tried again later
--   back   mail or false                                    untouched, to the next one that asks
--   park   campaign                                         until the campaign is resumed
--   hold   name of the mail, reason                         it failed, and waits for an operator
--   stranded  [ids that the process still knows]            all others go back (the id is empty)
--   leave     -                                             the process ends: somebody else is to listen for jobs
--
-- Returns the number of jobs that were settled.
local process, settled = ARGV[1], 0
open(KEYS[1], KEYS[2])
local KEEP = { -1, -1, 0 }
local BUSY_MS = 5000

local function back(id, mail)
  local kind = mail and read_state(mail)
  if kind ~= 'c' then
    give_back_job(id)
    return
  end
  -- An earlier try may have been accepted: a Node worker would send it again, and nobody would know.
  redis.call('LPUSH', QUEUE .. 'active', id)
  redis.call('SET', QUEUE .. id .. ':lock', ORPHAN_TOKEN, 'PX', LOCK_MS)
  redis.call('RPUSH', OWN .. 'orphans', id)
end

-- Spent: 1 if an attempt is, 0 if not; then the job counts as never started.
local function put_off(id, wait_ms, spent)
  redis.call('HDEL', QUEUE .. id, 'pb')
  if spent == 1 then
    redis.call('HINCRBY', QUEUE .. id, 'atm', 1)
  else
    redis.call('HINCRBY', QUEUE .. id, 'ats', -1)
  end
  delay(id, REAL_MS + wait_ms, wait_ms)
end

local actions = {
  done = function(id, mail, returnvalue, keep_completed, keep_failed)
    local kind, _, words = read_state(mail)
    if kind == 'f' or kind == 'g' then
      finish(id, 'failed', words, keep_failed)
    elseif kind == 's' then
      finish(id, 'completed', returnvalue, keep_completed)
    elseif kind then
      -- Somebody is at it meanwhile.
      put_off(id, BUSY_MS, 0)
    else
      finish(id, 'failed', 'the campaign is cancelled', keep_failed)
    end
  end,
  fail = function(id, reason, keep_failed)
    finish(id, 'failed', reason, keep_failed)
  end,
  delay = function(id, wait_ms, spent, reason, slow_downs, losses)
    if reason ~= '' then
      blame(QUEUE .. id, reason)
    end
    redis.call('HSET', QUEUE .. id, 'mail:slow', slow_downs)
    if losses > 0 then
      redis.call('HSET', QUEUE .. id, 'mail:lost', losses)
    end
    put_off(id, wait_ms, spent)
  end,
  back = back,
  park = function(id, campaign)
    local state = redis.call('HGET', KEYS[6], campaign)
    if state and string.sub(state, 1, 6) == 'paused' then
      redis.call('HINCRBY', QUEUE .. id, 'ats', -1)
      park(id, campaign)
    else
      give_back_job(id) -- It was resumed or cancelled meanwhile.
    end
  end,
  hold = function(id, name, reason)
    if not is_held(name, KEYS[7]) then
      give_back_job(id) -- It was decided meanwhile.
      return
    end
    local timestamp = redis.call('HGET', QUEUE .. id, 'timestamp')
    redis.call('HSET', KEYS[3], name, cjson.encode({ bullmq = { queue = KEYS[1], id = id, timestamp = timestamp } }))
    finish(id, 'failed', 'uncertain: ' .. reason, KEEP)
    redis.call('HSET', QUEUE .. id, 'mail:held', 1)
  end,
}

for _, item in ipairs(cjson.decode(ARGV[2])) do
  local action, id, timestamp = item[1], item[2], item[3]
  if action == 'stranded' then
    local known = {}
    for _, one in ipairs(item[4]) do
      known[one] = true
    end
    local taken = redis.call('HGETALL', taken_by(process))
    for i = 1, #taken, 2 do
      if not known[taken[i]] and release(taken[i], process) then
        back(taken[i], taken[i + 1] ~= '' and cjson.decode(taken[i + 1]))
      end
    end
  elseif action == 'leave' then
    if redis.call('GET', OWN .. 'ear') == process then
      redis.call('DEL', OWN .. 'ear')
      if redis.call('ZCARD', KEYS[5]) > 1 then
        redis.call('RPUSH', KEYS[4], WAKE)
      end
    end
  elseif release(id, process, timestamp) then
    settled = settled + 1
    actions[action](id, unpack(item, 4))
  end
end
return settled
