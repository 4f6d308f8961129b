-- Claims mails just before they go out, if their campaign, the ledger and the account's limits let them.
--
-- KEYS[1]   mail:control                     HASH campaign -> paused:REASON | cancelled:REASON
-- KEYS[2]   mail:alive                       ZSET of living processes
-- KEYS[3]   mail:uncertain                   HASH mail -> [ms, why, held | resent | given up]
-- KEYS[4]   mail:account:NAME                HASH: stopped, stopped_kind, stopped_until, stopped_at, pause_ms: the
--                                            provider refused the account;
--                                            hold_until, interval_ms, slowed_at: it asked for less speed;
--                                            slow_asked_at, slow_asked_why: when it did so last, and its words;
--                                            next_ms: when the interval lets the next mail go;
--                                            period, granted, granted_before: mails in this and the last 10 seconds;
--                                            granted_at, busy_since: the last mail, and the first without a long break
-- KEYS[5]   mail:account:NAME:flight         ZSET claimant -> ms of its claim
-- KEYS[6…]  mail:account:NAME:window:MS      LIST of times in ms, one key for each limit
-- ARGV[1]   JSON {process, fence (see fetch.lua), claim_ms, flight_ms, ledger_seconds, hold, idempotent_ms, limits: [[mails, ms], …], taken: the key of the
--           BullMQ jobs that the process has taken (see bullmq.lua)}
-- ARGV[2]   JSON [[mail, claimant, job, wanted again, may have been sent], …]; see states.lua. The last three are of a
--           BullMQ job, or its id is empty.
--
-- A limit of N mails in a window holds wherever one measures it between claim and result: a mail takes its place with
-- the claim, and leaves it a window's length after its result (lua/record.lua). One of several recipients takes as many:
-- its claimant ends with *N, and its further places are the claimants …*N+2 to …*N+N.
--
-- Returns nothing if it comes late, or verdict and ms to wait in turn:
--   claimed    the mail is the caller's to send
--   uncertain  likewise, but an earlier try may have been accepted
--   held       an earlier try may have been accepted: it waits for an operator
--   done       it was sent, has failed for good or was given up
--   busy       a living process is sending it
--   paused, cancelled   its campaign is
--   wait       the account may not send now
local config, mails = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
if (tonumber(redis.call('HGET', 'mail:fences', config.process)) or 0) ~= config.fence then
  return {}
end
local RECOVER_EVERY_MS = 10000
local IDLE_MS = 5000

