/** Runs a site's broker as `faas up` does, until it is killed. Arguments: folder, program, port. */
import { startBroker } from '../../../controller/broker/nats-server.ts';
import { claimSite } from '../../../controller/stores/site.ts';
import { openLog } from '../../../runtime/log.ts';

const [dir = '', command = '', port = ''] = process.argv.slice(2);
const log = openLog({ destination: process.stderr });
const { paths } = await claimSite(dir, { log });
const broker = await startBroker({ paths, site: 'local', log, command, ports: { nats: Number(port) } });
process.send?.({ pid: broker.pid, url: broker.nats.url });
