-- Sends a held mail once more, or has its job finished, because an operator says so. Behind lanes.lua and bullmq.lua.
--
-- KEYS[12]  mail:uncertain        HASH name -> [ms, why, held | resent]
-- KEYS[13]  mail:uncertain:msgs   HASH name -> message, or {"bullmq": {"queue": PREFIX:QUEUE, "id": …}}
-- KEYS[14]  mail:ledger:CAMPAIGN or mail:single:ID   HASH subscriber -> state (see states.lua)
-- ARGV[1]   the mail's name   ARGV[2]  its field in the ledger   ARGV[3]  a new id for the message
--
-- Returns 1, or 0 when it wasn't held any more.
local data = redis.call('HGET', KEYS[13], ARGV[1])
if not data then
  return 0
end
local job = decode(data).bullmq
if job then
  open(job.queue, 'mail:bullmq:' .. job.queue)
  local same = redis.call('HGET', QUEUE .. job.id, 'timestamp') == job.timestamp
  if not same or redis.call('ZREM', QUEUE .. 'failed', job.id) == 0 then
    return 0 -- Its app has removed it, or tried it again.
  end
  redis.call('HDEL', QUEUE .. job.id, 'finishedOn', 'processedOn', 'failedReason', 'mail:held')
  delay(job.id, REAL_MS, 0)
end
local state = redis.call('HGET', KEYS[14], ARGV[2])
if state and string.sub(state, 1, 1) == 'u' then
  redis.call('HDEL', KEYS[14], ARGV[2])
end
redis.call('HDEL', KEYS[12], ARGV[1])
redis.call('HDEL', KEYS[13], ARGV[1])
if not job then
  redis.call('HSET', MESSAGES, ARGV[3], data)
  redis.call('LPUSH', WAITING, ARGV[3])
end
return 1
