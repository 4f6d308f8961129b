-- Raises a process's fence (see fetch.lua).
--
-- KEYS[1]  mail:fences  HASH process -> number
-- ARGV[1]  process   ARGV[2]  number
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
