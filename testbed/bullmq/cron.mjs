// The old app's other senders: node cron.mjs 5|6 QUEUE PREFIX [--rounds N] [--button] [--crash-before-remove].
// The cron takes ten waiting jobs a round. The button takes those that a worker holds as well, and sets the campaigns
// to sent. Neither takes a lock. With --crash-before-remove it dies once a mail is out and its row updated.
import { parseArgs } from 'node:util'
import { connect, loadBullMQ } from './bullmq.mjs'
import { makeTransport, personal, send, setCampaignSent, setSent } from './old_mail.mjs'

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: 'string', default: '1' },
    button: { type: 'boolean', default: false },
    'crash-before-remove': { type: 'boolean', default: false },
  },
})
const [major, queueName, prefix] = positionals
const wanted = values.button ? [['waiting', 'active'], 0, 50] : [['waiting'], 0, 9]

const { Queue } = await loadBullMQ(major)
const connection = connect()
const queue = new Queue(queueName, { connection, prefix })
const transport = makeTransport(1)

for (let round = 0; round < Number(values.rounds); round += 1) {
  const campaigns = new Set()
  for (const job of await queue.getJobs(...wanted)) {
    try {
      await send(transport, job.data, personal(job.data))
      await setSent(job.data)
      console.log(`sent ${job.id}`)
      if (values['crash-before-remove']) process.exit(1)
      campaigns.add(job.data.campaignId)
      await job.remove()
    } catch (error) {
      console.log(`failed ${job.id}: ${error.message}`)
    }
  }
  if (values.button) for (const id of campaigns) await setCampaignSent(id)
}
transport.close()
await queue.close()
await connection.quit()
