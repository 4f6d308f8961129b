// Composes mails as the web app did: takes one of nodemailer's messages a line on standard input, as it stands in a job,
// and answers with the mail that nodemailer gives to a server, in base64, and its envelope. testbed/node_lines.py speaks
// to it.
import { createInterface } from 'node:readline'
import nodemailer from 'nodemailer'

// A job holds what JSON.stringify makes of a Buffer.
const revive = (_, value) => (value?.type === 'Buffer' && Array.isArray(value.data) ? Buffer.from(value.data) : value)

// The whole of sendMail up to the transport: the composer alone knows no `list` and no `priority`.
const composer = nodemailer.createTransport({
  name: 'composer',
  version: '1',
  send({ message }, done) {
    message.build((error, mail) => done(error, { mail, envelope: message.getEnvelope() }))
  },
})

for await (const line of createInterface({ input: process.stdin })) {
  let answer
  try {
    const { mail, envelope } = await composer.sendMail(JSON.parse(line, revive))
    answer = { ok: { mail: mail.toString('base64'), envelope } }
  } catch (error) {
    answer = { error: error.message }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
