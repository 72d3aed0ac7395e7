import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { LeaseTimings } from '../../controller/lease.ts';
import { startClock } from '../faults/clock.ts';
import { closeLater } from '../support/closing.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startKubernetes, type Kubernetes } from '../support/kubernetes.ts';
import { startKubernetesProxy } from '../support/kubernetes-proxy.ts';
import { startProcess, type RunningProcess } from '../support/process.ts';
import { missing } from '../support/requirement.ts';
import { startWire } from '../support/wire.ts';

const soak = process.env['ATOLL_SOAK'] === '1';
/** Half of the real ones, unless there is time. */
const timings: LeaseTimings = soak
  ? { durationMs: 12_000, deadlineMs: 8_000, retryMs: 2_000 }
  : { durationMs: 6_000, deadlineMs: 4_000, retryMs: 1_000 };
const frozenMs = soak ? 60_000 : 9_000;
const failoverMs = soak ? 20_000 : 15_000;
const leasePath = '/apis/coordination.k8s.io/v1/namespaces/default/leases/atoll-controller';

describe.skipIf(await missing('kubernetes', 'openssl'))('of two controllers', () => {
  let kubernetes: Kubernetes;
  beforeAll(async () => {
    kubernetes = await startKubernetes({
      audit: true,
      users: { first: ['system:masters'], second: ['system:masters'] },
    });
    const body = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'written' } };
    await kubernetes.request('POST', '/api/v1/namespaces/default/configmaps', { body });
  });
  beforeEach(async () => {
    await kubernetes.request('DELETE', leasePath);
  });

  async function start(
    holder: 'first' | 'second',
    url = kubernetes.url,
    more: { timings?: LeaseTimings; env?: Readonly<Record<string, string>> } = {},
  ): Promise<RunningProcess> {
    const kubeconfig = join(await temporaryFolder(), 'kubeconfig');
    await writeFile(kubeconfig, kubernetes.kubeconfig(kubernetes.tokenOf(holder), url), { mode: 0o600 });
    const script = join(import.meta.dirname, 'lease-holder.ts');
    return startProcess(
      process.execPath,
      [script, kubeconfig, holder, JSON.stringify(more.timings ?? timings)],
      { name: holder, env: { ...process.env, ...more.env } },
    );
  }

  /** How often each wrote to the ConfigMap, in the order in which the server took it. */
  async function writers(): Promise<string[]> {
    return (await kubernetes.audited())
      .filter(({ objectRef, verb }) => verb === 'patch' && objectRef?.name === 'written')
      .filter(({ responseStatus }) => responseStatus?.code === 200)
      .map(({ user }) => user.username);
  }
  const countOf = (all: readonly string[], who: string): number => all.filter((one) => one === who).length;
  async function untilWrites(who: string): Promise<void> {
    const before = countOf(await writers(), who);
    await expect.poll(async () => countOf(await writers(), who)).toBeGreaterThan(before);
  }

  test('one leads; when it ends in order the other leads at once', async () => {
    const first = await start('first');
    await first.line(/first holds it/);
    const second = await start('second');
    await untilWrites('first');
    expect(second.stdout()).toBe('');
    await first.stop();
    const beganMs = performance.now();
    await second.line(/second holds it/);
    // Its next look; a lease that was not given back would have lasted for longer.
    expect(performance.now() - beganMs).toBeLessThan(timings.durationMs - timings.retryMs - 500);
    await untilWrites('second');
    const { body } = await kubernetes.request('GET', leasePath);
    expect(body).toMatchObject({ spec: { holderIdentity: 'second', leaseTransitions: 1 } });
  });

  test('when it crashes the other leads within the time that is promised', async () => {
    const first = await start('first');
    await first.line(/first holds it/);
    const second = await start('second');
    await second.line(/another controller leads/);
    await first.kill();
    const beganMs = performance.now();
    await second.line(/second holds it/);
    expect(performance.now() - beganMs).toBeLessThan(failoverMs);
  });

  test('one that stood still wakes up and changes nothing more', async () => {
    const first = await start('first');
    await first.line(/first holds it/);
    const second = await start('second');
    await untilWrites('first');
    await first.pause();
    // The write that was on its way is through now.
    const before = countOf(await writers(), 'first');
    await second.line(/second holds it/);
    await pause(frozenMs - timings.durationMs);
    await untilWrites('second');
    first.signal('SIGCONT');
    await first.line(/first lost it/);
    await untilWrites('second');
    // At most what it had handed to the kernel already.
    expect(countOf(await writers(), 'first') - before).toBeLessThanOrEqual(1);
    expect(first.stdout()).not.toMatch(/first holds it[^]*first holds it/);
  }, 180_000);

  test('clocks that are hours apart, and jump, neither end a lease early nor late', async () => {
    const short = { durationMs: 3_000, deadlineMs: 2_000, retryMs: 400 };
    // A certificate would not be valid an hour ago.
    const { url } = await startKubernetesProxy(kubernetes);
    const clocks = {
      first: await startClock({ closing: closeLater }),
      second: await startClock({ closing: closeLater }),
    };
    const first = await start('first', url, { timings: short, env: clocks.first.env });
    await first.line(/first holds it/);
    const second = await start('second', url, { timings: short, env: clocks.second.env });
    await second.line(/another controller leads/);
    const renewedAt = async (): Promise<number> => {
      const { body } = await kubernetes.request('GET', leasePath);
      return Date.parse((body as { spec: { renewTime: string } }).spec.renewTime);
    };
    for (const [mine, theirs, sign] of [
      ['+1h', '-1h', 1],
      ['-1h', '+1h', -1],
    ] as const) {
      await clocks.first.jump(mine);
      await clocks.second.jump(theirs);
      await expect
        .poll(async () => sign * (await renewedAt()) - sign * Date.now())
        .toBeGreaterThan(3_000_000);
      await pause(short.durationMs + 2 * short.retryMs);
      expect([first.stdout(), second.stdout()]).toEqual(['first holds it\n', '']);
    }
    await first.kill();
    const beganMs = performance.now();
    await second.line(/second holds it/);
    expect(performance.now() - beganMs).toBeLessThan(failoverMs);
  });

  test('a connection that is open at one end only costs a try and not the lease', async () => {
    const wire = await startWire(Number(new URL(kubernetes.url).port));
    const first = await start('first', `https://127.0.0.1:${wire.port}`);
    await first.line(/first holds it/);
    await untilWrites('first');
    const { body } = await kubernetes.request('GET', leasePath);
    const renewedAt = (lease: unknown): string => (lease as { spec: { renewTime: string } }).spec.renewTime;
    const connections = wire.connections;
    wire.freeze();
    await expect.poll(() => wire.connections).toBeGreaterThan(connections);
    await expect
      .poll(async () => renewedAt((await kubernetes.request('GET', leasePath)).body))
      .not.toBe(renewedAt(body));
    await pause(timings.deadlineMs);
    expect(first.stdout()).not.toContain('lost it');
  });

  test('when somebody deletes the Lease it is asked for anew', async () => {
    const first = await start('first');
    await first.line(/first holds it/);
    await kubernetes.request('DELETE', leasePath);
    await first.line(/first lost it: nobody holds it/);
    await expect.poll(() => first.stdout()).toMatch(/lost it[^]*first holds it/);
  });

  test('when the API server is away longer than the deadline the holder stops, and one of them leads afterwards', async () => {
    const first = await start('first');
    await first.line(/first holds it/);
    await kubernetes.apiserver.pause();
    const beganMs = performance.now();
    await first.line(/first lost it: it could not be renewed/);
    expect(performance.now() - beganMs).toBeLessThan(timings.deadlineMs + 10_000);
    const lost = first.stdout();
    kubernetes.apiserver.resume();
    await expect.poll(() => first.stdout().slice(lost.length)).toContain('first holds it');
  });
});
