-- Takes messages for a process: from the campaign that was served least, of the highest priority that has any.
--
-- KEYS[12]  dramatiq:__acks__.PROCESS.mail  SET of ids that the process has fetched and not settled yet
-- KEYS[13]  mail:woken                      LIST of ids that woke idle processes
-- ARGV[1]   process   ARGV[2]  messages wanted   ARGV[3]  bytes after which no further message is taken
-- ARGV[4]   ids to sort into lanes at the most
--
-- Returns {ids and messages in turn, ids left to sort, ms until the next delayed message is due or ''}.
redis.call('ZADD', HEARTBEATS, NOW_MS, ARGV[1])
local next_due = promote()
for _, id in ipairs(redis.call('LPOP', KEYS[13], 1000) or {}) do
  sort(id)
end
for _, id in ipairs(redis.call('LPOP', WAITING, ARGV[4]) or {}) do
  sort(id)
end
local taken, bytes = {}, 0
for _, class in ipairs(CLASSES) do
  local lanes = LANES .. ':' .. class
  while #taken < 2 * ARGV[2] and bytes < tonumber(ARGV[3]) do
    local campaign = redis.call('ZRANGE', lanes, 0, 0)[1]
    if not campaign then
      break
    end
    local id = redis.call('LPOP', 'mail:lane:' .. campaign)
    if id then
      redis.call('ZINCRBY', lanes, 1, campaign)
      local data = redis.call('HGET', MESSAGES, id)
      if data then
        redis.call('SADD', KEYS[12], id)
        taken[#taken + 1] = id
        taken[#taken + 1] = data
        bytes = bytes + #data
      end
    else
      redis.call('ZREM', lanes, campaign)
    end
  end
end
return { taken, redis.call('LLEN', WAITING), next_due }
