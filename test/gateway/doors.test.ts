import { Sha256 } from '@aws-crypto/sha256-js';
import { SignatureV4 } from '@smithy/signature-v4';
import { describe, expect, test } from 'vitest';
import { admit, type Door, type DoorPolicy, isLoopbackName, type RequestFacts } from '../../gateway/doors.ts';
import { Keys } from '../../gateway/keys.ts';

const now = Date.parse('2026-03-12T19:03:58Z');
const secret = 'a-secret-of-the-operator';
const keys = new Keys(new Map([['ops', secret]]));
const control: Door = { kind: 'control' };
const onLoopback: DoorPolicy = {
  loopback: true,
  keysAsked: false,
  keys: new Keys(),
  allowedOrigins: new Set(['http://ui.example:3000']),
};
const elsewhere: DoorPolicy = { loopback: false, keysAsked: true, keys, allowedOrigins: new Set() };

function asked(headers: Record<string, string> = {}, more: Partial<RequestFacts> = {}): RequestFacts {
  return {
    method: 'GET',
    url: '/atoll/v1/site',
    headers: { host: '127.0.0.1:8700', ...headers },
    body: () => Promise.resolve(Buffer.alloc(0)),
    ...more,
  };
}

const whyNot = async (facts: RequestFacts, door: Door, policy: DoorPolicy, at = now) => {
  const admission = await admit(facts, door, policy, at);
  return admission.admitted ? 'admitted' : admission.why;
};

