-- What a host's recorder tells once a minute, and, where that host watches the fleet, what it needs for it. Behind
-- clock.lua.
--
-- KEYS[1]  mail:processes  HASH name -> line of a process   KEYS[2]  mail:commands  HASH month -> number of commands
-- KEYS[3]  mail:hosts      HASH host -> line                KEYS[4]  mail:hosts:troubles  HASH host -> JSON [ms, troubles]
-- KEYS[5]  mail:watcher    STRING: the host that watches    KEYS[6]  mail:points    LIST of points, the newest first
-- KEYS[7]  mail:events     LIST of what is to be told once  KEYS[8]  mail:troubles  HASH key -> JSON
-- KEYS[9]  mail:durations  HASH of how long mails wait and take   KEYS[10] mail:brokers  HASH broker -> line
-- ARGV[1]  the process   ARGV[2]  its line   ARGV[3]  month   ARGV[4]  commands since the last time
-- ARGV[5]  commands inside scripts likewise   ARGV[6]  host   ARGV[7]  its line   ARGV[8]  JSON of its troubles
-- ARGV[9]  ms for which it goes on watching  ARGV[10] points that are wanted   ARGV[11] events likewise
--
-- Returns nothing where another host watches, or else {points, events (the one that happened first is the last one), hosts
-- and [ms, troubles] in turn, keys and troubles that are known in turn, fields and numbers of
-- mail:durations in turn, brokers and their lines in turn}.
local MOST_HOSTS = 500

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[4] ~= '0' then
  redis.call('HINCRBY', KEYS[2], ARGV[3], ARGV[4])
  redis.call('HINCRBY', KEYS[2], ARGV[3] .. ':inside', ARGV[5])
end
redis.call('HSET', KEYS[3], ARGV[6], ARGV[7])
redis.call('HSET', KEYS[4], ARGV[6], cjson.encode({ REAL_MS, ARGV[8] }))

local watcher = redis.call('GET', KEYS[5])
if watcher and watcher ~= ARGV[6] then
  return nil
end
redis.call('SET', KEYS[5], ARGV[6], 'PX', ARGV[9])
local found = redis.call('HSCAN', KEYS[4], 0, 'COUNT', MOST_HOSTS)[2]
return {
  redis.call('LRANGE', KEYS[6], 0, ARGV[10] - 1),
  redis.call('LRANGE', KEYS[7], -tonumber(ARGV[11]), -1),
  found,
  redis.call('HGETALL', KEYS[8]),
  redis.call('HGETALL', KEYS[9]),
  redis.call('HGETALL', KEYS[10]),
}
