// What the two scripts for Node.js have in common.
'use strict';
const assert = require('node:assert');

// Counts until the input ends, plain and under ONCE; prints how often it was answered, and how often not.
async function count(prefix, call) {
  let ended = false;
  process.stdin.resume().on('end', () => { ended = true; });
  const told = { plain: 0, once: 0, errors: 0 };
  // An error may come without any wait in between: the event loop, and with it the end of the input, has its turn.
  const failed = () => { told.errors += 1; return new Promise(setImmediate); };
  for (let step = 1; !ended; step++) {
    await call('INCR', prefix + 'plain').then(() => { told.plain += 1; }, failed);
    for (let done = false; !done;) {
      await call('ONCE', prefix + step, 'INCR', prefix + 'once').then(() => { done = true; }, failed);
    }
    told.once += 1;
  }
  console.log(JSON.stringify(told));
}

// Sets keys, and finds each of them in the pages of a scan.
async function scanned(prefix, set, pages) {
  const keys = Array.from({ length: 300 }, (_, n) => `${prefix}scan:${n}`);
  await set(Object.fromEntries(keys.map((key) => [key, 'v'])));
  const found = new Set();
  for await (const page of pages) page.forEach((key) => found.add(key));
  assert.deepStrictEqual(found, new Set(keys.sort()));
}

module.exports = { count, scanned };
