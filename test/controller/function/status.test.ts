import { expect, test } from 'vitest';
import type { Condition, FunctionStatus } from '../../../crds/function.ts';
import { FunctionStatusSchema } from '../../../crds/function.ts';
import { Value } from 'typebox/value';
import { statusOf, statusOfUnreadable } from '../../../controller/function/status.ts';
import { digest, failed, functionOf, host, observed, ready } from './function.ts';

const now = Date.parse('2026-02-03T04:05:06.000Z');
const time = new Date(now).toISOString();
const later = now + 60_000;
const nats = { triggers: [{ name: 'cmd', nats: { subject: 'cmd' } }] };
const cmd = { name: 'cmd', ...ready };

const conditionOf = (status: FunctionStatus, type: Condition['type']): Condition => {
  const found = status.conditions?.find((one) => one.type === type);
  if (!found) throw new Error(`no condition ${type}`);
  return found;
};

/** Ready PackageReady TriggersReady Available Progressing, as T, F or U. */
const letters = (status: FunctionStatus): string =>
  (['Ready', 'PackageReady', 'TriggersReady', 'Available', 'Progressing'] as const)
    .map((type) => conditionOf(status, type).status[0])
    .join('');

test.each([
  ['nothing was told yet', {}, undefined, 'FUUFT', 'Pending'],
  ['all is ready', {}, observed(host()), 'TTTTF', 'Ready'],
  [
    'the package is being fetched',
    {},
    observed(host({ ...none(), package: failed('Fetching') })),
    'FFTFT',
    'Fetching',
  ],
  [
    'the package does not exist',
    {},
    observed(host({ ...none(), package: failed('PackageNotFound') })),
    'FFTFF',
    'PackageNotFound',
  ],
  [
    'the package store is away',
    {},
    observed(host({ ...none(), package: failed('PackageUnavailable') })),
    'FFTFT',
    'PackageUnavailable',
  ],
  ['the handler starts', {}, observed(host({ ...none(), handler: failed('Starting') })), 'FTTFT', 'Starting'],
  [
    'the handler cannot be loaded',
    {},
    observed(host({ ...none(), handler: failed('Runtime.ImportModuleError') })),
    'FTTFF',
    'Runtime.ImportModuleError',
  ],
  [
    'the handler throws while it is loaded',
    {},
    observed(host({ ...none(), handler: failed('TypeError') })),
    'FTTFF',
    'TypeError',
  ],
  [
    'a trigger connects',
    nats,
    observed(host({ triggers: [{ name: 'cmd', ...failed('Connecting') }] })),
    'FTFTT',
    'Connecting',
  ],
  [
    'a stream is missing',
    nats,
    observed(host({ triggers: [{ name: 'cmd', ...failed('StreamNotFound') }] })),
    'FTFTF',
    'StreamNotFound',
  ],
  [
    'replicas are being replaced',
    { replicas: 3 },
    { ...observed(host()), rollout: { updated: 1, wanted: 3, old: 2 } },
    'FTTTT',
    'Updating',
  ],
  [
    'all replicas were replaced',
    { replicas: 3 },
    { ...observed(host()), rollout: { updated: 3, wanted: 3, old: 0 } },
    'TTTTF',
    'Ready',
  ],
  [
    'the autoscaler lets nothing run',
    { scaling: { minReplicas: 0, maxReplicas: 3, targetLag: 5 } },
    { ...observed(), rollout: { updated: 0, wanted: 0, old: 0 } },
    'FFFFF',
    'ScaledToZero',
  ],
  [
    'NATS is away',
    nats,
    observed(host({ triggers: [{ name: 'cmd', ...failed('NatsUnavailable') }] })),
    'FTFTT',
    'NatsUnavailable',
  ],
  ['no package was deployed', { package: undefined }, observed(), 'FFFFF', 'NoPackage'],
  [
    'it is scaled to zero',
    { replicas: 0 },
    { replicas: 0, readyReplicas: 0, hosts: [] },
    'FFFFF',
    'ScaledToZero',
  ],
  [
    'a secret is missing',
    {},
    { ...observed(), problem: { reason: 'SecretNotFound', message: 'x' } },
    'FFFFF',
    'SecretNotFound',
  ],
  [
    'the host is down',
    {},
    { ...observed(), problem: { reason: 'HostUnavailable', message: 'x' } },
    'FFFFT',
    'HostUnavailable',
  ],
])('when %s', (_what, spec, observation, expected, reason) => {
  const status = statusOf({ object: functionOf({ spec }), observation, now });
  expect(letters(status)).toBe(expected);
  expect(conditionOf(status, 'Ready').reason).toBe(reason);
  expect(Value.Errors(FunctionStatusSchema, status)).toEqual([]);
});

