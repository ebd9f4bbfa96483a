// TLS with amqplib: who comes in, who does not, and what the broker says about it.
'use strict';

const amqp = require('amqplib');
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { mkdtempSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { after, before, describe, test } = require('node:test');
const { setTimeout: sleep } = require('node:timers/promises');
const { KINDS, start, stop } = require('./broker');

const NEW_KEY = ['-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256'];

// Runs openssl, which has to succeed.
const openssl = (...words) => execFileSync('openssl', words, { stdio: ['ignore', 'pipe', 'pipe'] });

// Files of an issuer and of what it has issued.
class Office {
  constructor(directory, name) {
    [this.directory, this.name] = [directory, name];
    openssl('req', '-x509', ...NEW_KEY, '-days', '30', '-subj', `/CN=${name}`, '-keyout', this.file('key'), '-out', this.file('pem'));
  }

  file(end) {
    return path.join(this.directory, `${this.name}.${end}`);
  }

  // A certificate and its key; `days` may be negative.
  issue(name, days = 30) {
    const [key, request, certificate] = ['key', 'csr', 'crt'].map((end) => this.file(`${name}.${end}`));
    openssl('req', ...NEW_KEY, '-subj', `/CN=${name}`, '-keyout', key, '-out', request);
    writeFileSync(this.file('names'), 'subjectAltName=DNS:localhost\n');
    openssl(
      ...['x509', '-req', '-in', request, '-CA', this.file('pem'), '-CAkey', this.file('key'), '-CAcreateserial'],
      ...['-days', String(days), '-extfile', this.file('names'), '-out', certificate],
    );
    return { certificate, key };
  }
}

for (const [io, shards] of KINDS.filter(([, count]) => count === 2)) {
  describe(`TLS, ${io}`, () => {
    let directory;
    let office;
    let stranger;
    let running;
    let port;
    let ann;

    before(async () => {
      directory = mkdtempSync(path.join(tmpdir(), 'fulmar-'));
      [office, stranger] = [new Office(directory, 'issuer'), new Office(directory, 'stranger')];
      ann = office.issue('ann');
      const { certificate, key } = office.issue('localhost');
      const options = ['--tls-cert', certificate, '--tls-key', key, '--tls-port', '0', '--log-level', 'debug'];
      options.push('--tls-client-certs', 'require', '--tls-client-ca', office.file('pem'));
      running = await start(io, shards, directory, ...options);
      if (!running.refused) port = (await says(/listening on \S*:(\d+), TLS alone/))[1];
    });
    after(async () => {
      if (running && !running.refused) await stop(running);
      rmSync(directory, { recursive: true, force: true });
    });

    // The match of a line of the broker's log, which may be still to come; it is not found again.
    const says = async (pattern) => {
      for (let tries = 0; tries < 1000; tries += 1) {
        const at = running.lines.findIndex((line) => pattern.test(line));
        if (at >= 0) return pattern.exec(running.lines.splice(at, 1)[0]);
        await sleep(10);
      }
      throw new Error(`no line with ${pattern}, but:\n${running.lines.join('\n')}`);
    };
    const connect = (shown, ca = office, name = 'localhost') =>
      amqp.connect(`amqps://guest:guest@localhost:${port}`, {
        ca: [readFileSync(ca.file('pem'))],
        servername: name,
        ...(shown && { cert: readFileSync(shown.certificate), key: readFileSync(shown.key) }),
      });
    const it = (name, body) =>
      test(name, async (t) => (running.refused ? t.skip(running.refused) : body()));

    it('messages of many sizes arrive', async () => {
      const connection = await connect(ann);
      await says(/by its certificate "ann"/);
      const channel = await connection.createConfirmChannel();
      const { queue } = await channel.assertQueue('', { exclusive: true });
      const bodies = [0, 1, 16_384, 16_385, 300_000, 3_000_000].map((size) => Buffer.alloc(size, size % 251));
      bodies.forEach((body) => channel.sendToQueue(queue, body));
      await channel.waitForConfirms();
      for (const body of bodies) {
        const message = await channel.get(queue, { noAck: true });
        assert.ok(message.content.equals(body), `${body.length} bytes are others`);
      }
      await connection.close();
    });

    it('who should not come in does not, and the broker says why', async () => {
      const gone = 'it hung up during the handshake';
      for (const [why, ...how] of [
        ['it showed no certificate, which is required here', null],
        ['its certificate has expired', office.issue('old', -1)],
        ['its certificate was issued by nobody who is trusted here', stranger.issue('other')],
        [`it does not trust the issuer of our certificate|${gone}`, ann, stranger],
        [`it does not accept our certificate|${gone}`, ann, office, 'example.org'],
      ]) {
        await assert.rejects(connect(...how), undefined, why);
        await says(new RegExp(`TLS failed: (${why})`));
      }
    });
  });
}
