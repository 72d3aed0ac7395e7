/** Claims the folder as `faas up` does, starts a child that does not die with it, and stays. */
import { spawn } from 'node:child_process';
import { claimSite } from '../../../controller/stores/site.ts';
import { markProcess } from '../../../controller/stores/process-marks.ts';
import { openLog } from '../../../runtime/log.ts';
import { identify } from '../../../runtime/process/identity.ts';

const [dir = ''] = process.argv.slice(2);
const log = openLog({ destination: process.stderr });
const site = await claimSite(dir, { log });
const { startTime = '' } = identify(process.pid) ?? {};
const nats = { url: 'nats://127.0.0.1:4222' };
const url = 'http://127.0.0.1:8700';
await site.publish({ version: '0.1.0', site: 'local', pid: process.pid, startTime, url, nats });
const child = spawn('sleep', ['600'], { detached: true, stdio: 'ignore' });
const marks = markProcess(site.paths.run, { name: 'sleep' }, log);
marks.onState({ kind: 'starting', pid: child.pid as number });
await marks.written();
process.send?.({ grandchild: child.pid });
setInterval(() => {}, 1_000);
