-- What `mail-worker status` shows, counted here: an answer of some kB, however many campaigns, processes, waiting
-- messages or mails in a limit's window there are. Behind clock.lua.
--
-- KEYS[1]   dramatiq:mail              LIST of ids            KEYS[2]  dramatiq:mail.msgs     HASH id -> message
-- KEYS[3]   dramatiq:mail.DQ.msgs      HASH id -> message     KEYS[4]  dramatiq:mail.XQ       ZSET of dead ids
-- KEYS[5]   mail:uncertain:msgs        HASH, what is held     KEYS[6]  mail:outbox            STREAM of results
-- KEYS[7]   mail:outbox:parked         STREAM likewise        KEYS[8]  mail:campaigns:parked  HASH campaign -> [ms, why]
-- KEYS[9]   mail:commands              HASH month -> number   KEYS[10] mail:campaigns         SET of open campaigns
-- KEYS[11]  mail:control               HASH campaign -> paused:REASON | cancelled:REASON
-- KEYS[12]  mail:alive                 ZSET of processes      KEYS[13] mail:processes         HASH name -> its line
-- KEYS[14]  mail:lanes                 prefix of the ZSETs :high, :normal, :low of campaigns
-- KEYS[15]  mail:hosts                 HASH host -> its line  KEYS[16] mail:totals            HASH result -> number
-- KEYS[17]  mail:troubles              HASH key -> JSON {sentence, …}
-- KEYS[18]  mail:account:NAME          HASH (see claim.lua)
-- KEYS[19]  mail:account:NAME:flight   ZSET claimant -> ms
-- KEYS[20…] mail:account:NAME:window:MS  LIST of times in ms, one key for each limit
-- Made of names that are found on the way: mail:lane:CAMPAIGN, mail:counts:CAMPAIGN, mail:fetched:PROCESS
-- ARGV[1]   month, as 2026-11   ARGV[2]  what the keys of BullMQ's parked jobs begin with, without the campaign
-- ARGV[3]   ms of silence after which a process isn't shown
-- ARGV[4]   JSON [ms of each window, …]   ARGV[5]  JSON {name: 1, …} of processes that are shown in any case
-- ARGV[6]   what mail:control says of a campaign that an operator has paused
--
-- Returns JSON; worker/operating/status.py reads it.
local windows_ms, asked_for = cjson.decode(ARGV[4]), cjson.decode(ARGV[5])
-- Of each kind so many are looked at, so that Redis serves others in between; and of the JSON about each kind so much
-- goes out.
local MOST_CAMPAIGNS = 1000
local MOST_PAUSED = 2000
local MOST_PROCESSES = 1000
local CAMPAIGNS_BYTES, PROCESSES_BYTES, PARKED_BYTES = 4500, 6000, 1500
local HOSTS_BYTES, TROUBLES_BYTES, PAUSED_BYTES = 3000, 2500, 2000
local REASON_BYTES = 400
-- Heads of lanes, to find the message that waits longest.
local HEADS_BYTES = 1000000
local TAIL_BYTES = 400

-- JSON has no number for all that Lua takes for one.
local function number_in(text)
  local number = tonumber(text) or 0
  return number >= 0 and number < 1e15 and math.floor(number) or 0
end

local function short(text)
  return text and string.sub(text, 1, REASON_BYTES) or ''
end

