/**
 * A replica for the tests of the lease: while it holds it, it writes to one ConfigMap as fast as the server answers.
 * argv: its kubeconfig, its name, the timings. stdout: a line for each change.
 */
import { openCluster } from '../../controller/cluster/client.ts';
import { holdLease, type LeaseTimings } from '../../controller/lease.ts';
import { openLog } from '../../runtime/log.ts';

const [kubeconfig, holder, timings] = process.argv.slice(2) as [string, string, string];
const cluster = await openCluster({ kubeconfig });
let writing = false;

const lease = holdLease({
  cluster,
  namespace: 'default',
  name: 'atoll-controller',
  holder,
  log: openLog({ destination: process.stderr }),
  timings: JSON.parse(timings) as LeaseTimings,
  onHeld() {
    console.log(`${holder} holds it`);
    void write();
  },
  onLost: (why) => console.log(`${holder} lost it: ${why}`),
});
const guarded = cluster.guarded(lease.mayWrite);

async function write(): Promise<void> {
  if (writing) return;
  writing = true;
  for (let count = 1; lease.held; count++) {
    await guarded
      .request('PATCH', '/api/v1/namespaces/default/configmaps/written', {
        body: { data: { [holder]: String(count) } },
        contentType: 'application/merge-patch+json',
        timeoutMs: 5_000,
      })
      .catch((error: unknown) => console.log(`${holder} did not write: ${(error as Error).name}`));
  }
  writing = false;
}

process.on('SIGTERM', () => {
  void lease.release().then(async () => {
    await cluster.close();
    process.exit(0);
  });
});
