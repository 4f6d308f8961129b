-- Moves what isn't a message to the dead letters. Dramatiq knows a message's id only from its JSON, so the id is looked
-- for among those that this process has fetched.
--
-- KEYS[1]  dramatiq:__acks__.PROCESS.QUEUE  SET of fetched ids
-- KEYS[2]  dramatiq:QUEUE.msgs              HASH id -> message
-- KEYS[3]  dramatiq:mail.XQ                 ZSET of dead ids by time in ms
-- KEYS[4]  dramatiq:mail.XQ.msgs            HASH id -> message
-- ARGV[1]  the message   ARGV[2]  now, in ms   ARGV[3]  the reason
-- ARGV[4]  prefix of the key that keeps an id's reason   ARGV[5]  seconds to keep it
--
-- Returns the number of messages moved.
local moved = 0
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HGET', KEYS[2], id) == ARGV[1] then
    redis.call('SREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    redis.call('ZADD', KEYS[3], ARGV[2], id)
    redis.call('HSET', KEYS[4], id, ARGV[1])
    redis.call('SET', ARGV[4] .. id, ARGV[3], 'EX', ARGV[5])
    moved = moved + 1
  end
end
return moved
