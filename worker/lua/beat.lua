-- A process says that it's alive, and takes care of what dead ones have left behind.
--
-- KEYS[12]  mail:processes               HASH name -> what the process tells about itself
-- KEYS[13]  mail:account:NAME:flight     ZSET claimant -> ms, the account's mails that are being sent
-- KEYS[14]  mail:account:NAME:connections HASH process -> open connections
-- KEYS[15]  mail:commands                HASH month -> Redis commands that were sent
-- KEYS[16]  mail:woken                   LIST of ids that woke idle processes
-- ARGV[1]   process   ARGV[2]  its name   ARGV[3]  its line for mail:processes
-- ARGV[4]   ms of silence after which a process is dead; empty: this one can't judge that yet
-- ARGV[5]   1 if the process has nothing to do
-- ARGV[6]   Redis commands since the last beat   ARGV[7]  month, as 2026-11
--
-- Returns {ids that wait unsorted, ms until the next delayed message is due or '', dead processes that held messages}.
redis.call('ZADD', HEARTBEATS, NOW_MS, ARGV[1])
redis.call('HSET', KEYS[12], ARGV[2], ARGV[3])
redis.call('HINCRBY', KEYS[15], ARGV[7], ARGV[6])
local next_due = promote()

local function give_back(list, ids, messages, target)
  for _, id in ipairs(ids) do
    if redis.call('HEXISTS', messages, id) == 1 then
      redis.call('LPUSH', target, id)
    end
  end
  redis.call('DEL', list)
  return #ids
end

-- Plain producers have a heartbeat too, but never a message in hand.
local dead, holders = {}, 0
if ARGV[4] ~= '' then
  dead = redis.call('ZRANGEBYSCORE', HEARTBEATS, '-inf', NOW_MS - ARGV[4])
  for _, process in ipairs(dead) do
    local acks = 'dramatiq:__acks__.' .. process .. '.mail'
    local held = give_back(acks, redis.call('SMEMBERS', acks), MESSAGES, WAITING)
    -- A Dramatiq worker of the plain kind holds delayed messages too.
    acks = acks .. '.DQ'
    held = held + give_back(acks, redis.call('SMEMBERS', acks), DELAYED_MESSAGES, DELAYED)
    holders = holders + (held > 0 and 1 or 0)
    redis.call('HDEL', KEYS[14], process)
    redis.call('ZREM', HEARTBEATS, process)
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
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', DEAD, '-inf', NOW_MS - DEAD_LETTER_SECONDS * 1000, 'LIMIT', 0, 100)) do
    redis.call('ZREM', DEAD, id)
    redis.call('HDEL', DEAD_MESSAGES, id)
  end
end
-- A connection that was cut, whether its process lives or not, may live on in Redis, first in the line of those that
-- wait, and be woken in vain.
if ARGV[5] == '1' then
  give_back(KEYS[16], redis.call('LRANGE', KEYS[16], 0, -1), MESSAGES, WAITING)
end
-- Messages in lanes wake nobody: a process that died after it had sorted them may have been the only busy one.
if ARGV[5] == '1' and redis.call('LLEN', WAITING) == 0 then
  for _, class in ipairs(CLASSES) do
    for _, campaign in ipairs(redis.call('ZRANGE', LANES .. ':' .. class, 0, -1)) do
      nudge(campaign)
    end
  end
end
return { redis.call('LLEN', WAITING), next_due, holders }
