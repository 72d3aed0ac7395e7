// Plain JavaScript, so that a cold start is Node's own: imports a bundle and answers each line of stdin with a line.
import { createInterface } from 'node:readline';

const { handler } = await import(process.argv[2]);
createInterface({ input: process.stdin }).on('line', (line) => {
  void handler(JSON.parse(line)).then((result) => process.stdout.write(`${JSON.stringify(result)}\n`));
});