function none(): { packageSha256?: string } {
  return { packageSha256: undefined } as unknown as { packageSha256?: string };
}

const generation2 = { generation: 2, spec: { package: { uri: 's3://packages/b.tgz', sha256: digest('b') } } };

test('a new generation that the host does not know yet is under way while the old one answers', () => {
  const status = statusOf({ object: functionOf(generation2), observation: observed(host()), now });
  expect(letters(status)).toBe('FUUTT');
  expect(conditionOf(status, 'Ready').reason).toBe('Updating');
  expect(status.packageSha256).toBe(digest('a'));
  expect(status.observedGeneration).toBe(2);
});

test('a new package that fails while the old one answers: not ready, available, no progress', () => {
  const fails = host({ generation: 2, handler: failed('Runtime.ImportModuleError', "Cannot find 'x'") });
  const status = statusOf({ object: functionOf(generation2), observation: observed(fails), now });
  expect(letters(status)).toBe('FTTTF');
  expect(conditionOf(status, 'Ready')).toMatchObject({
    reason: 'Runtime.ImportModuleError',
    message: "Cannot find 'x'",
    observedGeneration: 2,
  });
  expect(status.packageSha256).toBe(digest('a'));
  expect(status.lastError).toEqual({ code: 'Runtime.ImportModuleError', message: "Cannot find 'x'", time });
});

test('lastTransitionTime moves with the status and not with reason or message', () => {
  const first = statusOf({
    object: functionOf(),
    observation: observed(host({ handler: failed('Starting') })),
    now,
  });
  const second = statusOf({
    object: functionOf({ status: first }),
    observation: observed(host({ handler: failed('Runtime.HandlerNotFound') })),
    now: later,
  });
  expect(conditionOf(second, 'Ready')).toMatchObject({
    reason: 'Runtime.HandlerNotFound',
    lastTransitionTime: time,
  });
  const third = statusOf({
    object: functionOf({ status: second }),
    observation: observed(host()),
    now: later,
  });
  expect(conditionOf(third, 'Ready').lastTransitionTime).toBe(new Date(later).toISOString());
  expect(conditionOf(third, 'PackageReady').lastTransitionTime).toBe(time);
});

test('the same observation later gives the same status: writing it twice is nothing', () => {
  for (const observation of [
    undefined,
    observed(host()),
    observed(host({ handler: failed('Runtime.HandlerNotFound') })),
  ]) {
    const first = statusOf({ object: functionOf(), observation, now });
    expect(statusOf({ object: functionOf({ status: first }), observation, now: later })).toEqual(first);
  }
});

test('the history has the digests that answered, the last ten', () => {
  let status: FunctionStatus | undefined;
  for (const letter of 'abcdefabcdef') {
    const packageSha256 = digest(letter);
    for (let twice = 0; twice < 2; twice += 1) {
      const object = functionOf(status ? { status } : {});
      status = statusOf({ object, observation: observed(host({ packageSha256 })), now });
    }
  }
  expect(status?.history?.map(({ packageSha256 }) => packageSha256[0]).join('')).toBe('cdefabcdef');
});

