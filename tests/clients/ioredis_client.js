// ioredis with its default settings: ioredis_client.js HOST PORT PROTOCOL basics|count.
'use strict';
const assert = require('node:assert');
const Redis = require('ioredis');
const { count, scanned } = require('./common.js');

const [host, port, protocol, what] = process.argv.slice(2);
const prefix = `ioredis:${protocol}:`;
const connect = () => new Redis({ host, port: Number(port), protocol: Number(protocol) });

async function values(client) {
  const key = prefix + 'value';
  const binary = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  for (const value of [Buffer.from(''), binary, Buffer.from('\r\n$-1\r\n'), Buffer.alloc(500_000, 'x')]) {
    assert.strictEqual(await client.set(key, value), 'OK');
    assert.deepStrictEqual(await client.getBuffer(key), value);
  }
  assert.strictEqual(await client.get(prefix + 'absent'), null);
  assert.strictEqual(await client.set(key, 'no', 'NX'), null);
  assert.strictEqual(await client.set(prefix + 'ü', 'größer'), 'OK');
  assert.deepStrictEqual(await client.mget(prefix + 'ü', prefix + 'absent'), ['größer', null]);
  await client.mset({ [prefix + 'm1']: 1, [prefix + 'm2']: 2 });
  assert.strictEqual(await client.incrby(prefix + 'm1', 41), 42);
  assert.strictEqual(await client.del(key, prefix + 'm1', prefix + 'm2'), 3);
  await client.set(key, 1, 'EX', 100);
  const ttl = await client.ttl(key);
  assert.ok(ttl > 0 && ttl <= 100, String(ttl));
  assert.strictEqual(await client.persist(key), 1);
}

async function pipelines(client) {
  const key = prefix + 'piped';
  const pipe = client.pipeline();
  for (let n = 0; n < 1000; n++) pipe.set(key, n).get(key);
  const replies = await pipe.exec();
  assert.deepStrictEqual(replies.map(([error, reply]) => error ?? reply), Array.from({ length: 2000 },
    (_, n) => (n % 2 ? String((n - 1) / 2) : 'OK')));
  assert.deepStrictEqual(await client.multi().set(key, 1).incr(key).get(key).exec(),
    [[null, 'OK'], [null, 2], [null, '2']]);
  await client.watch(key);
  const other = connect();
  await other.set(key, "another's");
  assert.strictEqual(await client.multi().set(key, 'mine').exec(), null);
  assert.strictEqual(await client.get(key), "another's");
  await other.quit();
}

async function basics() {
  const client = connect();
  await values(client);
  await pipelines(client);
  await scanned(prefix, (pairs) => client.mset(pairs),
    client.scanStream({ match: prefix + 'scan:*', count: 40 }));
  await client.set(prefix + 'text', 'text');
  await assert.rejects(client.incr(prefix + 'text'), { name: 'ReplyError', message: /not an integer/ });
  await assert.rejects(client.call('NOSUCH'), { name: 'ReplyError', message: /unknown command/ });
  assert.match(await client.info(), /redis_version:/);
  await client.quit();
}

function counting() {
  const client = connect();
  client.on('error', () => {});
  return count(prefix, (...words) => client.call(...words));
}

({ basics, count: counting })[what]().then(() => process.exit(0));
