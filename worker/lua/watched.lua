-- Keeps what the host that watches the fleet has seen and told.
--
-- KEYS[1]  mail:points    LIST of points, the newest first   KEYS[2]  mail:troubles  HASH key -> JSON
-- KEYS[3]  mail:events    LIST of what is to be told once     KEYS[4]  mail:told      LIST of what was told, likewise
-- ARGV[1]  a point   ARGV[2]  points that are kept   ARGV[3]  JSON {key: JSON of a trouble, …}
-- ARGV[4]  JSON [key of a trouble that is over, …]   ARGV[5]  events that were told   ARGV[6]  JSON [what was told, …]
-- ARGV[7]  the point's minute, in seconds since 1970
local TOLD_KEPT = 100

local minute, newest = tonumber(ARGV[7])
repeat
  newest = tonumber(string.match(redis.call('LINDEX', KEYS[1], 0) or '', '^%[(%d+)'))
  -- A clock was ahead for a while: what it wrote is taken back, or no point would come until that time.
until not newest or newest <= minute or not redis.call('LPOP', KEYS[1])
if newest ~= minute then
  redis.call('LPUSH', KEYS[1], ARGV[1])
  redis.call('LTRIM', KEYS[1], 0, ARGV[2] - 1)
end
for key, trouble in pairs(cjson.decode(ARGV[3])) do
  redis.call('HSET', KEYS[2], key, trouble)
end
for _, key in ipairs(cjson.decode(ARGV[4])) do
  redis.call('HDEL', KEYS[2], key)
end
if tonumber(ARGV[5]) > 0 then
  redis.call('RPOP', KEYS[3], ARGV[5])
end
for _, sentence in ipairs(cjson.decode(ARGV[6])) do
  redis.call('LPUSH', KEYS[4], sentence)
end
redis.call('LTRIM', KEYS[4], 0, TOLD_KEPT - 1)