-- The first of a list of which the JSON has so many bytes. What is longer by itself hides none behind it.
local function within(list, most)
  local shown, bytes = {}, most
  for _, item in ipairs(list) do
    local size = #cjson.encode(item) + 1
    if size <= most then
      bytes = bytes - size
      if bytes < 0 then
        break
      end
      shown[#shown + 1] = item
    end
  end
  return shown
end

-- Some of a HASH's fields with their values in turn, or of a SET's members; all of a small one.
local function some_of(command, key, most)
  local found, cursor, step = {}, '0', command == 'HSCAN' and 2 or 1
  repeat
    local part = redis.call(command, key, cursor, 'COUNT', 500)
    cursor = part[1]
    for i = 1, #part[2] do
      found[#found + 1] = part[2][i]
    end
  until cursor == '0' or #found >= most * step
  return found
end

-- How many of a list of ascending times are later than one.
local function later_than(key, since_ms)
  local from, to = 0, redis.call('LLEN', key)
  local all = to
  while from < to do
    local middle = math.floor((from + to) / 2)
    if tonumber(redis.call('LINDEX', key, middle)) > since_ms then
      to = middle
    else
      from = middle + 1
    end
  end
  return all - from
end

local oldest_ms, heads_bytes = nil, 0
local function look_at_head(list)
  local id = redis.call('LINDEX', list, 0)
  local size = id and redis.call('HSTRLEN', KEYS[2], id) or 0
  if size == 0 or heads_bytes + size > HEADS_BYTES then
    return
  end
  heads_bytes = heads_bytes + size
  -- Dramatiq writes it behind the mail.
  local data = redis.call('HGET', KEYS[2], id)
  local at_ms = tonumber(string.match(string.sub(data, -TAIL_BYTES), '"message_timestamp"%s*:%s*(%d+)')
    or string.match(data, '"message_timestamp"%s*:%s*(%d+)'))
  if at_ms and at_ms < (oldest_ms or math.huge) then
    oldest_ms = at_ms
  end
end

local in_work = 0
for _, process in ipairs(redis.call('ZRANGE', KEYS[12], 0, MOST_PROCESSES - 1)) do
  in_work = in_work + redis.call('SCARD', 'mail:fetched:' .. process)
end

-- Those that were heard of of late.
local named, others, working = {}, {}, 0
local lines = some_of('HSCAN', KEYS[13], MOST_PROCESSES)
for i = 1, #lines, 2 do
  local ok, process = pcall(cjson.decode, lines[i + 1])
  if ok and type(process) == 'table' and REAL_MS - (tonumber(process.seen_at) or 0) * 1000 < tonumber(ARGV[3]) then
    working = working + ((tonumber(process.concurrency) or 0) > 0 and 1 or 0)
    local list = asked_for[lines[i]] and named or others
    list[#list + 1] = { lines[i], lines[i + 1] }
  end
end
table.sort(others, function(one, other) return one[1] < other[1] end)
local number_of_processes = #named + #others
for _, process in ipairs(within(others, PROCESSES_BYTES)) do
  named[#named + 1] = process
end

-- Campaigns that wait or are open: those that paused by themselves first, for they wait for somebody, then by what was
-- heard of them last, for each result renews how long their counts are kept.
local campaigns, known = {}, {}
local function look_at_campaign(name)
  if known[name] then
    return known[name]
  end
  local lane = 'mail:lane:' .. name
  local waiting = redis.call('LLEN', lane)
  if waiting > 0 then
    look_at_head(lane)
  end
  local campaign = { name = name, waiting = waiting, kept_ms = redis.call('PTTL', 'mail:counts:' .. name),
    wants_somebody = false }
  known[name] = campaign
  campaigns[#campaigns + 1] = campaign
  return campaign
end

look_at_head(KEYS[1])
look_at_head('mail:lane:')
-- Those that paused by themselves are named: what isn't would be told as over.
local paused, paused_themselves, number_of_campaigns = 0, {}, redis.call('SCARD', KEYS[10])
local control = some_of('HSCAN', KEYS[11], MOST_PAUSED)
for i = 1, #control, 2 do
  local name = control[i]
  if string.sub(control[i + 1], 1, 6) == 'paused' and not known[name] then
    local campaign = look_at_campaign(name)
    campaign.wants_somebody = control[i + 1] ~= ARGV[6]
    if campaign.wants_somebody then
      paused_themselves[#paused_themselves + 1] = name
    end
    paused = paused + campaign.waiting
    number_of_campaigns = number_of_campaigns + 1 - redis.call('SISMEMBER', KEYS[10], name)
  end
end
table.sort(paused_themselves)
for _, class in ipairs({ 'high', 'normal', 'low' }) do
  for _, name in ipairs(redis.call('ZRANGE', KEYS[14] .. ':' .. class, 0, MOST_CAMPAIGNS - 1)) do
    -- Before its first result it's in no set of campaigns, and isn't shown; but its mails have their age.
    if redis.call('SISMEMBER', KEYS[10], name) == 1 then
      look_at_campaign(name)
    elseif name ~= '' then
      look_at_head('mail:lane:' .. name)
    end
  end
end
for _, name in ipairs(some_of('SSCAN', KEYS[10], MOST_CAMPAIGNS)) do
  look_at_campaign(name)
end
table.sort(campaigns, function(one, other)
  if one.wants_somebody ~= other.wants_somebody then
    return one.wants_somebody
  elseif (one.waiting > 0) ~= (other.waiting > 0) then
    return one.waiting > 0
  elseif one.kept_ms ~= other.kept_ms then
    return one.kept_ms > other.kept_ms
  end
  return one.name < other.name
end)
local rows, bytes = {}, CAMPAIGNS_BYTES
for i, campaign in ipairs(campaigns) do
  local name = campaign.name
  local counts = redis.call('HMGET', 'mail:counts:' .. name, 'sent', 'failed', 'given_up', 'uncertain', 'recipients')
  for j = 1, 5 do
    counts[j] = number_in(counts[j])
  end
  rows[i] = { name, counts[1], counts[2], counts[3], counts[4], counts[5], campaign.waiting,
    redis.call('SCARD', ARGV[2] .. name), short(redis.call('HGET', KEYS[11], name)) }
  bytes = bytes - #cjson.encode(rows[i]) - 1
  if bytes < 0 then
    rows[i] = nil
    break
  end
end

local used = {}
for i, window_ms in ipairs(windows_ms) do
  used[i] = later_than(KEYS[19 + i], NOW_MS - window_ms)
end

local put_aside = {}
local parked = some_of('HSCAN', KEYS[8], 100)
for i = 1, #parked, 2 do
  local ok, value = pcall(cjson.decode, parked[i + 1])
  put_aside[#put_aside + 1] = { parked[i], ok and type(value) == 'table' and short(value[2]) or '' }
end
table.sort(put_aside, function(one, other) return one[1] < other[1] end)

local account = redis.call('HMGET', KEYS[18], 'stopped', 'slow_asked_why', 'stopped_until', 'period', 'granted',
  'granted_before', 'busy_since', 'interval_ms', 'slow_asked_at')
for i, value in ipairs(account) do
  account[i] = short(value)
end

local hosts = {}
local host_lines = some_of('HSCAN', KEYS[15], MOST_PROCESSES)
for i = 1, #host_lines, 2 do
  hosts[#hosts + 1] = host_lines[i + 1]
end
table.sort(hosts)

local troubles = {}
local found_troubles = some_of('HSCAN', KEYS[17], 100)
for i = 1, #found_troubles, 2 do
  local ok, trouble = pcall(cjson.decode, found_troubles[i + 1])
  if ok and type(trouble) == 'table' and type(trouble.sentence) == 'string' then
    troubles[#troubles + 1] = { found_troubles[i], short(trouble.sentence) }
  end
end
table.sort(troubles, function(one, other) return one[1] < other[1] end)

local totals = {}
local counted = redis.call('HGETALL', KEYS[16])
for i = 1, #counted, 2 do
  totals[#totals + 1] = { counted[i], number_in(counted[i + 1]) }
end

-- Not every Redis lets everybody ask.
local info = redis.pcall('INFO', 'memory')
info = type(info) == 'string' and (string.match(info, 'used_memory:%d+') or '') .. '\n'
  .. (string.match(info, 'maxmemory:%d+') or '') or ''

local unrecorded = redis.call('XRANGE', KEYS[6], '-', '+', 'COUNT', 1)[1]

return cjson.encode({
  real_ms = REAL_MS,
  now_ms = NOW_MS,
  messages = redis.call('HLEN', KEYS[2]),
  in_work = in_work,
  delayed = redis.call('HLEN', KEYS[3]),
  dead = redis.call('ZCARD', KEYS[4]),
  held = redis.call('HLEN', KEYS[5]),
  oldest_ms = oldest_ms or false,
  outbox = redis.call('XLEN', KEYS[6]),
  unrecorded_ms = unrecorded and tonumber(string.match(unrecorded[1], '^%d+')) or false,
  parked = redis.call('XLEN', KEYS[7]),
  parked_campaigns = within(put_aside, PARKED_BYTES),
  number_of_parked_campaigns = redis.call('HLEN', KEYS[8]),
  commands = tonumber(redis.call('HGET', KEYS[9], ARGV[1])) or 0,
  commands_inside = tonumber(redis.call('HGET', KEYS[9], ARGV[1] .. ':inside')) or 0,
  paused = paused,
  paused_themselves = within(paused_themselves, PAUSED_BYTES),
  campaigns = rows,
  number_of_campaigns = number_of_campaigns,
  processes = named,
  number_of_processes = number_of_processes,
  working = working,
  hosts = within(hosts, HOSTS_BYTES),
  number_of_hosts = #hosts,
  troubles = within(troubles, TROUBLES_BYTES),
  totals = totals,
  info = info,
  account = account,
  in_flight = redis.call('ZCARD', KEYS[19]),
  used = used,
})
