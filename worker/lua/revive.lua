-- Gives a dead letter another chance, or drops it. In front of it stands lanes.lua.
--
-- ARGV[1]  retry | drop   ARGV[2]  id
--
-- Returns 1, or 0 when there's no such dead letter.
local data = redis.call('HGET', DEAD_MESSAGES, ARGV[2])
redis.call('ZREM', DEAD, ARGV[2])
redis.call('HDEL', DEAD_MESSAGES, ARGV[2])
redis.call('DEL', 'mail:dead:' .. ARGV[2])
if not data then
  return 0
end
if ARGV[1] == 'retry' then
  redis.call('HSET', MESSAGES, ARGV[2], data)
  redis.call('RPUSH', WAITING, ARGV[2])
end
return 1