-- An old claim of a dead process has no result coming: its place counts from now on, to be safe.
for _, claimant in ipairs(redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', NOW_MS - config.flight_ms)) do
  local lives = redis.call('ZSCORE', KEYS[2], string.match(claimant, '^[^:]*'))
  if not lives or tonumber(redis.call('ZSCORE', KEYS[5], claimant)) <= NOW_MS - config.claim_ms then
    redis.call('ZREM', KEYS[5], claimant)
    for i, limit in ipairs(config.limits) do
      redis.call('RPUSH', KEYS[5 + i], whole(NOW_MS))
      redis.call('PEXPIRE', KEYS[5 + i], limit[2])
    end
  end
end

local account = {}
local fields = redis.call('HGETALL', KEYS[4])
for i = 1, #fields, 2 do
  account[fields[i]] = tonumber(fields[i + 1]) or fields[i + 1]
end
local changes = {}
local function set(field, value)
  account[field] = value
  changes[field] = value
end

local interval_ms = account.interval_ms or 0
if interval_ms > 0 and NOW_MS - account.slowed_at > RECOVER_EVERY_MS then
  interval_ms = interval_ms * 0.7
  if interval_ms < 5 then
    interval_ms = 0
  end
  set('interval_ms', interval_ms)
  set('slowed_at', NOW_MS)
end

local flight = redis.call('ZCARD', KEYS[5])

-- A mail counts as often as it has recipients, which its claimant tells.
local function places_of(claimant)
  return tonumber(string.match(claimant, '%*(%d+)$')) or 1
end

local function limits_wait_ms(places)
  local wait_ms = 0
  for i, limit in ipairs(config.limits) do
    -- One that is more than the limit goes alone.
    local free_after = limit[1] - flight - (math.min(places, limit[1]) - 1)
    if free_after <= 0 then
      wait_ms = math.max(wait_ms, 50)
    else
      local oldest = redis.call('LINDEX', KEYS[5 + i], -free_after)
      if oldest then
        -- At this very millisecond the old mail and the new one would stand in one window.
        wait_ms = math.max(wait_ms, oldest + limit[2] + 1 - NOW_MS)
      end
    end
  end
  return wait_ms
end

-- Takes a place for one mail; returns the ms to wait if there is none.
local function take_place(claimant)
  if account.stopped and NOW_MS < account.stopped_until then
    return account.stopped_until - NOW_MS
  end
  local places = places_of(claimant)
  local wait_ms = math.max((account.hold_until or 0) - NOW_MS, limits_wait_ms(places))
  if interval_ms > 0 then
    wait_ms = math.max(wait_ms, (account.next_ms or 0) - NOW_MS)
  end
  if wait_ms > 0 then
    return wait_ms
  end
  if account.stopped then
    -- One mail tries whether the provider has changed its mind; the others wait for what it says.
    set('stopped_until', NOW_MS + account.pause_ms)
  end
  if interval_ms > 0 then
    set('next_ms', NOW_MS + interval_ms * places)
  end
  local period = math.floor(NOW_MS / 10000)
  if account.period ~= period then
    set('granted_before', account.period == period - 1 and account.granted or 0)
    set('period', period)
    set('granted', 0)
  end
  set('granted', account.granted + places)
  if NOW_MS - (account.granted_at or 0) > IDLE_MS then
    set('busy_since', NOW_MS)
  end
  set('granted_at', NOW_MS)
  for place = 1, places do
    flight = flight + redis.call('ZADD', KEYS[5], NOW_MS, place == 1 and claimant or claimant .. '+' .. place)
  end
  return 0
end

local function claim(mail, claimant, job, again, suspect)
  local control = mail[1] ~= '' and redis.call('HGET', KEYS[1], mail[1])
  if control then
    local state = string.match(control, '^%a+')
    if state == 'cancelled' then
      count(mail, 'cancelled', 1, config.ledger_seconds)
    end
    return state, 0
  end
  local kind, since_ms, detail = read_state(mail)
  local verdict = 'claimed'
  local claimed_since_ms = nil
  -- By a retry by hand, the app's owner decides like an operator; what was sent is never sent again.
  local reopened = again and (kind == 'f' or kind == 'u' or kind == 'g') and kind
  if reopened then
    kind = nil
  end
  if kind == 's' and suspect and redis.call('HEXISTS', KEYS[3], mail[4]) == 0 then
    list_uncertain(mail, KEYS[3], 'another worker took a second job of it and never finished', 'resent',
      config.ledger_seconds)
  end
  if kind == 's' or kind == 'f' or kind == 'g' then
    return 'done', 0
  elseif kind == 'u' and config.hold then
    -- It was listed as sent again where that is what `hold` has replaced.
    if not is_held(mail[4], KEYS[3]) then
      redis.call('HSET', KEYS[3], mail[4], cjson.encode({ since_ms, detail, 'held' }))
    end
    return 'held', 0
  elseif kind == 'c' and detail ~= claimant then
    local owner = string.match(detail, '^[^:]*')
    local age_ms = NOW_MS - since_ms
    if age_ms < config.claim_ms and redis.call('ZSCORE', KEYS[2], owner) then
      return 'busy', math.min(config.claim_ms - age_ms, 5000)
    end
    -- Within the time for which the provider remembers a mail's key, it drops a second copy itself.
    if age_ms >= config.idempotent_ms then
      verdict = 'uncertain'
    else
      -- The provider counts from the first try on.
      claimed_since_ms = since_ms
    end
  end
  -- With the claimant's own claim, a client repeats a command whose answer was lost.
  local why = 'its process died before the server\'s reply was recorded'
  if suspect and not kind and not reopened then
    verdict, why = 'uncertain', 'another worker took it and never finished'
  end
  if verdict == 'uncertain' and config.hold then
    write_state(mail, 'u', why, config.ledger_seconds)
    list_uncertain(mail, KEYS[3], why, 'held', config.ledger_seconds)
    return 'held', 0
  end
  local wait_ms = take_place(claimant)
  if wait_ms > 0 then
    return 'wait', math.ceil(wait_ms)
  end
  if verdict == 'uncertain' then
    list_uncertain(mail, KEYS[3], why, 'resent', config.ledger_seconds)
  end
  write_state(mail, 'c', claimant, config.ledger_seconds, claimed_since_ms)
  if reopened == 'f' then
    count(mail, 'failed', -1, config.ledger_seconds)
  elseif reopened == 'g' then
    count(mail, 'given_up', -1, config.ledger_seconds)
  elseif reopened == 'u' then
    redis.call('HDEL', KEYS[3], mail[4])
    redis.call('HDEL', KEYS[3] .. ':msgs', mail[4])
  end
  if job ~= '' then
    redis.call('HSET', config.taken, job, cjson.encode(mail))
  end
  return verdict, 0
end

local answers = {}
for _, item in ipairs(mails) do
  local verdict, wait_ms = claim(unpack(item))
  answers[#answers + 1] = verdict
  answers[#answers + 1] = wait_ms
end
for field, value in pairs(changes) do
  redis.call('HSET', KEYS[4], field, value)
end
return answers
