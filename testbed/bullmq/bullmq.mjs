// What the old worker and its cron share: BullMQ in the wanted major, and a connection.
import { Redis } from 'ioredis'

export function loadBullMQ(major) {
  if (major !== '5' && major !== '6') throw new Error(`There is no BullMQ ${major} here: use 5 or 6.`)
  return import(`bullmq${major}`)
}

export function connect() {
  const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null })
  connection.on('error', (error) => console.error(`Redis: ${error.message}`))
  return connection
}
