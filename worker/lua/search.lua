-- Finds jobs that hold one of some words, a part at a time, so that megabytes of HTML stay where they are.
--
-- KEYS[1]  a HASH id -> message, or a LIST or ZSET of the ids of BullMQ's jobs in one state
-- ARGV[1]  where to go on: a cursor, or how many were looked at before; 0 at first
-- ARGV[2]  how many to look at, about   ARGV[3]  bytes after which no further one is looked at
-- ARGV[4]  what the keys of BullMQ's jobs begin with; empty for messages   ARGV[5]  JSON [word, …]
--
-- Returns {where to go on (0: that was all), bytes that were looked at, id, job, …}.
local words = cjson.decode(ARGV[5])
local bytes, answer = 0, { '0', 0 }

local function look(id, data)
  bytes = bytes + #data
  for _, word in ipairs(words) do
    if string.find(data, word, 1, true) then
      answer[#answer + 1] = id
      answer[#answer + 1] = data
      return
    end
  end
end

if ARGV[4] == '' then
  local part = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
  for i = 1, #part[2], 2 do
    look(part[2][i], part[2][i + 1])
  end
  answer[1] = part[1]
else
  local from, ids = tonumber(ARGV[1]), {}
  local kind = redis.call('TYPE', KEYS[1]).ok
  if kind == 'list' then
    -- From the tail: others take there, and add at the head.
    local found = redis.call('LRANGE', KEYS[1], -from - ARGV[2], -from - 1)
    for i = #found, 1, -1 do
      ids[#ids + 1] = found[i]
    end
  elseif kind == 'zset' then
    ids = redis.call('ZRANGE', KEYS[1], from, from + ARGV[2] - 1)
  end
  local looked = 0
  for _, id in ipairs(ids) do
    look(id, redis.call('HGET', ARGV[4] .. id, 'data') or '')
    looked = looked + 1
    if bytes >= tonumber(ARGV[3]) then
      break
    end
  end
  answer[1] = looked == 0 and '0' or string.format('%.0f', from + looked)
end
answer[2] = bytes
return answer