describe('on loopback', () => {
  test.each([
    'localhost',
    'localhost:8700',
    'LOCALHOST:1',
    '127.0.0.1',
    '127.9.8.7:80',
    '[::1]',
    '[::1]:8700',
  ])('a request for %s comes in without a key', async (host) => {
    expect(await whyNot(asked({ host }), control, onLoopback)).toBe('admitted');
  });

  test.each([
    'robot.example',
    'robot.example:8700',
    'localhost.evil.example',
    '127.0.0.1.evil.example',
    '127.0.0.1@evil.example',
    'evil.example#127.0.0.1',
    '10.0.0.5:8700',
    '[::2]',
    '::1',
    '127.1',
    '',
  ])('a foreign Host (%s) is refused at every door: a name can be made to point here', async (host) => {
    for (const door of [control, { kind: 'open' }, { kind: 'trigger', auth: 'None' }] as Door[]) {
      expect(await whyNot(asked({ host }), door, onLoopback)).toBe('Host');
    }
  });

  test("DNS rebinding: the page's own name in Host and Origin does not make it ours", async () => {
    const rebound = {
      host: 'evil.example:8700',
      origin: 'http://evil.example:8700',
      'sec-fetch-site': 'same-origin',
    };
    expect(await whyNot(asked(rebound), control, onLoopback)).toBe('Host');
    expect(await whyNot(asked(rebound), { kind: 'trigger' }, onLoopback)).toBe('Host');
  });

  test.each(['http://evil.example', 'null', 'http://127.0.0.1:9999', ''])(
    'a foreign Origin (%s) is refused at every door',
    async (origin) => {
      expect(await whyNot(asked({ origin }), control, onLoopback)).toBe('Origin');
      expect(await whyNot(asked({ origin }), { kind: 'trigger', auth: 'None' }, onLoopback)).toBe('Origin');
    },
  );

  test('an Origin on the list comes in', async () => {
    expect(await whyNot(asked({ origin: 'http://ui.example:3000' }), control, onLoopback)).toBe('admitted');
  });

  test('a page that a trigger served may call triggers of its own origin, not the control doors', async () => {
    const facts = asked({ origin: 'http://127.0.0.1:8700' }, { method: 'POST' });
    expect(await whyNot(facts, { kind: 'trigger' }, onLoopback)).toBe('admitted');
    expect(await whyNot(facts, control, onLoopback)).toBe('Origin');
  });

  test('what a foreign page loads without an Origin (an image, a script) is refused by Sec-Fetch-Site', async () => {
    const image = asked({ 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors' });
    expect(await whyNot(image, { kind: 'trigger' }, onLoopback)).toBe('Origin');
    expect(await whyNot(image, control, onLoopback)).toBe('Origin');
    const link = asked({ 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'navigate' });
    expect(await whyNot(link, { kind: 'trigger' }, onLoopback)).toBe('admitted');
    expect(await whyNot(link, control, onLoopback)).toBe('Origin');
  });

  test('a trigger with auth Key asks for a key here too', async () => {
    const door: Door = { kind: 'trigger', auth: 'Key' };
    expect(await whyNot(asked(), door, { ...onLoopback, keys })).toBe('Key');
    const bearer = asked({ authorization: `Bearer ops.${secret}` });
    expect(await whyNot(bearer, door, { ...onLoopback, keys })).toBe('admitted');
    expect(await whyNot(bearer, door, onLoopback)).toBe('Key');
  });
});

describe('off loopback', () => {
  test('health needs no key, a trigger says so itself, everything else needs one', async () => {
    const facts = asked({ host: 'robot.example' });
    expect(await whyNot(facts, { kind: 'open' }, elsewhere)).toBe('admitted');
    expect(await whyNot(facts, { kind: 'trigger', auth: 'None' }, elsewhere)).toBe('admitted');
    expect(await whyNot(facts, { kind: 'trigger', auth: 'Key' }, elsewhere)).toBe('Key');
    expect(await whyNot(facts, { kind: 'trigger' }, elsewhere)).toBe('Key');
    expect(await whyNot(facts, control, elsewhere)).toBe('Key');
  });

  test('the right key comes in, and its id is told', async () => {
    const admission = await admit(asked({ authorization: `Bearer ops.${secret}` }), control, elsewhere, now);
    expect(admission).toEqual({ admitted: true, keyId: 'ops' });
  });

  test('a secret may hold dots: the id ends at the first', async () => {
    const dotted = new Keys(new Map([['ops', 'one.two.three.four.five']]));
    const facts = asked({ authorization: 'bearer ops.one.two.three.four.five' });
    expect(await whyNot(facts, control, { ...elsewhere, keys: dotted })).toBe('admitted');
  });

  test.each([
    undefined,
    '',
    'Bearer',
    'Bearer ops',
    'Bearer ops.',
    'Bearer .secret',
    `Bearer ops.${secret}x`,
    `Bearer ops.${secret.slice(0, -1)}`,
    `Bearer ops.${secret.toUpperCase()}`,
    `Bearer other.${secret}`,
    `Basic ops.${secret}`,
    `Bearer __proto__.${secret}`,
  ])('%s does not come in', async (authorization) => {
    const facts = asked(authorization === undefined ? {} : { authorization });
    expect(await whyNot(facts, control, elsewhere)).toBe('Key');
  });

  test('the answer to an unknown id is the one to a wrong secret', async () => {
    const answers = await Promise.all(
      [`Bearer ops.wrong-secret-of-some-length`, `Bearer nobody.wrong-secret-of-some-length`, undefined].map(
        (authorization) =>
          admit(asked(authorization === undefined ? {} : { authorization }), control, elsewhere, now),
      ),
    );
    const [first, ...others] = answers;
    for (const other of others) expect(other).toEqual(first);
  });

  test('an unknown id has a secret of its own, which nobody knows and which opens nothing', async () => {
    const unknown = keys.find('nobody');
    expect(unknown.known).toBe(false);
    expect(
      await whyNot(asked({ authorization: `Bearer nobody.${unknown.secret}` }), control, elsewhere),
    ).toBe('Key');
  });
});

describe('AWS Signature Version 4', () => {
  const body = '{"order":7}';

  interface Signing {
    service?: string;
    secretAccessKey?: string;
    accessKeyId?: string;
    signingDate?: Date;
    headers?: Record<string, string>;
    url?: string;
    checksum?: boolean;
    unsigned?: string;
  }
  async function signed(signing: Signing = {}): Promise<RequestFacts> {
    const url =
      signing.url ?? '/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu/invocations?Qualifier=%24LATEST';
    const signer = new SignatureV4({
      service: signing.service ?? 'lambda',
      region: 'eu-west-1',
      credentials: {
        accessKeyId: signing.accessKeyId ?? 'ops',
        secretAccessKey: signing.secretAccessKey ?? secret,
      },
      sha256: Sha256,
      applyChecksum: signing.checksum ?? true,
    });
    const [path = '', search = ''] = url.split('?');
    const { headers } = await signer.sign(
      {
        method: 'POST',
        protocol: 'http:',
        hostname: 'robot.example',
        path,
        query: Object.fromEntries(new URLSearchParams(search)),
        headers: { host: 'robot.example:8700', ...signing.headers },
        body,
      },
      {
        signingDate: signing.signingDate ?? new Date(now),
        unsignableHeaders: new Set(signing.unsigned === undefined ? [] : [signing.unsigned]),
      },
    );
    const lower = Object.fromEntries(
      Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]),
    );
    return { method: 'POST', url, headers: lower, body: () => Promise.resolve(Buffer.from(body)) };
  }

  test('a rightly signed request comes in', async () => {
    expect(await admit(await signed(), control, elsewhere, now)).toEqual({ admitted: true, keyId: 'ops' });
  });

  test('without a payload hash header the body is covered all the same', async () => {
    const facts = await signed({ checksum: false });
    expect(facts.headers['x-amz-content-sha256']).toBeUndefined();
    expect(await whyNot(facts, control, elsewhere)).toBe('admitted');
    expect(
      await whyNot({ ...facts, body: () => Promise.resolve(Buffer.from('{}')) }, control, elsewhere),
    ).toBe('Key');
  });

  test('headers that proxies add unsigned do no harm', async () => {
    const facts = await signed();
    const headers = { ...facts.headers, 'user-agent': 'x', via: '1.1 proxy', 'x-amzn-trace-id': 'Root=1' };
    expect(await whyNot({ ...facts, headers }, control, elsewhere)).toBe('admitted');
  });

  test('a changed body, path, query, method or signed header is refused', async () => {
    const facts = await signed({ headers: { 'x-amz-invocation-type': 'DryRun' } });
    expect(await whyNot(facts, control, elsewhere)).toBe('admitted');
    const changes: Partial<RequestFacts>[] = [
      { body: () => Promise.resolve(Buffer.from('{"order":8}')) },
      { url: facts.url.replace('eu', 'us') },
      { url: facts.url.replace('LATEST', 'OTHER') },
      { url: `${facts.url}&more=1` },
      { method: 'PUT' },
      { headers: { ...facts.headers, 'x-amz-invocation-type': 'Event' } },
      { headers: { ...facts.headers, host: 'other.example' } },
    ];
    for (const change of changes)
      expect(await whyNot({ ...facts, ...change }, control, elsewhere)).toBe('Key');
  });

  test('an x-amz- header that the signature does not cover is refused: somebody on the way added it', async () => {
    const facts = await signed();
    const headers = { ...facts.headers, 'x-amz-invocation-type': 'Event' };
    expect(await whyNot({ ...facts, headers }, control, elsewhere)).toBe('Key');
  });

  test('UNSIGNED-PAYLOAD is refused, also when it is signed for', async () => {
    const facts = await signed({ headers: { 'x-amz-content-sha256': 'UNSIGNED-PAYLOAD' } });
    expect(facts.headers.authorization).toContain('x-amz-content-sha256');
    expect(await whyNot(facts, control, elsewhere)).toBe('Key');
  });

  test('a wrong secret, an unknown id and a wrong service are refused alike', async () => {
    const answers = [
      await signed({ secretAccessKey: 'another-secret-as-long' }),
      await signed({ accessKeyId: 'nobody' }),
      await signed({ service: 's3' }),
    ].map((facts) => admit(facts, control, elsewhere, now));
    const [first, ...others] = await Promise.all(answers);
    expect(first).toMatchObject({ admitted: false, why: 'Key' });
    for (const other of others) expect(other).toEqual(first);
  });

  test('what an unknown id is compared with opens nothing', async () => {
    const facts = await signed({ accessKeyId: 'nobody', secretAccessKey: keys.find('nobody').secret });
    expect(await whyNot(facts, control, elsewhere)).toBe('Key');
  });

  test('a clock ten minutes off is refused either way, and told so', async () => {
    for (const minutes of [-10, 10]) {
      const facts = await signed({ signingDate: new Date(now + minutes * 60_000) });
      expect(await admit(facts, control, elsewhere, now)).toMatchObject({
        admitted: false,
        why: 'Clock',
        message: expect.stringContaining('600 s') as string,
      });
    }
    for (const minutes of [-4, 4]) {
      const facts = await signed({ signingDate: new Date(now + minutes * 60_000) });
      expect(await whyNot(facts, control, elsewhere)).toBe('admitted');
    }
  });

  test('who does not hold the secret learns nothing of the clock', async () => {
    const facts = await signed({
      secretAccessKey: 'another-secret-as-long',
      signingDate: new Date(now - 600_000),
    });
    expect(await whyNot(facts, control, elsewhere)).toBe('Key');
  });

  test('the day in the credential must be the day of the signature', async () => {
    const facts = await signed();
    const headers = {
      ...facts.headers,
      authorization: facts.headers.authorization?.replace('20260312', '20260311'),
    };
    expect(await whyNot({ ...facts, headers }, control, elsewhere)).toBe('Key');
  });

  test.each(['host', 'x-amz-date'])('a right signature that leaves out %s is refused', async (unsigned) => {
    const facts = await signed({ unsigned });
    expect(facts.headers.authorization).not.toContain(`${unsigned};`);
    expect(await whyNot(facts, control, elsewhere)).toBe('Key');
  });
});

test('no name is no loopback name', () => {
  expect(isLoopbackName(undefined)).toBe(false);
});
