// A peer for the benchmarks: what a web developer writes with BullMQ, nodemailer and supabase-js.
import { createClient } from '@supabase/supabase-js'
import { Worker } from 'bullmq'
import { Redis } from 'ioredis'
import nodemailer from 'nodemailer'
import WebSocket from 'ws'

const concurrency = Number(process.env.WORKER_CONCURRENCY)
const supabase = createClient(process.env.SUPABASE_URL, process.env.SUPABASE_SECRET_KEY, {
  auth: { persistSession: false },
  // Node 20 has no WebSocket of its own, which supabase-js asks for.
  realtime: { transport: WebSocket },
})
const transport = nodemailer.createTransport({
  pool: true,
  maxConnections: concurrency,
  maxMessages: 100,
  host: process.env.SMTP_HOST,
  port: Number(process.env.SMTP_PORT),
  secure: true,
  auth: { user: process.env.SMTP_USER, pass: process.env.SMTP_PASS },
})
const worker = new Worker(
  'mail',
  async ({ data }) => {
    await transport.sendMail({
      from: data.from,
      to: data.to,
      subject: data.subject,
      html: data.html,
      list: { unsubscribe: data.unsubscribeUrl },
    })
    const { error } = await supabase
      .from('campaign_subscribers')
      .update({ sent: true, sent_at: new Date().toISOString() })
      .eq('campaign_id', data.campaignId)
      .eq('subscriber_id', data.subscriberId)
    if (error) throw new Error(error.message)
  },
  {
    concurrency,
    connection: new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null }),
  },
)
worker.on('ready', () => console.log('ready'))
worker.on('error', (error) => console.error(error.message))
process.on('SIGTERM', async () => {
  await worker.close()
  transport.close()
  process.exit(0)
})
