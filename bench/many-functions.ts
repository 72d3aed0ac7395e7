/**
 * What do 1,000 Functions cost one site? Its start, the memory of the engine, and the time to act on one change, against
 * a site with ten. All but ten have `replicas: 0`: what handler processes take is another question (memory.ts).
 */
import { setTimeout as pause } from 'node:timers/promises';
import { openDirectoryStore } from '../controller/stores/directory.ts';
import type { Store } from '../controller/stores/store.ts';
import { validate, type FunctionManifest } from '../crds/function.ts';
import { openLog } from '../runtime/log.ts';
import { emptySite, liveStatus } from '../test/e2e/site.ts';
import { bench } from './frame/bench.ts';
import { scaled } from './frame/options.ts';
import { pssBytes } from './frame/processes.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const running = 10;
const functions = scaled(1_000, { least: 2 * running });
const pollMs = 5;
/** Until the start's own work is over. */
const idleMs = 1_000;
const mebibyte = 1024 * 1024;

await bench(async ({ closing }) => {
  async function contender(count: number): Promise<Contender> {
    const site = await emptySite({ args: ['--port', '0'], closing });
    const store = await openDirectoryStore({ dir: site.dir, log: openLog({ level: 'silent' }) });
    for (let index = 0; index < count; index++) await store.put(functionOf(index, 30));
    let timeoutSeconds = 30;
    return {
      name: `${count} functions`,
      async round() {
        const started = performance.now();
        await site.start();
        // The last by name: the engine has seen the others by then.
        for (let index = 0; index < running; index++) await site.ready(nameOf(index));
        await acted(store, site.info.url, nameOf(count - 1));
        const startMs = performance.now() - started;
        await pause(idleMs);
        const pss = pssBytes([site.info.pid]) / mebibyte;
        timeoutSeconds = timeoutSeconds === 30 ? 31 : 30;
        const changed = performance.now();
        await store.put(functionOf(0, timeoutSeconds));
        await acted(store, site.info.url, nameOf(0));
        const changeMs = performance.now() - changed;
        await site.stop();
        return { figures: { 'start ms': startMs, 'PSS of faas up MiB': pss, 'one change ms': changeMs } };
      },
    };
  }

  await report(
    await compare({
      name: 'many-functions',
      text: `A site with ${functions} Functions, ${running} of them running.`,
      event: 'start',
      contenders: [await contender(running), await contender(functions)],
    }),
  );
});

function nameOf(index: number): string {
  return `fn-${String(index).padStart(4, '0')}`;
}

function functionOf(index: number, timeoutSeconds: number): FunctionManifest {
  const verdict = validate({
    apiVersion: 'atoll.dev/v1alpha1',
    kind: 'Function',
    metadata: { name: nameOf(index) },
    spec: {
      package: { inline: 'export const handler = async (event) => event;' },
      replicas: index < running ? 1 : 0,
      timeoutSeconds,
    },
  });
  if (!verdict.ok) throw new Error(JSON.stringify(verdict.problems));
  return verdict.object;
}

/** The status speaks of the newest generation, and of nothing that is still to be done. */
async function acted(store: Store, url: string, name: string): Promise<void> {
  const generation = (await store.get({ namespace: 'default', name }))?.metadata.generation ?? 0;
  for (;;) {
    const { observedGeneration = 0, conditions = [] } = await liveStatus(url, name);
    const progressing = conditions.find(({ type }) => type === 'Progressing')?.status === 'True';
    if (observedGeneration >= generation && !progressing) return;
    await pause(pollMs);
  }
}
