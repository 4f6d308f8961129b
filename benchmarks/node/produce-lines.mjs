// Queues a job for each line on standard input, and answers with the time in ms at which it was queued.
import { createInterface } from 'node:readline'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null })
const queue = new Queue('mail', { connection })
await queue.waitUntilReady()
console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  await queue.add('mail', JSON.parse(line), { removeOnComplete: true })
  console.log(Date.now())
}
await queue.close()
await connection.quit()
