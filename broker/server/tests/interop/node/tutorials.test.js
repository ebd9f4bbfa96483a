// The six tutorials and publisher confirms with amqplib, each over its own connections, and what else its users meet.
'use strict';

const amqp = require('amqplib');
const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { once } = require('node:events');
const { test } = require('node:test');
const { forEachBroker } = require('./broker');

// Consumes a queue; `next()` resolves to each message in turn.
async function receive(channel, queue, options = { noAck: true }) {
  const waiting = [];
  const got = [];
  const { consumerTag } = await channel.consume(
    queue,
    (message) => (waiting.length ? waiting.shift()(message) : got.push(message)),
    options,
  );
  const next = () => (got.length ? Promise.resolve(got.shift()) : new Promise((resolve) => waiting.push(resolve)));
  return { consumerTag, got, next, text: async () => (await next()).content.toString() };
}

forEachBroker((broker) => {
  // A test with connections that are closed afterwards.
  const it = (name, body) =>
    test(name, async (t) => {
      if (broker.refused) return t.skip(broker.refused);
      const connections = [];
      const connect = async (url = broker.url) => {
        const connection = await amqp.connect(url);
        connections.push(connection);
        return connection;
      };
      try {
        await body(connect);
      } finally {
        await Promise.all(connections.map((connection) => connection.close().catch(() => {})));
      }
    });

  it('hello world', async (connect) => {
    const [sender, receiver] = [await connect(), await connect()];
    const out = await sender.createChannel();
    await out.assertQueue('hello', { durable: false });
    out.sendToQueue('hello', Buffer.from('Hello World!'));
    const inn = await receiver.createChannel();
    await inn.assertQueue('hello', { durable: false });
    const messages = await receive(inn, 'hello');
    assert.equal(await messages.text(), 'Hello World!');
  });

  it('work queue: a worker holds one task at a time, and a dead one gives it back', async (connect) => {
    const boss = await (await connect()).createChannel();
    const { queue } = await boss.assertQueue(`tasks-${randomUUID()}`, { durable: true });
    const workers = [];
    for (let n = 0; n < 2; n += 1) {
      const connection = await connect();
      const channel = await connection.createChannel();
      await channel.prefetch(1);
      workers.push({ connection, channel, ...(await receive(channel, queue, {})) });
    }
    for (const task of ['a', 'b', 'c']) boss.sendToQueue(queue, Buffer.from(task), { persistent: true });
    const [first, second] = [await workers[0].next(), await workers[1].next()];
    assert.deepEqual([first.content.toString(), second.content.toString()].sort(), ['a', 'b']);
    workers[1].channel.ack(second);
    const third = await workers[1].next();
    assert.equal(third.content.toString(), 'c');
    assert.equal(workers[0].got.length, 0);
    await workers[0].connection.close();
    workers[1].channel.ack(third);
    const again = await workers[1].next();
    assert.equal(again.content.toString(), first.content.toString());
    assert.equal(again.fields.redelivered, true);
    workers[1].channel.ack(again);
    await boss.deleteQueue(queue);
  });

  it('publish/subscribe', async (connect) => {
    const exchange = `logs-${randomUUID()}`;
    const listeners = [];
    for (let n = 0; n < 2; n += 1) {
      const channel = await (await connect()).createChannel();
      await channel.assertExchange(exchange, 'fanout', { durable: false, autoDelete: true });
      const { queue } = await channel.assertQueue('', { exclusive: true });
      assert.match(queue, /^amq\.gen-/);
      await channel.bindQueue(queue, exchange, '');
      listeners.push(await receive(channel, queue));
    }
    const channel = await (await connect()).createChannel();
    channel.publish(exchange, '', Buffer.from('all is well'));
    for (const listener of listeners) assert.equal(await listener.text(), 'all is well');
  });

  it('routing', async (connect) => {
    const exchange = `direct-${randomUUID()}`;
    const channel = await (await connect()).createChannel();
    await channel.assertExchange(exchange, 'direct', { durable: false, autoDelete: true });
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const severity of ['warning', 'error']) await channel.bindQueue(queue, exchange, severity);
    const messages = await receive(channel, queue);
    for (const severity of ['info', 'error', 'warning']) channel.publish(exchange, severity, Buffer.from(severity));
    assert.equal(await messages.text(), 'error');
    assert.equal(await messages.text(), 'warning');
  });

  it('topics', async (connect) => {
    const exchange = `topic-${randomUUID()}`;
    const channel = await (await connect()).createChannel();
    await channel.assertExchange(exchange, 'topic', { durable: false, autoDelete: true });
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (const pattern of ['kern.*', '#.critical']) await channel.bindQueue(queue, exchange, pattern);
    const messages = await receive(channel, queue);
    const keys = ['kern.info', 'cron.info', 'critical', 'a.b.critical', 'kern', 'kern.critical'];
    for (const key of keys) channel.publish(exchange, key, Buffer.from(key));
    for (const key of ['kern.info', 'critical', 'a.b.critical', 'kern.critical']) {
      assert.equal(await messages.text(), key);
    }
  });

  it('RPC', async (connect) => {
    const server = await (await connect()).createChannel();
    const { queue: requests } = await server.assertQueue('', { exclusive: false, autoDelete: true });
    await server.consume(requests, (request) => {
      const answer = Buffer.from(String(Number(request.content) ** 2));
      server.sendToQueue(request.properties.replyTo, answer, { correlationId: request.properties.correlationId });
      server.ack(request);
    });
    const client = await (await connect()).createChannel();
    const { queue: replyTo } = await client.assertQueue('', { exclusive: true });
    const replies = await receive(client, replyTo);
    for (const n of [3, 12]) {
      const correlationId = randomUUID();
      client.sendToQueue(requests, Buffer.from(String(n)), { correlationId, replyTo });
      const reply = await replies.next();
      assert.equal(reply.properties.correlationId, correlationId);
      assert.equal(Number(reply.content), n * n);
    }
  });

  it('RPC with direct reply-to', async (connect) => {
    const server = await (await connect()).createChannel();
    const { queue: requests } = await server.assertQueue('', { exclusive: false, autoDelete: true });
    await server.consume(requests, ({ properties, content }) => {
      server.sendToQueue(properties.replyTo, Buffer.from(content.toString().toUpperCase()));
    }, { noAck: true });
    const client = await (await connect()).createChannel();
    const replies = await receive(client, 'amq.rabbitmq.reply-to');
    client.sendToQueue(requests, Buffer.from('ping'), { replyTo: 'amq.rabbitmq.reply-to' });
    assert.equal(await replies.text(), 'PING');
  });

  it('publisher confirms', async (connect) => {
    const channel = await (await connect()).createConfirmChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    for (let n = 0; n < 1000; n += 1) channel.sendToQueue(queue, Buffer.from(String(n)));
    await channel.waitForConfirms();
    assert.equal((await channel.checkQueue(queue)).messageCount, 1000);
  });

  it('a full queue refuses with a negative confirm', async (connect) => {
    const channel = await (await connect()).createConfirmChannel();
    const { queue } = await channel.assertQueue('', {
      exclusive: true, maxLength: 1, arguments: { 'x-overflow': 'reject-publish' },
    });
    channel.sendToQueue(queue, Buffer.from('fits'));
    await channel.waitForConfirms();
    channel.sendToQueue(queue, Buffer.from('does not'));
    await assert.rejects(channel.waitForConfirms());
  });

  it('a mandatory message that no queue takes comes back', async (connect) => {
    const channel = await (await connect()).createChannel();
    const returned = once(channel, 'return');
    channel.publish('amq.direct', 'nobody', Buffer.from('x'), { mandatory: true });
    const [message] = await returned;
    assert.equal(message.fields.replyText, 'NO_ROUTE');
    assert.equal(message.content.toString(), 'x');
  });

  it('a missing queue closes the channel', async (connect) => {
    const channel = await (await connect()).createChannel();
    channel.on('error', () => {});
    await assert.rejects(channel.checkQueue('missing'), /404 \(NOT-FOUND\).*no queue 'missing' in vhost '\/'/);
  });

  it('a wrong password is refused', async (connect) => {
    await assert.rejects(connect(broker.url.replace('guest:guest', 'guest:wrong')), /ACCESS_REFUSED|403/);
  });

  it('a consumer is told when its queue is deleted', async (connect) => {
    const channel = await (await connect()).createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: false });
    const messages = await receive(channel, queue);
    await channel.deleteQueue(queue);
    assert.equal(await messages.next(), null);
  });

  it('expired messages are dead-lettered', async (connect) => {
    const channel = await (await connect()).createChannel();
    const { queue: dead } = await channel.assertQueue('', { exclusive: true });
    const { queue } = await channel.assertQueue('', {
      exclusive: true, messageTtl: 50, deadLetterExchange: '', deadLetterRoutingKey: dead,
    });
    const messages = await receive(channel, dead);
    channel.sendToQueue(queue, Buffer.from('x'));
    const { properties } = await messages.next();
    assert.equal(properties.headers['x-death'][0].reason, 'expired');
    assert.equal(properties.headers['x-first-death-queue'], queue);
  });

  it('a large body arrives whole', async (connect) => {
    const channel = await (await connect()).createChannel();
    const { queue } = await channel.assertQueue('', { exclusive: true });
    const messages = await receive(channel, queue);
    const body = Buffer.alloc(5_000_000, 'abcdefg');
    channel.sendToQueue(queue, body);
    assert.ok((await messages.next()).content.equals(body));
  });
});
