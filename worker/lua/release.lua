-- Gives a claim back after the server refused the mail for now: nothing was accepted, so nothing is uncertain.
--
-- KEYS[1]  mail:ledger:CAMPAIGN  HASH subscriber -> state (see claim.lua)
-- ARGV[1]  subscriber
-- ARGV[2]  claimant
local state = redis.call('HGET', KEYS[1], ARGV[1])
if state and string.match(state, '^c:%d+:(.*)$') == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
