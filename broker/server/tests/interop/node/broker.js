// Starts brokers for the tests: one for each kind of I/O and number of shards. FULMAR names the program, AMQP_PORT a
// broker that runs already; then none is started.
'use strict';

const { spawn } = require('node:child_process');
const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const readline = require('node:readline');
const { after, before, describe } = require('node:test');

const ROOT = path.resolve(__dirname, '../../../../..');
const PROGRAM = process.env.FULMAR || path.join(ROOT, 'target/checked/fulmar');
const KINDS = process.env.AMQP_PORT
  ? [['running', 0]]
  : [['uring', 1], ['uring', 2], ['epoll', 1], ['epoll', 2]];

// Starts a broker and resolves to its process and port; `refused` says why this machine cannot run it.
function start(io, shards, data, ...options) {
  const words = ['serve', '--port', '0', '--data-dir', data, '--io', io, '--shards', String(shards), ...options];
  const child = spawn(PROGRAM, words, {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines = [];
  return new Promise((resolve, reject) => {
    const onLine = (line) => {
      lines.push(line);
      const match = /listening on \S*:(\d+)/.exec(line);
      if (match) resolve({ child, lines, port: Number(match[1]) });
    };
    readline.createInterface({ input: child.stdout }).on('line', onLine);
    readline.createInterface({ input: child.stderr }).on('line', onLine);
    child.on('error', reject);
    child.on('exit', (code) => {
      const refused = io === 'uring' && lines.some((line) => line.includes('io_uring'));
      if (refused) resolve({ refused: lines.at(-1) });
      else reject(new Error(`exit code ${code}:\n${lines.join('\n')}`));
    });
  });
}

function stop({ child, lines }) {
  return new Promise((resolve, reject) => {
    child.removeAllListeners('exit');
    const late = setTimeout(() => child.kill('SIGKILL'), 10_000);
    child.on('exit', (code) => {
      clearTimeout(late);
      if (code === 0 && !lines.some((line) => line.includes('panicked'))) resolve();
      else reject(new Error(`exit code ${code}:\n${lines.join('\n')}`));
    });
    child.kill('SIGTERM');
  });
}

// Runs `tests(broker)` once for each kind of broker; `broker.url` is set when the tests run.
function forEachBroker(tests) {
  for (const [io, shards] of KINDS) {
    describe(shards ? `${io}, ${shards} shard(s)` : io, () => {
      const broker = { url: `amqp://guest:guest@localhost:${process.env.AMQP_PORT}` };
      let running;
      let data;
      before(async () => {
        if (!shards) return;
        data = mkdtempSync(path.join(tmpdir(), 'fulmar-'));
        running = await start(io, shards, data);
        broker.refused = running.refused;
        broker.url = `amqp://guest:guest@localhost:${running.port}`;
      });
      after(async () => {
        if (running && !running.refused) await stop(running);
        if (data) rmSync(data, { recursive: true, force: true });
      });
      tests(broker);
    });
  }
}

module.exports = { KINDS, forEachBroker, start, stop };
