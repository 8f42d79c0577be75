#!/usr/bin/env node
// Hands one job to Longshore over RabbitMQ and waits for its end.
//
//     node submit.mjs --url amqp://build:...@rabbitmq/ JOB.json
//     node submit.mjs --url ... -        (the job from stdin)
//
// Prints the job's events, one JSON object a line, the last of them its end. Exit code: 0 completed, 1 any other end, 2 nothing was
// handed in because the input or the broker is not as it should be, 3 no end in time. Needs amqplib only (npm install amqplib).

import { createHash } from 'node:crypto';
import { createReadStream, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import amqp from 'amqplib';

const ENDS = new Set(['completed', 'failed', 'cancelled', 'timed-out', 'dead-lettered', 'refused']);

/** What the user can mend. */
class Wrong extends Error {}

/** The topic that a job without one gets: its id in lower case, other characters and empty words turned into '-'. */
function topicOf(job) {
  if (job.topic) return job.topic;
  const words = job.id.toLowerCase().split('.').map((word) => word.replace(/[^a-z0-9_-]/g, '-') || '-');
  return words.join('.').slice(0, 120).replace(/\.$/, '-');
}

async function hashOf(path) {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk);
  return hash.digest('hex');
}

/** The job and its text, a local file named with its SHA-256: the worker may see another file under that name. */
async function readJob(name) {
  let text, job;
  try {
    text = readFileSync(name === '-' ? 0 : name, 'utf8');
  } catch (error) {
    throw new Wrong(`${name}: ${error.message}`);
  }
  try {
    job = JSON.parse(text);
  } catch (error) {
    throw new Wrong(`${name} is not JSON: ${error.message}`);
  }
  const missing = ['id', 'kind', 'account'].filter((member) => typeof job?.[member] !== 'string');
  if (missing.length) throw new Wrong(`${name}: a job has an id, a kind and an account; missing: ${missing.join(', ')}`);
  const found = job.spec?.package;
  if (found?.source?.startsWith('file://') && !found.sha256) {
    const hash = await hashOf(fileURLToPath(found.source)).catch((error) => {
      throw new Wrong(`the package: ${error.message}`);
    });
    // The text stays as it is written but for this member: JSON.parse would round numbers above 2^53.
    const at = JSON.stringify(found.source);
    text = text.replaceAll(/"source"\s*:\s*("(?:[^"\\]|\\.)*")/g, (all, source) =>
      JSON.parse(source) === found.source ? `"sha256": "${hash}", "source": ${at}` : all);
  }
  return { job, text };
}

/** A CloudEvent in binary mode: the envelope lies in headers that begin with `ce-`. */
function eventOf({ fields, properties, content }) {
  const envelope = Object.entries(properties.headers ?? {}).filter(([name]) => name.startsWith('ce-'));
  return {
    ...Object.fromEntries(envelope.map(([name, value]) => [name.slice(3), value])),
    datacontenttype: properties.contentType,
    key: fields.routingKey,
    data: JSON.parse(content.toString('utf8')),
  };
}

async function run({ url, prefix, timeout, anonymous }, name) {
  const { job, text } = await readJob(name);
  const connection = await amqp.connect(url);
  try {
    // With confirms the broker says when the job is safe.
    const channel = await connection.createConfirmChannel();
    const broken = new Promise((_, reject) => {
      channel.on('error', reject);
      connection.on('error', reject);
      connection.on('close', () => reject(new Error('the connection ended')));
    });
    broken.catch(() => {});

    // Bind before publishing: an event that nobody is bound for is gone.
    const { queue } = await channel.assertQueue('', { exclusive: true });
    await channel.bindQueue(queue, `${prefix}.events.v1`, `v1.${job.account}.*.*.${topicOf(job)}`);
    const seen = new Set();
    const ended = new Promise((resolve, reject) => {
      const heard = (message) => {
        if (!message) return reject(new Error('the broker ended the following of events'));
        const event = eventOf(message);
        // Delivery is at least once: the first of a source and id counts. Others may share the topic.
        const once = `${event.source} ${event.id}`;
        if (![event.subject, event.data.job].includes(job.id) || seen.has(once)) return;
        seen.add(once);
        console.log(JSON.stringify(event));
        const what = event.type.replace(/^dev\.longshore\.job\./, '').replace(/\.v1$/, '');
        if (ENDS.has(what)) resolve({ what, reason: event.data.reason ?? event.data });
      };
      channel.consume(queue, heard, { noAck: true }).catch(reject);
    });
    ended.catch(() => {});

    // The pipeline's own trace, where it has one: every event of the job carries it.
    const headers = {};
    for (const variable of ['TRACEPARENT', 'TRACESTATE']) {
      if (process.env[variable]) headers[variable.toLowerCase()] = process.env[variable];
    }
    const user = decodeURIComponent(new URL(url).username) || 'guest';
    channel.publish(`${prefix}.jobs.v1`, job.kind + (job.bulk ? '.bulk' : ''), Buffer.from(text), {
      persistent: true,
      contentType: 'application/json',
      messageId: job.id,
      timestamp: Math.floor(Date.now() / 1000),
      // The broker verifies it against the connection's user; without it Longshore does not know who asks.
      userId: anonymous ? undefined : user,
      headers,
    });
    await Promise.race([channel.waitForConfirms(), broken]);

    let timer;
    const late = new Promise((resolve) => { timer = setTimeout(resolve, timeout * 1000); });
    const end = await Promise.race([ended, late, broken]);
    clearTimeout(timer);
    if (!end) {
      console.error(`no end within ${timeout} s; the job goes on: hand it in again to see more`);
      return 3;
    }
    if (end.what === 'completed') return 0;
    console.error(`job ${job.id} is ${end.what}: ${end.reason.message ?? 'no reason was given'}`);
    return 1;
  } finally {
    await connection.close().catch(() => {});
  }
}

try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: 'string' },
      prefix: { type: 'string', default: 'longshore' },
      timeout: { type: 'string', default: '120' },
      anonymous: { type: 'boolean', default: false },
    },
  });
  if (!values.url || positionals.length !== 1) throw new Wrong('usage: submit.mjs --url amqp://... JOB.json');
  process.exitCode = await run({ ...values, timeout: Number(values.timeout) }, positionals[0]);
} catch (error) {
  // Never the URL: it holds a password.
  console.error(error instanceof Wrong || error.code?.startsWith?.('ERR_PARSE_ARGS')
    ? error.message
    : `the broker is not reached, or refused: ${error.message || error.code || error.name}`);
  process.exitCode = 2;
}
