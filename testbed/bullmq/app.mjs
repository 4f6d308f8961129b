// Plays the web app: does what one command a line on standard input says, with the npm package, and answers on standard
// output. testbed/app.py speaks to it.
//
// node app.mjs MAJOR QUEUE PREFIX; REDIS_URL in the environment.
import { createInterface } from 'node:readline'
import { readFileSync } from 'node:fs'

const [major, queueName, prefix] = process.argv.slice(2)
const { Queue, QueueEvents, FlowProducer, Worker, UnrecoverableError } = await import(`bullmq${major}`)
const { Redis } = await import('ioredis')

const opened = []
const connect = () => {
  const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null })
  opened.push(connection)
  return connection
}
const queue = new Queue(queueName, { connection: connect(), prefix })
queue.on('error', () => {})
let listener
let flows
let worker
let hand
const seen = []

const plain = (job) =>
  job && {
    id: job.id,
    name: job.name,
    data: job.data,
    opts: job.opts,
    attemptsMade: job.attemptsMade,
    attemptsStarted: job.attemptsStarted,
    stalledCounter: job.stalledCounter,
    failedReason: job.failedReason,
    stacktrace: job.stacktrace,
    returnvalue: job.returnvalue,
    processedOn: job.processedOn,
    processedBy: job.processedBy,
    finishedOn: job.finishedOn,
    timestamp: job.timestamp,
    delay: job.delay,
    priority: job.priority,
  }

async function listen() {
  if (listener) return
  // From the beginning: what happens before its first read counts too.
  listener = new QueueEvents(queueName, { connection: connect(), prefix, lastEventId: '0' })
  listener.on('error', () => {})
  const names = ['active', 'added', 'completed', 'delayed', 'drained', 'failed', 'removed', 'retries-exhausted']
  for (const event of [...names, 'stalled', 'waiting']) listener.on(event, (args) => seen.push([event, args]))
  await listener.waitUntilReady()
}

const job = async (id) => {
  const found = await queue.getJob(id)
  if (!found) throw new Error(`there is no job ${id}`)
  return found
}

// What the app's route does: one job for each recipient, named after campaign and address, and no options.
const named = (data, opts) => ({ name: `email-${data.campaignId}-${data.email}`, data, opts })

const operations = {
  add: async ({ name, data, opts }) => (await queue.add(name, data, opts)).id,
  addBulk: async ({ jobs }) => (await queue.addBulk(jobs)).map((one) => one.id),
  addBulkFile: async ({ path, opts, chunk = 1000 }) => {
    const lines = readFileSync(path, 'utf8').trim().split('\n')
    for (let start = 0; start < lines.length; start += chunk) {
      await queue.addBulk(lines.slice(start, start + chunk).map((line) => named(JSON.parse(line), opts)))
    }
    return lines.length
  },
  counts: ({ types = [] }) => queue.getJobCounts(...types),
  jobs: async ({ types, start = 0, end = -1 }) => (await queue.getJobs(types, start, end)).map(plain),
  job: async ({ id }) => plain(await queue.getJob(id)) ?? null,
  state: async ({ id }) => (await job(id)).getState(),
  workers: () => queue.getWorkers(),
  retry: async ({ id, state = 'failed' }) => void (await (await job(id)).retry(state)),
  remove: async ({ id }) => void (await (await job(id)).remove()),
  promote: async ({ id }) => void (await (await job(id)).promote()),
  changePriority: async ({ id, priority }) => void (await (await job(id)).changePriority({ priority })),
  changeDelay: async ({ id, delay }) => void (await (await job(id)).changeDelay(delay)),
  updateData: async ({ id, data }) => void (await (await job(id)).updateData(data)),
  drain: ({ delayed = false }) => queue.drain(delayed),
  obliterate: ({ force = false }) => queue.obliterate({ force }),
  clean: ({ grace = 0, limit = 1000, type }) => queue.clean(grace, limit, type),
  pause: () => queue.pause(),
  resume: () => queue.resume(),
  isPaused: () => queue.isPaused(),
  setGlobalConcurrency: ({ concurrency }) => queue.setGlobalConcurrency(concurrency),
  removeGlobalConcurrency: () => queue.removeGlobalConcurrency(),
  setGlobalRateLimit: ({ max, duration }) => queue.setGlobalRateLimit(max, duration),
  removeGlobalRateLimit: () => queue.removeGlobalRateLimit(),
  upsertJobScheduler: async ({ id, repeat, template }) => (await queue.upsertJobScheduler(id, repeat, template))?.id,
  removeJobScheduler: ({ id }) => queue.removeJobScheduler(id),
  addFlow: async ({ tree }) => {
    flows ??= new FlowProducer({ connection: connect(), prefix })
    return (await flows.add(tree)).job.id
  },
  listen,
  events: () => seen,
  waitUntilFinished: async ({ id, timeoutMs = 30000 }) => {
    await listen()
    return (await job(id)).waitUntilFinished(listener, timeoutMs)
  },
  // A worker of BullMQ's own, which sends nothing.
  worker: async ({ result = 'ok', message = 'refused', milliseconds = 0, options = {} }) => {
    worker = new Worker(
      queueName,
      async () => {
        if (milliseconds) await new Promise((resolve) => setTimeout(resolve, milliseconds))
        if (result === 'fail') throw new Error(message)
        if (result === 'unrecoverable') throw new UnrecoverableError(message)
        return result
      },
      { connection: connect(), prefix, ...options },
    )
    worker.on('error', () => {})
    await worker.waitUntilReady()
  },
  workerClose: async ({ force = false }) => {
    await worker?.close(force)
    worker = undefined
  },
  // One step of such a worker at a time.
  take: async ({ token, options = {} }) => {
    hand ??= new Worker(queueName, null, { connection: connect(), prefix, autorun: false, ...options })
    hand.on('error', () => {})
    await hand.waitUntilReady()
    const taken = await hand.getNextJob(token, { block: false })
    hand.taken = taken
    return plain(taken) ?? null
  },
  complete: async ({ token, value }) => void (await hand.taken.moveToCompleted(value, token, false)),
  fail: async ({ token, message, unrecoverable = false }) => {
    const error = unrecoverable ? new UnrecoverableError(message) : new Error(message)
    error.stack = message
    await hand.taken.moveToFailed(error, token, false)
  },
  delay: async ({ token, milliseconds }) => void (await hand.taken.moveToDelayed(Date.now() + milliseconds, token)),
  sweep: async () => {
    hand ??= new Worker(queueName, null, { connection: connect(), prefix, autorun: false })
    await hand.waitUntilReady()
    await hand.moveStalledJobsToWait()
  },
}

const answer = (n, body) => process.stdout.write(`${JSON.stringify({ n, ...body })}\n`)

async function obey(line) {
  const { n, op, ...args } = JSON.parse(line)
  try {
    answer(n, { ok: (await operations[op](args)) ?? null })
  } catch (error) {
    answer(n, { error: error.message })
  }
}

process.on('unhandledRejection', () => {})
await queue.waitUntilReady()
answer(0, { ok: 'ready' })
for await (const line of createInterface({ input: process.stdin })) void obey(line)
for (const closing of [worker, hand, listener, flows, queue]) await closing?.close().catch(() => {})
for (const connection of opened) connection.disconnect()
process.exit(0)
