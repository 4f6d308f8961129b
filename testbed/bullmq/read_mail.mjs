// Reads mails with the npm package postal-mime: takes one a line on standard input, in base64 within JSON, and answers
// with what stands in it. testbed/node_lines.py speaks to it.
import { createInterface } from 'node:readline'
import PostalMime from 'postal-mime'

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const raw = Buffer.from(JSON.parse(line), 'base64')
    answer = { ok: await PostalMime.parse(raw, { attachmentEncoding: 'base64', forceRfc822Attachments: true }) }
  } catch (error) {
    answer = { error: error.message }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
