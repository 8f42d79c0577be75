#!/usr/bin/env node
// Parses an AsyncAPI document with the reference parser and prints what is wrong with it.
//
//     node asyncapi.mjs docs/schemas/asyncapi.json
//
// Exit code: 0 when it is an AsyncAPI document, 1 with the parser's words when not. Needs @asyncapi/parser.

import { readFileSync } from 'node:fs';

import { Parser } from '@asyncapi/parser';

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
for (const { severity, message, path } of diagnostics) {
  if (severity <= 1) console.error(`${['error', 'warning'][severity]}: ${message} (${path.join('.')})`);
}
if (!document || diagnostics.some(({ severity }) => severity === 0)) {
  process.exitCode = 1;
} else {
  const messages = document.allMessages().all().map((message) => message.id());
  console.log(JSON.stringify({ version: document.version(), channels: document.channels().all().length, messages }));
}
