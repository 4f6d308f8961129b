-- Counts what stands in one of BullMQ's queues (its layout: bullmq.lua). Behind clock.lua.
--
-- KEYS[1]  mail:bullmq:PREFIX:QUEUE   what our keys about it begin with
-- KEYS[2]  PREFIX:QUEUE               what BullMQ's keys begin with
-- ARGV[1]  ms from now on after which a delayed job is one that is parked
--
-- Returns {1 if there's such a queue, version or '', 1 if its app has paused it, waiting, active, delayed, parked,
-- completed, failed, jobs at its head that are left alone}.
local queue = KEYS[2] .. ':'
local meta = redis.call('HMGET', queue .. 'meta', 'version', 'paused')
local parked = redis.call('ZCOUNT', queue .. 'delayed', string.format('%.0f', (REAL_MS + ARGV[1]) * 4096), '+inf')
return {
  redis.call('EXISTS', queue .. 'meta'),
  meta[1] or '',
  meta[2] and 1 or 0,
  redis.call('LLEN', queue .. 'wait') + redis.call('LLEN', queue .. 'paused') + redis.call('ZCARD', queue .. 'prioritized'),
  redis.call('LLEN', queue .. 'active'),
  redis.call('ZCARD', queue .. 'delayed') - parked,
  parked,
  redis.call('ZCARD', queue .. 'completed'),
  redis.call('ZCARD', queue .. 'failed'),
  tonumber(redis.call('HGET', KEYS[1] .. ':state', 'foreign')) or 0,
}
