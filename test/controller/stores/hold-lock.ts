/** Arguments: folder[, counter]. Without a counter: takes the lock, says so and keeps it. With: counts it up 25 times. */
import { readFile, writeFile } from 'node:fs/promises';
import { takeLock } from '../../../controller/stores/lock.ts';

const [folder = '', counter] = process.argv.slice(2);
if (counter === undefined) {
  await takeLock(folder, 'x', { waitMs: 0 });
  process.send?.('held');
  setInterval(() => {}, 1_000);
} else {
  for (let round = 0; round < 25; round += 1) {
    const lock = await takeLock(folder, 'x', { waitMs: 20_000 });
    const count = Number(await readFile(counter, 'utf8'));
    await new Promise((resolve) => setImmediate(resolve));
    await writeFile(counter, String(count + 1));
    await lock.release();
  }
  process.disconnect?.();
}
