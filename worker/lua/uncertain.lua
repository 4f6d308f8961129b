-- Sends a held mail once more, because an operator says so. In front of it stand lanes.lua and nothing else.
--
-- KEYS[12]  mail:uncertain        HASH name -> [ms, why, held | resent]
-- KEYS[13]  mail:uncertain:msgs   HASH name -> message
-- KEYS[14]  mail:ledger:CAMPAIGN or mail:single:ID   HASH subscriber -> state (see states.lua)
-- ARGV[1]   the mail's name   ARGV[2]  its field in the ledger   ARGV[3]  a new id for the message
--
-- Returns 1, or 0 when it wasn't held any more.
local data = redis.call('HGET', KEYS[13], ARGV[1])
if not data then
  return 0
end
local state = redis.call('HGET', KEYS[14], ARGV[2])
if state and string.sub(state, 1, 1) == 'u' then
  redis.call('HDEL', KEYS[14], ARGV[2])
end
redis.call('HDEL', KEYS[12], ARGV[1])
redis.call('HDEL', KEYS[13], ARGV[1])
redis.call('HSET', MESSAGES, ARGV[3], data)
redis.call('LPUSH', WAITING, ARGV[3])
return 1
