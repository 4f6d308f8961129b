-- Shared by claim, record and uncertain: what the ledger holds. Stands in front of each of them, behind clock.lua.
--
--   mail:ledger:CAMPAIGN  HASH subscriber -> state;  mail:single:ID likewise, for a mail outside any campaign
--   mail:counts:CAMPAIGN  HASH sent | failed | uncertain | given_up | cancelled -> number of mails; recipients -> how
--                         many there are in all, as the recorder counted them last
-- A state is a letter, then `:milliseconds:` and a detail:
--   c claimed (detail: the claimant, PROCESS:NUMBER, or - if there's none)   s sent   f failed   u uncertain
--   g given up: the last try is uncertain, too   (detail: the server's words)
-- A mail is given as {campaign, subscriber, identity, name}; campaign and subscriber are empty outside any campaign, and
-- the name is the mail's field in mail:uncertain.

local function whole(number)
  return string.format('%.0f', number)
end

local function place(mail)
  if mail[1] == '' then
    return 'mail:single:' .. mail[3], '-'
  end
  return 'mail:ledger:' .. mail[1], mail[2]
end

local function read_state(mail)
  local state = redis.call('HGET', place(mail))
  if state then
    local kind, since_ms, detail = string.match(state, '^(%a):(%d+):(.*)$')
    return kind, tonumber(since_ms), detail
  end
end

local function write_state(mail, kind, detail, seconds, since_ms)
  local key, field = place(mail)
  redis.call('HSET', key, field, kind .. ':' .. whole(since_ms or (kind == 'c' and NOW_MS or REAL_MS)) .. ':' .. detail)
  redis.call('EXPIRE', key, seconds)
end

local function count(mail, result, number, seconds)
  if mail[1] ~= '' then
    local key = 'mail:counts:' .. mail[1]
    redis.call('HINCRBY', key, result, number)
    redis.call('EXPIRE', key, seconds)
  end
end

local function is_held(name, listed)
  local found = redis.call('HGET', listed, name)
  return found and cjson.decode(found)[3] == 'held'
end

-- Lists a mail for `mail-worker uncertain`; `held`, `resent` when it will be sent once more, or `given up`.
local function list_uncertain(mail, listed, why, resolution, seconds)
  redis.call('HSET', listed, mail[4], cjson.encode({ REAL_MS, why, resolution }))
  count(mail, 'uncertain', 1, seconds)
end
