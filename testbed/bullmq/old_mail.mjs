// What the old worker and its cron did with one job: a mail by nodemailer, an update of one row by Supabase's data API.
import nodemailer from 'nodemailer'

const { SMTP_HOST, SMTP_PORT, SMTP_USER, SMTP_PASS, SMTP_TIMEOUT_MS, SUPABASE_URL, SUPABASE_SECRET_KEY } = process.env
const BRAND = 'The old worker'

export function makeTransport(connections) {
  const port = Number(SMTP_PORT)
  return nodemailer.createTransport({
    pool: true,
    maxConnections: connections,
    host: SMTP_HOST,
    port,
    secure: port === 465,
    requireTLS: true,
    auth: { user: SMTP_USER, pass: SMTP_PASS },
    tls: { rejectUnauthorized: false },
    // nodemailer's own is ten minutes.
    ...(SMTP_TIMEOUT_MS ? { socketTimeout: Number(SMTP_TIMEOUT_MS) } : {}),
  })
}

export async function send(transport, { email, subject }, html) {
  const { messageId, response } = await transport.sendMail({
    from: `"${BRAND}" <${SMTP_USER}>`,
    to: email,
    replyTo: SMTP_USER,
    subject,
    html,
    headers: {
      'X-Priority': '3',
      'X-MSMail-Priority': 'Normal',
      Importance: 'Normal',
      'List-Unsubscribe': `<mailto:${SMTP_USER}?subject=unsubscribe>`,
    },
  })
  return { messageId, response }
}

export const personal = ({ html, subscriberName }) => html.replaceAll('{{name}}', subscriberName || 'Subscriber')

export async function setSent({ campaignId, subscriberId }) {
  const where = new URLSearchParams({ campaign_id: `eq.${campaignId}`, subscriber_id: `eq.${subscriberId}` })
  await patch(`campaign_subscribers?${where}`, { sent: true, sent_at: new Date().toISOString() })
}

export async function setCampaignSent(campaignId) {
  await patch(`campaigns?${new URLSearchParams({ id: `eq.${campaignId}` })}`, { status: 'sent' })
}

async function patch(path, row) {
  const answer = await fetch(`${SUPABASE_URL}/rest/v1/${path}`, {
    method: 'PATCH',
    headers: {
      apikey: SUPABASE_SECRET_KEY,
      Authorization: `Bearer ${SUPABASE_SECRET_KEY}`,
      'Content-Type': 'application/json',
      Prefer: 'return=minimal',
    },
    body: JSON.stringify(row),
  })
  if (!answer.ok) throw new Error(`the data API answers ${answer.status}: ${await answer.text()}`)
}
