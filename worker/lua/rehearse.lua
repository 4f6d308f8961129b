-- Says that a process begins to rehearse what may have killed another one, or has survived that. Behind suspects.lua.
--
-- ARGV[1]  begin | end   ARGV[2]  process   ARGV[3]  a message's id, or a job's key
if ARGV[1] == 'begin' then
  redis.call('HSET', REHEARSALS, ARGV[2], ARGV[3])
else
  redis.call('HDEL', REHEARSALS, ARGV[2])
  redis.call('HDEL', SUSPECTS, ARGV[3])
end
