-- Counts what stands in one of BullMQ's queues (its layout: bullmq.lua). Behind clock.lua.
--
-- KEYS[1]  mail:bullmq:PREFIX:QUEUE   what our keys about it begin with
-- KEYS[2]  PREFIX:QUEUE               what BullMQ's keys begin with
-- ARGV[1]  ms from now on after which a delayed job is one that is parked
--
-- Returns {1 if there's such a queue, version or '', 1 if its app has paused it, waiting, active, delayed, parked,
-- completed, failed, jobs at its head that are left alone, ms until the last delayed job is due, ms since the job at the
-- head was queued or -1}.
local queue = KEYS[2] .. ':'
local meta = redis.call('HMGET', queue .. 'meta', 'version', 'paused')
local parked = redis.call('ZCOUNT', queue .. 'delayed', string.format('%.0f', (REAL_MS + ARGV[1]) * 4096), '+inf')
local last = redis.call('ZREVRANGEBYSCORE', queue .. 'delayed',
  string.format('(%.0f', (REAL_MS + ARGV[1]) * 4096), '-inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
local head = redis.call('LINDEX', queue .. 'wait', -1) or redis.call('LINDEX', queue .. 'paused', -1)
  or redis.call('ZRANGE', queue .. 'prioritized', 0, 0)[1]
local queued_ms = head and tonumber(redis.call('HGET', queue .. head, 'timestamp') or '')
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
  last and math.max(math.floor(tonumber(last) / 4096) - REAL_MS, 0) or 0,
  queued_ms and math.max(REAL_MS - queued_ms, 0) or -1,
}
