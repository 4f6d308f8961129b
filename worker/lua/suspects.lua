-- What was in a process's hands when it died may have killed it. So before it's worked on again it's rehearsed: its mail
-- is built and thrown away, and meanwhile its name stands in mail:rehearsals. What isn't survived twice then has killed
-- three processes; what only was there when somebody was killed has not. In front of fetch.lua, beat.lua, rehearse.lua.
--
--   mail:suspects    HASH a message's id, or a job's key -> rehearsals that weren't survived
--   mail:rehearsals  HASH process -> what it rehearses
local SUSPECTS, REHEARSALS = 'mail:suspects', 'mail:rehearsals'
local DEADLY_AFTER = 2
local SUSPECTS_SECONDS = 7 * 86400
local DEADLY = string.format('%.0f worker processes died of it', DEADLY_AFTER + 1)

local function suspect(name)
  redis.call('HSETNX', SUSPECTS, name, 0)
  redis.call('EXPIRE', SUSPECTS, SUSPECTS_SECONDS)
end

-- A dead process's rehearsal counts against what it rehearsed.
local function accuse(process)
  local name = redis.call('HGET', REHEARSALS, process)
  if name then
    redis.call('HDEL', REHEARSALS, process)
    suspect(name)
    redis.call('HINCRBY', SUSPECTS, name, 1)
  end
end

-- Whether it has killed three; then it's forgotten.
local function is_deadly(name)
  if (tonumber(redis.call('HGET', SUSPECTS, name)) or 0) < DEADLY_AFTER then
    return false
  end
  redis.call('HDEL', SUSPECTS, name)
  return true
end
