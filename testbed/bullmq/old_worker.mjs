// The worker that this project replaces: node old_worker.mjs 5|6 QUEUE PREFIX, with its variables in the environment.
// As on the old VPS it leaves {{name}} in the mail as it is.
import { connect, loadBullMQ } from './bullmq.mjs'
import { makeTransport, send, setSent } from './old_mail.mjs'

const [major, queueName, prefix] = process.argv.slice(2)
const concurrency = Number(process.env.WORKER_CONCURRENCY)
// Tests want to count what it has completed.
const keep =
  process.env.OLD_KEEP === 'all'
    ? {}
    : { removeOnComplete: { count: 1000, age: 86400 }, removeOnFail: { count: 5000 } }

const { Worker } = await loadBullMQ(major)
const transport = makeTransport(concurrency)
const connection = connect()
const worker = new Worker(
  queueName,
  async ({ data }) => {
    const result = await send(transport, data, data.html)
    await setSent(data)
    return result
  },
  { connection, prefix, concurrency, ...keep },
)
worker.on('completed', (job) => console.log(`completed ${job.id}`))
worker.on('failed', (job, error) => console.log(`failed ${job?.id}: ${error.message}`))
worker.on('error', (error) => console.error(`worker: ${error.message}`))

process.on('SIGTERM', async () => {
  await worker.close()
  transport.close()
  await connection.quit()
  process.exit(0)
})
await worker.waitUntilReady()
console.log('ready')
