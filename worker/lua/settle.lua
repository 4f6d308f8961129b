-- Settles messages that a process holds. One that isn't the process's any more (it was taken for dead) is left alone.
--
-- KEYS[12]  mail:fetched:PROCESS            SET of ids that the process has fetched and not settled yet
-- KEYS[13]  mail:uncertain:msgs             HASH mail -> message that is held
-- KEYS[14]  mail:woken                      LIST of ids that woke idle processes
-- KEYS[15]  mail:uncertain                  HASH mail -> [ms, why, held | resent | given up]
-- ARGV      five for each message: what to do, id, and three more by what is to be done:
--   ack       key, seconds                        it's done with; the ledger of a mail outside any campaign (or empty)
--                                                 lives for so long from now on, since nothing brings the mail back
--   nack      reason                              to the dead letters
--   requeue   -                                   back to the waiting ones
--   park      campaign                            to its lane's others, until the campaign is resumed
--   postpone  new id, new message, ms until it's due replaced by one that comes later
--   hold      mail                                kept until an operator decides
--   stranded  ids that the process still knows, separated by spaces: all others go back (the id is empty)
--
-- Returns the number of messages that were settled.
local settled = 0
for i = 1, #ARGV, 5 do
  local action, id, first, second, third = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if action == 'stranded' then
    local known = {}
    for word in string.gmatch(first, '%S+') do
      known[word] = true
    end
    for _, fetched in ipairs(redis.call('SMEMBERS', KEYS[12])) do
      if not known[fetched] then
        redis.call('SREM', KEYS[12], fetched)
        redis.call('LPUSH', WAITING, fetched)
      end
    end
    for _, woke in ipairs(redis.call('LPOP', KEYS[14], 1000) or {}) do
      redis.call('LPUSH', WAITING, woke)
    end
  elseif redis.call('SREM', KEYS[12], id) == 1 then
    settled = settled + 1
    if action == 'ack' then
      redis.call('HDEL', MESSAGES, id)
      if first ~= '' then
        redis.call('EXPIRE', first, second)
      end
    elseif action == 'nack' then
      bury(id, MESSAGES, first)
    elseif action == 'requeue' then
      redis.call('LPUSH', WAITING, id)
    elseif action == 'park' then
      -- Its lane is the one that a resume looks at, whatever lane it was taken from.
      if redis.call('HEXISTS', CONTROL, first) == 1 then
        redis.call('LPUSH', 'mail:lane:' .. first, id)
      else
        redis.call('LPUSH', WAITING, id)
      end
    elseif action == 'postpone' then
      redis.call('HDEL', MESSAGES, id)
      redis.call('HSET', DELAYED_MESSAGES, first, second)
      redis.call('ZADD', DUE, NOW_MS + third, first)
    elseif action == 'hold' and is_held(first, KEYS[15]) then
      redis.call('HSET', KEYS[13], first, redis.call('HGET', MESSAGES, id))
      redis.call('HDEL', MESSAGES, id)
    elseif action == 'hold' then
      redis.call('LPUSH', WAITING, id) -- It was decided meanwhile.
    end
  end
end
return settled
