-- What a process that ends has counted since its last beat (worker/base/durations.py).
--
-- KEYS[1]  mail:durations  HASH kind:BOUND -> mails, kind:ms -> their time together   ARGV  fields and numbers in turn
for i = 1, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
