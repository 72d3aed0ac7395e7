/**
 * States of a robot as they come to its hub, with their ages: a process of its own, so that nothing holds it up but they.
 * Arguments: URL, file with user and pass, subject. Each line on stdin is answered with the ages in ms of those since the last.
 */
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { connect } from '@nats-io/transport-node';

const [servers = '', file = '', subject = ''] = process.argv.slice(2);
const { user, pass } = JSON.parse(await readFile(file, 'utf8')) as { user: string; pass: string };
const nats = await connect({ servers, user, pass });
let ages: number[] = [];
nats.subscribe(subject, {
  callback: (_, { headers }) => {
    const [seconds = '', nanoseconds = ''] = (headers?.get('Ros-Stamp') ?? '').split('.');
    const published = BigInt(seconds) * 1_000_000_000n + BigInt(nanoseconds);
    ages.push(Number(process.hrtime.bigint() - published) / 1e6);
  },
});
await nats.flush();
console.log('{}');

for await (const _ of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(ages));
  ages = [];
}
process.exit(0);
