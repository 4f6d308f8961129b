-- Takes messages and BullMQ's jobs for a process: from the campaign that was served least, of the highest priority that
-- has any. BullMQ's queue is one lane of the normal priority; within it BullMQ's order holds, but where its two ends are
-- of different campaigns, these take turns.
--
-- KEYS[12]  mail:fetched:PROCESS            SET of ids that the process has fetched and not settled yet
-- KEYS[13]  mail:woken                      LIST of ids that woke idle processes
-- KEYS[14]  PREFIX:QUEUE                    what BullMQ's keys begin with (see bullmq.lua)
-- KEYS[15]  mail:bullmq:PREFIX:QUEUE        what our keys about it begin with
-- ARGV[1]   process   ARGV[2]  messages and jobs wanted   ARGV[3]  bytes after which no further one is taken
-- ARGV[4]   ids to sort into lanes at the most   ARGV[5]  jobs wanted at the most   ARGV[6]  the process's name
-- ARGV[7]   ms for which the process listens for jobs if nobody else does   ARGV[8]  its fence
--
-- A call may arrive after its process has given it up: what it took would be nobody's. So the process raises its fence
-- (mail:fences, HASH process -> number) whenever an answer got lost, and a call with another number does nothing.
--
-- Returns nothing if it comes late, or {ids and messages in turn, jobs (see bullmq_take.lua), ids left to sort, ms
-- until the next delayed message is due or '', 1 if the process is to listen for jobs, ids of messages that may have
-- killed a process (see suspects.lua)}.
if (redis.call('HGET', 'mail:fences', ARGV[1]) or '0') ~= ARGV[8] then
  return false
end
redis.call('ZADD', ALIVE, NOW_MS, ARGV[1])
local next_due = promote()
for _, id in ipairs(redis.call('LPOP', KEYS[13], 1000) or {}) do
  sort(id)
end
sort_some(tonumber(ARGV[4]))
local wanted, jobs_wanted = tonumber(ARGV[2]), math.min(ARGV[2], ARGV[5])
local has_jobs = open(KEYS[14], KEYS[15])
local taken, jobs, bytes = {}, {}, 0
local has_suspects, suspects = redis.call('EXISTS', SUSPECTS) == 1, {}
if has_jobs then
  next_due = earlier(next_due, prepare_jobs())
  while #jobs < jobs_wanted do
    local job = adopt_orphan(ARGV[1])
    if not job then
      break
    end
    jobs[#jobs + 1] = job
    bytes = bytes + #job[2]
  end
  if jobs_may_be_taken() then
    enter(JOBS_LANE)
  end
end
for _, class in ipairs(CLASSES) do
  local lanes = LANES .. ':' .. class
  while #taken / 2 + #jobs < wanted and bytes < tonumber(ARGV[3]) do
    local campaign = redis.call('ZRANGE', lanes, 0, 0)[1]
    if not campaign then
      break
    end
    if campaign == JOBS_LANE then
      local job = has_jobs and #jobs < jobs_wanted and take_job(ARGV[1], ARGV[6])
      if job then
        redis.call('ZINCRBY', lanes, 1, campaign)
        jobs[#jobs + 1] = job
        bytes = bytes + #job[2]
      else
        redis.call('ZREM', lanes, campaign)
      end
    else
      local id = redis.call('LPOP', 'mail:lane:' .. campaign)
      if id then
        redis.call('ZINCRBY', lanes, 1, campaign)
        local data = redis.call('HGET', MESSAGES, id)
        if data then
          redis.call('SADD', KEYS[12], id)
          taken[#taken + 1] = id
          taken[#taken + 1] = data
          bytes = bytes + #data
          if has_suspects and redis.call('HEXISTS', SUSPECTS, id) == 1 then
            suspects[#suspects + 1] = id
          end
        end
      else
        redis.call('ZREM', lanes, campaign)
      end
    end
  end
end
local listens = 0
if has_jobs then
  put_back_foreign()
  local full = #taken / 2 + #jobs >= wanted
  listens = listen(ARGV[1], ARGV[7], not full)
  if listens == 2 or (jobs_may_be_taken() and (full or moved_enough())) then
    wake_one()
  end
end
local unsorted = redis.call('LLEN', WAITING)
if #taken + #jobs > 0 then
  keep_awake()
end
return { taken, jobs, unsorted, next_due, listens, suspects }
