-- Records mails' results and queues the database updates: one atomic step, so that neither exists without the other.
--
-- KEYS[1]   mail:outbox                   STREAM of results that the database doesn't hold yet
-- KEYS[2]   mail:campaigns                SET    of campaigns that aren't known to be complete
-- KEYS[3]   mail:uncertain                HASH   mail -> [ms, why, held | resent | given up]
-- KEYS[4]   mail:control                  HASH   campaign -> paused:REASON | cancelled:REASON
-- KEYS[5]   mail:lanes                    prefix of the ZSETs of campaigns whose messages are taken
-- KEYS[6]   mail:uncertain:msgs           HASH   mail -> message that is held
-- KEYS[7]   mail:totals                   HASH   result -> number of mails, since the fleet's first day
-- KEYS[8]   mail:account:NAME             HASH   (see claim.lua)
-- KEYS[9]   mail:account:NAME:flight      ZSET   claimant -> ms of its claim
-- KEYS[10…] mail:account:NAME:window:MS   LIST   of times in ms, one key for each limit
-- ARGV[1]   JSON {ledger_seconds, single_seconds and kept_job_seconds: for which a mail outside any campaign is remembered
--           once its job is finished and gone, or kept; hold, pause_percent, pause_from, limits: [[mails, ms], …], process, queue and own: what
--           the keys of BullMQ's queue begin with (see bullmq.lua)}
-- ARGV[2]   JSON [[mail, claimant, result, words, job], …]; see states.lua. The claimant is empty if there was no claim.
--           A job is false, or [id, timestamp, returnvalue, keep completed, keep failed] of the BullMQ job that the
--           result finishes.
--             s sent   f failed   u uncertain   r refused for now, so that nothing is uncertain: the claim is given back
--             g given up: it may have been accepted, and isn't tried again
--             w sent by somebody else: the database has it
--             k maybe accepted, but the provider drops a second copy: nobody's claim, as old as the first one
--
-- Returns the campaigns that were paused because too many of their mails failed.
local config, results = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local SHORT_WINDOW_MS = 60000
local NAMES = { s = 'sent', f = 'failed', g = 'given_up' }
local TOTALS = { s = 'accepted', f = 'failed', g = 'given_up', u = 'uncertain' }
local paused = {}

local function leave_place(claimant, accepted)
  if claimant == '' or redis.call('ZREM', KEYS[9], claimant) == 0 then
    return
  end
  local times = { whole(NOW_MS) }
  -- As claim.lua has taken them: one for each recipient.
  for place = 2, tonumber(string.match(claimant, '%*(%d+)$')) or 1 do
    redis.call('ZREM', KEYS[9], claimant .. '+' .. place)
    times[place] = times[1]
  end
  for i, limit in ipairs(config.limits) do
    -- What wasn't accepted still was traffic, but it spends nothing of an hour's or a day's quota.
    if accepted or limit[2] <= SHORT_WINDOW_MS then
      local key = KEYS[9 + i]
      redis.call('RPUSH', key, unpack(times))
      redis.call('LTRIM', key, -limit[1], -1)
      redis.call('PEXPIRE', key, limit[2] + 1000)
    end
  end
end

local function pause_if_too_many_fail(campaign)
  local key = 'mail:counts:' .. campaign
  local counts = redis.call('HMGET', key, 'failed', 'sent', 'failed_before', 'sent_before')
  local failed, sent = (counts[1] or 0) - (counts[3] or 0), (counts[2] or 0) - (counts[4] or 0)
  if failed >= config.pause_from and failed * 100 > config.pause_percent * (failed + sent) then
    local reason = string.format('%.0f of %.0f mails failed', failed, failed + sent)
    if redis.call('HSETNX', KEYS[4], campaign, 'paused:' .. reason) == 1 then
      for _, class in ipairs({ 'high', 'normal', 'low' }) do
        redis.call('ZREM', KEYS[5] .. ':' .. class, campaign)
      end
      paused[#paused + 1] = campaign
    end
  end
end

-- A mail's result and its job's end are one step: nothing can die between "sent" and "completed".
local function finish_job(mail, words, id, timestamp, returnvalue, keep_completed, keep_failed)
  if not release(id, config.process, timestamp) then
    return
  end
  if read_state(mail) == 's' then
    finish(id, 'completed', returnvalue, keep_completed)
  else
    finish(id, 'failed', words, keep_failed)
  end
  if mail[1] == '' then
    -- As settle.lua has it for messages.
    local key = place(mail)
    redis.call('EXPIRE', key, redis.call('EXISTS', QUEUE .. id) == 1 and config.kept_job_seconds or config.single_seconds)
  end
end

-- A result that is the last word. Where it comes without a claim, what another process had claimed may have left.
local function conclude(mail, result, before)
  local words, ledger_seconds = result.words, config.ledger_seconds
  write_state(mail, result.letter, words, ledger_seconds)
  if (before == 'taken' or before == 'sending') and result.claimant == '' then
    list_uncertain(mail, KEYS[3], 'its process died, and its job can\'t be tried again', 'resent', ledger_seconds)
  elseif before == 'u' then
    -- A mail that was given up may have been accepted all the same: it stays listed.
    if result.letter == 's' then
      redis.call('HDEL', KEYS[3], mail[4])
    end
    redis.call('HDEL', KEYS[6], mail[4])
  elseif before == 'g' then
    count(mail, 'given_up', -1, ledger_seconds)
  end
  if result.letter == 'g' then
    list_uncertain(mail, KEYS[3], words, 'given up', ledger_seconds)
  end
  count(mail, NAMES[result.letter], 1, ledger_seconds)
  if mail[1] == '' then
    return
  end
  if result.is_for_database then
    redis.call('XADD', KEYS[1], '*', 'campaign', mail[1], 'subscriber', mail[2], 'result', result.letter,
      'at', whole(REAL_MS), 'words', result.letter == 'f' and words or '')
  end
  local control = redis.call('HGET', KEYS[4], mail[1])
  if not control or string.sub(control, 1, 9) ~= 'cancelled' then
    redis.call('SADD', KEYS[2], mail[1])
  end
  if result.letter == 'f' and config.pause_percent < 100 then
    pause_if_too_many_fail(mail[1])
  end
end

local function doubt(mail, result)
  write_state(mail, 'u', result.words, config.ledger_seconds)
  list_uncertain(mail, KEYS[3], result.words, config.hold and 'held' or 'resent', config.ledger_seconds)
end

-- Nobody's claim any more, as old as the first try that may have been accepted.
local function disown(mail, result)
  write_state(mail, 'c', '-', config.ledger_seconds, result.since_ms)
end

local function give_back_claim(mail, result)
  if result.since_ms < result.claimed_at_ms then
    disown(mail, result) -- This try hasn't changed what an earlier one left.
  else
    redis.call('HDEL', place(mail))
  end
end

-- What a result does, by what the ledger has of the mail: nothing yet (`none`), the result's own claim (`mine`), one of a
-- living process while the result comes without any (`sending`: a second message is broken, and the first one's result
-- counts), another one's (`taken`), u or g. What was sent or has failed for good stays so.
local TRANSITIONS = {
  s = { none = conclude, mine = conclude, sending = conclude, taken = conclude, u = conclude, g = conclude },
  f = { none = conclude, mine = conclude, taken = conclude, u = conclude },
  g = { none = conclude, mine = conclude, sending = conclude, taken = conclude, u = conclude },
  u = { none = doubt, mine = doubt, sending = doubt, taken = doubt, u = doubt },
  r = { mine = give_back_claim },
  k = { mine = disown },
}

local function situation(kind, detail, claimant)
  if kind ~= 'c' then
    return kind or 'none'
  elseif detail == claimant then
    return 'mine'
  elseif claimant == '' and redis.call('ZSCORE', config.alive, string.match(detail, '^[^:]*')) then
    return 'sending'
  end
  return 'taken'
end

-- Results since the fleet's first day: unlike a campaign's counts, they only rise. What an operator or the database says
-- was no server's reply.
local tallies = {}
local function tally(letter, claimant)
  local name = TOTALS[letter]
  if name and (claimant ~= '' or letter ~= 's') then
    tallies[name] = (tallies[name] or 0) + 1
  end
end

open(config.queue, config.own)
for _, item in ipairs(results) do
  local mail, claimant, letter, words, job = item[1], item[2], item[3], item[4], item[5]
  local kind, since_ms, detail = read_state(mail)
  local result = {
    letter = letter == 'w' and 's' or letter,
    words = words,
    claimant = claimant,
    since_ms = since_ms,
    claimed_at_ms = claimant ~= '' and tonumber(redis.call('ZSCORE', KEYS[9], claimant) or 0) or 0,
    is_for_database = letter == 's' or letter == 'f',
  }
  leave_place(claimant, letter ~= 'r' and letter ~= 'f')
  if letter == 's' and redis.call('HEXISTS', KEYS[8], 'stopped') == 1 then
    redis.call('HDEL', KEYS[8], 'stopped', 'stopped_kind', 'stopped_until', 'pause_ms', 'stopped_with')
  end
  local before = situation(kind, detail, claimant)
  local transition = TRANSITIONS[result.letter][before]
  if transition then
    transition(mail, result, before)
    tally(letter, claimant)
  end
  if job and NAMES[result.letter] then
    finish_job(mail, words, unpack(job))
  end
end
for name, number in pairs(tallies) do
  redis.call('HINCRBY', KEYS[7], name, number)
end
return paused
