/** `npm run bench [NAME…]`: every benchmark, or those named, one after the other. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

const benchmarks = ['nats', 'invoke'];
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !benchmarks.includes(name));
if (unknown.length > 0) {
  console.error(`no benchmark ${unknown.join(', ')}; there are: ${benchmarks.join(', ')}`);
  process.exit(2);
}
for (const name of wanted.length > 0 ? wanted : benchmarks) {
  const { status } = spawnSync(process.execPath, [join(import.meta.dirname, `${name}.ts`)], {
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