test('the last error is what keeps it from being ready: kept while the next try runs, gone with success', () => {
  const fails = observed(host({ package: failed('PackageNotFound', 'no such object') }));
  const first = statusOf({ object: functionOf(), observation: fails, now });
  const error = { code: 'PackageNotFound', message: 'no such object', time };
  expect(first.lastError).toEqual(error);
  const again = statusOf({ object: functionOf({ status: first }), observation: fails, now: later });
  expect(again.lastError).toEqual(error);
  const trying = observed(host({ package: failed('Fetching') }));
  expect(
    statusOf({ object: functionOf({ status: again }), observation: trying, now: later }).lastError,
  ).toEqual(error);
  const well = statusOf({ object: functionOf({ status: again }), observation: observed(host()), now: later });
  expect(well.lastError).toBeUndefined();
});

test('the last error stays within 1 KiB, and its text is cut at a whole character', () => {
  const message = 'ä€😀'.repeat(5_000);
  const observation = observed(host({ handler: failed('Runtime.ImportModuleError', message) }));
  const { lastError } = statusOf({ object: functionOf(), observation, now });
  expect(Buffer.byteLength(JSON.stringify(lastError))).toBeLessThanOrEqual(1024);
  expect(lastError?.message).toMatch(/^(ä€😀)+ä?€?…$/);
});

test('each trigger has its own state; the condition names one that failed rather than one still at work', () => {
  const triggers = ['a', 'b', 'c'].map((name) => ({ name, nats: { subject: name } }));
  const told = [
    { name: 'a', ...ready },
    { name: 'b', ...failed('Connecting') },
    { name: 'c', ...failed('SubscriptionRefused', 'not allowed') },
  ];
  const status = statusOf({
    object: functionOf({ spec: { triggers } }),
    observation: observed(host({ triggers: told })),
    now,
  });
  expect(status.triggers).toEqual(told);
  expect(conditionOf(status, 'TriggersReady')).toMatchObject({
    status: 'False',
    reason: 'SubscriptionRefused',
    message: 'trigger "c": not allowed',
  });
});

test('a trigger that lost its path says to whom, though the host calls it ready', () => {
  const triggers = [{ name: 'api', http: { path: '/api' } }];
  const conflict = {
    namespace: 'default',
    name: 'hello',
    trigger: 'api',
    path: '/api',
    message: 'taken by x',
  };
  const status = statusOf({
    object: functionOf({ spec: { triggers } }),
    observation: observed(host({ triggers: [{ name: 'api', ...ready }] })),
    conflicts: [conflict],
    now,
  });
  expect(status.triggers).toEqual([
    { name: 'api', ready: false, reason: 'RouteTaken', message: 'taken by x' },
  ]);
  expect(letters(status)).toBe('FTFTF');
});

test('what the backend does not act on is said, also when all is well', () => {
  const observation = { ...observed(host()), ignored: ['pod', 'replicas above 1 (3 asked for)'] };
  const status = statusOf({ object: functionOf(), observation, now });
  expect(conditionOf(status, 'Ready')).toMatchObject({
    status: 'True',
    message: expect.stringContaining('ignored here: pod, replicas above 1 (3 asked for)') as string,
  });
});

test('of several hosts all must be ready', () => {
  const spec = nats;
  const good = host({ triggers: [cmd] });
  const bad = host({ triggers: [{ name: 'cmd', ...failed('NatsUnavailable') }] });
  const status = statusOf({ object: functionOf({ spec }), observation: observed(good, bad), now });
  expect(conditionOf(status, 'Ready')).toMatchObject({ status: 'False', reason: 'NatsUnavailable' });
});

test('a Function whose file was broken by an edit keeps telling what runs, and says what is wrong', () => {
  const before = statusOf({ object: functionOf(), observation: observed(host()), now });
  const problem = { reason: 'InvalidObject', message: 'hello.yaml is not valid' };
  const status = statusOfUnreadable(before, problem, later);
  expect(letters(status)).toBe('FTTTF');
  expect(status).toMatchObject({ packageSha256: digest('a'), lastError: { code: 'InvalidObject' } });
  expect(statusOfUnreadable(status, problem, later + 1)).toEqual(status);
});
