-- Claims a mail just before its content goes out.
--
-- KEYS[1]  mail:ledger:CAMPAIGN  HASH subscriber -> state
-- ARGV[1]  subscriber
-- ARGV[2]  claimant: an id of this try, without a colon
-- ARGV[3]  seconds after which a claim without a result is taken for abandoned
-- ARGV[4]  seconds that the ledger is kept
--
-- A state is a letter, then `:milliseconds:` and a detail:
--   c claimed (detail: claimant)   s sent   f failed   u uncertain   (detail: the server's words)
--
-- Returns {verdict, wait_ms}:
--   claimed    the mail is the caller's to send
--   uncertain  likewise, but an earlier try may have been accepted
--   done       it was sent or has failed for good: leave it
--   busy       another process is sending it: come back in wait_ms
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local verdict = 'claimed'
local state = redis.call('HGET', KEYS[1], ARGV[1])
if state then
  local kind, since_ms, detail = string.match(state, '^(%a):(%d+):(.*)$')
  if kind == 's' or kind == 'f' then
    return { 'done', 0 }
  end
  if kind == 'c' then
    local wait_ms = since_ms + ARGV[3] * 1000 - now_ms
    if detail ~= ARGV[2] and wait_ms > 0 then
      return { 'busy', math.ceil(wait_ms) }
    end
  end
  -- The caller's own claim is here when the client repeats a command whose answer was lost.
  if detail ~= ARGV[2] then
    verdict = 'uncertain'
  end
end
redis.call('HSET', KEYS[1], ARGV[1], 'c:' .. string.format('%.0f', now_ms) .. ':' .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return { verdict, 0 }
