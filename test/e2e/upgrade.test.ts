/** The chart of before in a real cluster, with a function that is called all the time, becomes this one. */
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import type { NatsConnection } from '@nats-io/transport-node';
import { temporaryFolder } from '../support/folder.ts';
import { writeNextImage } from '../support/kubernetes-images.ts';
import {
  missingNodes,
  startKubernetesWithNodes,
  type KubernetesWithNodes,
} from '../support/kubernetes-nodes.ts';
import { startNats } from '../support/nats.ts';
import { installRelease, type Release } from '../support/release.ts';
import { missing } from '../support/requirement.ts';
import { get, startCallers, type Callers } from './callers.ts';

/**
 * `git archive --prefix=atoll/ COMMIT:charts/atoll | gzip -n9` of the last release, or of a commit before there is one:
 * an upgrade is Helm's, from one chart to another. A checkout may have no history to take it from.
 */
const previous = join(import.meta.dirname, '../charts/previous/atoll.tgz');
/** A busy machine may take its time; what counts is that all are answered. */
const answerMs = 30_000;

const absent = (await missingNodes()) ?? (await missing('helm', 'nats-server'));

describe.skipIf(absent)('an upgrade of the chart', { timeout: 300_000 }, () => {
  let kubernetes: KubernetesWithNodes;
  let client: NatsConnection;
  let release: Release;
  let namespace: string;

  beforeAll(async () => {
    kubernetes = await startKubernetesWithNodes({ nodes: ['node-1', 'node-2'] });
    const nats = await startNats({ place: kubernetes.place });
    client = await nats.connect();
    release = await installRelease(kubernetes, { chart: previous, values: { nats: { url: nats.url } } });
    namespace = await kubernetes.namespace();
    await apply('before');
    await kubectl('wait', 'fn/answers', '--for=condition=Ready', '--timeout=120s');
  }, 360_000);

  const kubectl = (...args: string[]): Promise<string> => kubernetes.kubectl([...args, '-n', namespace]);

  const apply = (word: string): Promise<string> =>
    kubernetes.kubectl(
      ['apply', '-f', '-'],
      JSON.stringify({
        apiVersion: 'atoll.dev/v1alpha1',
        kind: 'Function',
        metadata: { name: 'answers', namespace },
        spec: {
          package: { inline: `exports.handler = () => '${word}'` },
          concurrency: 4,
          replicas: 2,
          triggers: [
            { name: 'asked', nats: { subject: 'answers' } },
            { name: 'web', http: { path: '/answers', auth: 'None' } },
          ],
        },
      }),
    );

  const callers = (): Callers =>
    startCallers({
      nats: {
        perSecond: 20,
        ask: async () => (await client.request('answers', '', { timeout: answerMs })).json<string>(),
      },
      http: { perSecond: 10, ask: () => get(`${release.url}/answers`, answerMs) },
    });

  interface Pod {
    metadata: { name: string; uid: string; deletionTimestamp?: string };
    spec: { containers: { image: string }[] };
    status: { containerStatuses?: { restartCount: number; imageID: string }[] };
  }
  /** Those that are not on their way out. */
  async function living(): Promise<Pod[]> {
    const { items } = JSON.parse(
      await kubectl('get', 'pods', '-l', 'atoll.dev/function=answers', '-o', 'json'),
    ) as { items: Pod[] };
    return items.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  }
  /** Name, uid, image and restarts, a line each. */
  async function pods(): Promise<string[]> {
    const lines = (await living()).map(({ metadata, spec, status }) => {
      const restarts = status.containerStatuses?.[0]?.restartCount ?? 0;
      return `${metadata.name} ${metadata.uid} ${spec.containers[0]?.image} ${restarts}`;
    });
    return lines.sort();
  }
  /** Of what is in the images that their hosts run. */
  const digests = async (): Promise<Set<string | undefined>> =>
    new Set((await living()).map(({ status }) => status.containerStatuses?.[0]?.imageID));

  /** Until each way has had so many more answers. */
  async function more(calls: Callers, count: number): Promise<void> {
    const of = (way: string): number => calls.answers.filter((one) => one.way === way).length;
    const before = { nats: of('nats'), http: of('http') };
    await expect.poll(() => of('nats') - before.nats, { timeout: 60_000 }).toBeGreaterThan(count);
    await expect.poll(() => of('http') - before.http, { timeout: 60_000 }).toBeGreaterThan(count);
  }

  test('to this one, with the image that was there: no pod of a function is replaced and no call fails', async () => {
    const before = await pods();
    expect(before).toHaveLength(2);
    const calls = callers();
    await more(calls, 10);
    // Other annotations than before: controller and gateway are replaced, whatever else differs between the charts.
    const podAnnotations = { 'example.com/chart': 'this' };
    await release.upgrade({ values: { controller: { podAnnotations }, gateway: { podAnnotations } } });
    await more(calls, 50);
    await calls.stop();
    expect(calls.failed).toEqual([]);
    expect(new Set(calls.answers.map(({ text }) => text))).toEqual(new Set(['before']));
    expect(await pods()).toEqual(before);

    // The controller that came with it is at work.
    await apply('after');
    await expect
      .poll(() => kubectl('get', 'fn', 'answers', '-o', 'jsonpath={.status.observedGeneration}'), {
        timeout: 60_000,
      })
      .toBe('2');
    await kubectl('wait', 'fn/answers', '--for=condition=Ready', '--timeout=120s');
    expect((await client.request('answers', '', { timeout: answerMs })).json()).toBe('after');
  });

  test('to an image that holds something else: pods are replaced by their turn and no call fails', async () => {
    const next = kubernetes.image.replace(/:[^:/]*$/, ':next');
    const archive = await writeNextImage(await temporaryFolder(), next);
    for (const node of kubernetes.nodes) await node.importImage(archive);
    const before = await pods();
    const ran = await digests();
    expect(ran.size).toBe(1);
    const calls = callers();
    await more(calls, 10);
    await release.upgrade({ values: { image: { tag: 'next' } } });
    await expect
      .poll(async () => (await pods()).filter((pod) => pod.includes(next)).length, { timeout: 120_000 })
      .toBe(2);
    await kubectl('wait', 'fn/answers', '--for=condition=Ready', '--timeout=120s');
    await more(calls, 50);
    await calls.stop();
    expect(calls.failed).toEqual([]);
    const after = await pods();
    expect(after).toHaveLength(2);
    expect(after.filter((pod) => before.includes(pod))).toEqual([]);
    const run = await digests();
    expect(run.size).toBe(1);
    expect(run).not.toEqual(ran);
  });
});
