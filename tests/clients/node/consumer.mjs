#!/usr/bin/env node
// Follows every end of an account's jobs, for a build system: each is handled once, also when this program was away.
//
//     node consumer.mjs --url amqp://...@rabbitmq/ --queue release-train --account contoso --state ends.json
//
// The queue is this program's own and durable, so that nothing is missed while it is away. With --declare it is declared and bound,
// once, by a user who may, and nothing else is done. Each end is printed as one line `<state> <account>/<job>`. Ctrl-C ends it, and
// --count after so many deliveries. Exit code: 0, or 2 with words when the broker or the arguments are not as they should be.
// Needs amqplib only (npm install amqplib).

import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import amqp from 'amqplib';

const ENDS = ['completed', 'failed', 'cancelled', 'timed-out', 'dead-lettered'];
/** So many ids are remembered: a repeat comes within hours, not after months. */
const REMEMBERED = 100_000;

/** What was handled, in a file that is replaced whole: a crash leaves the old one or the new one. */
class Handled {
  constructor(file) {
    this.file = file;
    this.ids = new Set(existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : []);
  }

  has(id) {
    return this.ids.has(id);
  }

  add(id) {
    this.ids.add(id);
    const kept = [...this.ids].slice(-REMEMBERED);
    this.ids = new Set(kept);
    writeFileSync(`${this.file}.new`, JSON.stringify(kept));
    renameSync(`${this.file}.new`, this.file);
  }
}

async function run({ url, prefix, queue, account, state, declare, count }) {
  const connection = await amqp.connect(url);
  try {
    await follow(connection, { prefix, queue, account, state, declare, count });
  } finally {
    await connection.close().catch(() => {});
  }
}

async function follow(connection, { prefix, queue, account, state, declare, count }) {
  const handled = new Handled(state);
  const channel = await connection.createChannel();
  if (declare) {
    await channel.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
    for (const end of ENDS) await channel.bindQueue(queue, `${prefix}.events.v1`, `v1.${account}.*.${end}.#`);
    return;
  }
  await channel.prefetch(10);
  console.error('listening');
  let left = count;
  await new Promise((resolve, reject) => {
    connection.on('error', reject);
    channel.on('error', reject);
    process.once('SIGINT', resolve);
    const heard = (message) => {
      if (!message) return reject(new Error('the broker ended the consumer'));
      const headers = message.properties.headers ?? {};
      // Delivery is at least once, and every end of a generation has one id whatever its name: the first one counts.
      const once = `${headers['ce-source']} ${headers['ce-id']}`;
      if (!handled.has(once)) {
        const end = headers['ce-type'].replace(/^dev\.longshore\.job\./, '').replace(/\.v1$/, '');
        console.log(`${end} ${headers['ce-source'].replace('/accounts/', '')}/${headers['ce-subject']}`);
        // ORDER: the work first, then the note of it, then the acknowledgement. A crash in between repeats the work: it must
        // bear that, or keep its own note in the same transaction.
        handled.add(once);
      }
      channel.ack(message);
      left -= 1;
      if (left === 0) resolve();
    };
    channel.consume(queue, heard).catch(reject);
  });
  // Closes the channel in good order, so that the last acknowledgement arrives.
  await channel.close();
}

try {
  const { values } = parseArgs({
    options: {
      url: { type: 'string' },
      prefix: { type: 'string', default: 'longshore' },
      queue: { type: 'string' },
      account: { type: 'string' },
      state: { type: 'string', default: 'ends.json' },
      declare: { type: 'boolean', default: false },
      count: { type: 'string', default: '0' },
    },
  });
  for (const needed of ['url', 'queue', 'account']) {
    if (!values[needed]) throw Object.assign(new Error(`--${needed} is missing`), { code: 'ERR_PARSE_ARGS' });
  }
  await run({ ...values, count: Number(values.count) });
} catch (error) {
  // Never the URL: it holds a password.
  console.error(error.code?.startsWith?.('ERR_PARSE_ARGS') ? error.message : `ended: ${error.message || error.code || error.name}`);
  process.exitCode = 2;
}
