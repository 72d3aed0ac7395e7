/** Runs one function as `faas up` does, until it is killed. Argument: the site's folder. */
import { request } from 'node:http';
import { text } from 'node:stream/consumers';
import { openLocalBackend } from '../../../controller/backends/local.ts';
import { claimSite } from '../../../controller/stores/site.ts';
import { openLog } from '../../../runtime/log.ts';
import { hello, isReady, untilObserved, workload } from '../../contracts/backend.ts';

const [dir = ''] = process.argv.slice(2);
const log = openLog({ destination: process.stderr });
const { paths } = await claimSite(dir, { log });
const backend = await openLocalBackend({ paths, site: 'local', log });
await backend.ensure(workload({ code: 'exports.handler = () => process.pid' }));
await untilObserved(backend, hello, isReady());
const socketPath = backend.address(hello)?.replace('unix:', '');
const asked = request({ socketPath, path: '/invoke/default/hello', method: 'POST' }, (response) => {
  void text(response).then((body) => process.send?.({ handlerPid: Number(body) }));
});
asked.end('null');
