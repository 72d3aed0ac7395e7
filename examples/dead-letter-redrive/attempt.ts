import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expectEqual, firstOf, listen, until, type Attempt } from '../site.ts';

/** A bad event becomes a dead letter; the function is mended; the dead letter is redriven and handled. */
export const attempt: Attempt = async (site) => {
  site.nats.publish('examples.parcels', JSON.stringify({ id: 'p1' }));
  const [dead] = await until(async () => {
    const { stdout } = await site.faas('dead', 'list', 'dead-letter-redrive', '-o', 'json');
    const letters = JSON.parse(stdout) as { reason: string; attempts: number }[];
    return letters.length > 0 ? letters : undefined;
  });
  expectEqual(dead?.reason, 'RetriesExhausted');
  expectEqual(dead?.attempts, 2);

  const folder = await mkdtemp(join(tmpdir(), 'atoll-example-'));
  try {
    const manifest = await readFile(join(import.meta.dirname, 'function.yaml'), 'utf8');
    const mended = join(folder, 'function.yaml');
    await writeFile(mended, manifest.replace("value: 'no'", "value: 'yes'"));
    await site.faas('deploy', import.meta.dirname, '-f', mended);
  } finally {
    await rm(folder, { recursive: true });
  }

  const results = listen(site.nats, 'examples.results.parcels');
  await site.faas('dead', 'redrive', 'dead-letter-redrive');
  const { responsePayload } = (await firstOf(results)) as { responsePayload: { shipped: string } };
  expectEqual(responsePayload.shipped, 'p1');
  return {
    trigger: 'dead letter',
    sent: 'publish examples.parcels {"id":"p1"}, mend, redrive',
    answer: { reason: dead?.reason, attempts: dead?.attempts, afterRedrive: responsePayload },
  };
};
