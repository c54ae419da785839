// node-redis with its default settings: node_redis_client.js HOST PORT PROTOCOL basics|count.
'use strict';
const assert = require('node:assert');
const { createClient, RESP_TYPES, ErrorReply, WatchError } = require('redis');
const { count, scanned } = require('./common.js');

const [host, port, protocol, what] = process.argv.slice(2);
const prefix = `node-redis:${protocol}:`;
const create = () => createClient({ url: `redis://${host}:${port}`, RESP: Number(protocol) });

async function values(client) {
  const key = prefix + 'value';
  const buffers = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  const binary = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  for (const value of [Buffer.from(''), binary, Buffer.from('\r\n$-1\r\n'), Buffer.alloc(500_000, 'x')]) {
    assert.strictEqual(String(await client.set(key, value)), 'OK');
    assert.deepStrictEqual(await buffers.get(key), value);
  }
  assert.strictEqual(await client.get(prefix + 'absent'), null);
  assert.strictEqual(await client.set(key, 'no', { NX: true }), null);
  await client.set(prefix + 'ü', 'größer');
  assert.deepStrictEqual(await client.mGet([prefix + 'ü', prefix + 'absent']), ['größer', null]);
  await client.mSet({ [prefix + 'm1']: '1', [prefix + 'm2']: '2' });
  assert.strictEqual(await client.incrBy(prefix + 'm1', 41), 42);
  assert.strictEqual(await client.del([key, prefix + 'm1', prefix + 'm2']), 3);
  await client.set(key, '1', { EX: 100 });
  const ttl = await client.ttl(key);
  assert.ok(ttl > 0 && ttl <= 100, String(ttl));
  assert.strictEqual(Number(await client.persist(key)), 1);
}

async function pipelines(client) {
  const key = prefix + 'piped';
  const sent = Array.from({ length: 1000 }, (_, n) => client.set(key, String(n)).then(String));
  assert.deepStrictEqual(await Promise.all(sent), Array(1000).fill('OK'));
  assert.deepStrictEqual(await client.multi().set(key, '1').incr(key).get(key).exec(), ['OK', 2, '2']);
  await client.watch(key);
  const other = await create().connect();
  await other.set(key, "another's");
  await assert.rejects(client.multi().set(key, 'mine').exec(), WatchError);
  assert.strictEqual(await client.get(key), "another's");
  await other.close();
}

async function basics() {
  const client = await create().connect();
  await values(client);
  await pipelines(client);
  await scanned(prefix, (pairs) => client.mSet(pairs),
    client.scanIterator({ MATCH: prefix + 'scan:*', COUNT: 40 }));
  await client.set(prefix + 'text', 'text');
  const refusal = (part) => (error) => error instanceof ErrorReply && error.message.includes(part);
  await assert.rejects(client.incr(prefix + 'text'), refusal('not an integer'));
  await assert.rejects(client.sendCommand(['NOSUCH']), refusal('unknown command'));
  assert.match(await client.info(), /redis_version:/);
  await client.close();
}

async function counting() {
  const client = create();
  client.on('error', () => {});
  await client.connect();
  await count(prefix, (...words) => client.sendCommand(words));
}

({ basics, count: counting })[what]().then(() => process.exit(0));
