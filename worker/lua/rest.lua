-- Idle processes look after the others twice in the time after which one is dead. While nobody has had anything for some
-- minutes they rest instead, until their blocking pop ends. Behind bullmq_take.lua, in front of fetch.lua and beat.lua.
--
--   mail:awake         STRING, for some minutes after somebody had something: nobody goes to rest
--   mail:awake:delays  STRING, for some days after somebody delayed by Dramatiq's own means (lanes.lua): likewise
-- Who rests has a time in mail:alive that lies ahead.
local AWAKE = 'mail:awake'
local AWAKE_MS = 300000
local lanes = { LANES .. ':high', LANES .. ':normal', LANES .. ':low' }

-- Somebody has something in hand, and may die: those who rest look after it from now on.
local function keep_awake()
  if redis.call('SET', AWAKE, '1', 'PX', AWAKE_MS, 'NX') then
    for _ = 1, redis.call('ZCOUNT', ALIVE, NOW_MS + 1, '+inf') do
      redis.call('RPUSH', WAITING, WAKE)
    end
  else
    redis.call('PEXPIRE', AWAKE, AWAKE_MS)
  end
end

-- Whether an idle process may rest; it may be needed while any of the further keys is there.
local function may_rest(rest_ms, has_jobs, ...)
  -- Who has been silent for so long may have died with something in hand.
  if redis.call('ZCOUNT', ALIVE, '-inf', NOW_MS - rest_ms) > 0 then
    return false
  end
  local asked = { AWAKE, AWAKE_FOR_DELAYS, WAITING, lanes[1], lanes[2], lanes[3], ... }
  if has_jobs then
    for _, name in ipairs({ 'wait', 'paused', 'prioritized', 'active' }) do
      asked[#asked + 1] = QUEUE .. name
    end
    asked[#asked + 1] = OWN .. 'orphans'
  end
  return redis.call('EXISTS', unpack(asked)) == 0
end
