// Queues the jobs of a JSON lines file as the web app does.
import { readFileSync } from 'node:fs'
import { Queue } from 'bullmq'
import { Redis } from 'ioredis'

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null })
const queue = new Queue('mail', { connection })
const jobs = readFileSync(process.argv[2], 'utf8').trim().split('\n').map((line) => JSON.parse(line))
for (let start = 0; start < jobs.length; start += 1000) {
  await queue.addBulk(
    jobs.slice(start, start + 1000).map((data) => ({ name: 'mail', data, opts: { removeOnComplete: true } })),
  )
}
await queue.close()
await connection.quit()
