-- Sorts waiting messages while no process has room for one: a mail outside any campaign goes before a campaign's
-- thousands, but first it must be found among them. Behind ids.lua and lanes.lua.
--
-- KEYS[12]  mail:sorting  STRING, for as long as another process needn't do the same
-- ARGV[1]   ids to sort at the most   ARGV[2]  ms for which others needn't
--
-- Returns the ids left to sort.
if redis.call('SET', KEYS[12], 1, 'NX', 'PX', ARGV[2]) then
  sort_some(tonumber(ARGV[1]))
end
return redis.call('LLEN', WAITING)
