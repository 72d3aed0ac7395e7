/** The API group metrics.k8s.io of a real cluster: what pods use of CPU and memory, as their kubelets tell. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryFolder } from './folder.ts';
import type { KubernetesWithNodes } from './kubernetes-nodes.ts';
import { freePort } from './ports.ts';
import { requireTool } from './requirement.ts';
import { startServer } from './server.ts';

const namespace = 'kube-system';
const name = 'metrics-server';
const servedMs = 60_000;

/**
 * Beside the control plane, as its neighbours run, for a cluster that was started with `aggregation`. Resolves when the
 * cluster serves the group; figures of a pod come with the second look at its node.
 */
export async function startMetricsServer(kubernetes: KubernetesWithNodes): Promise<void> {
  const program = await requireTool('metrics-server');
  const folder = await temporaryFolder();
  const { host } = kubernetes.place;
  const { ports } = await startServer<number>(
    {
      name,
      choosePorts: freePort,
      prepare: async (port) => ({
        command: program,
        args: [
          ...['kubeconfig', 'authentication-kubeconfig', 'authorization-kubeconfig'].map(
            (flag) => `--${flag}=${kubernetes.kubeconfigFile}`,
          ),
          ...[
            `--bind-address=${host}`,
            `--secure-port=${port}`,
            `--cert-dir=${join(folder, 'certificates')}`,
          ],
          // Of a kubelet's own making; ten seconds is the least that it takes.
          ...['--kubelet-insecure-tls', '--kubelet-preferred-address-types=InternalIP'],
          ...['--metric-resolution=10s', '--kubelet-request-timeout=5s'],
        ],
      }),
      ready: async (process) => void (await process.line(/Serving securely on/)),
    },
    {},
  );
  const meta = { name, namespace };
  const objects = [
    { apiVersion: 'v1', kind: 'Service', metadata: meta, spec: { ports: [{ name: 'https', port: 443 }] } },
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { ...meta, labels: { 'kubernetes.io/service-name': name } },
      addressType: 'IPv4',
      endpoints: [{ addresses: [host], conditions: { ready: true } }],
      ports: [{ name: 'https', port: ports, protocol: 'TCP' }],
    },
    {
      apiVersion: 'apiregistration.k8s.io/v1',
      kind: 'APIService',
      metadata: { name: 'v1beta1.metrics.k8s.io' },
      spec: {
        service: meta,
        group: 'metrics.k8s.io',
        version: 'v1beta1',
        insecureSkipTLSVerify: true,
        groupPriorityMinimum: 100,
        versionPriority: 100,
      },
    },
  ];
  const file = join(folder, 'objects.json');
  await writeFile(file, JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }));
  await kubernetes.kubectl(['create', '-f', file]);
  await kubernetes.kubectl([
    ...['wait', 'apiservice/v1beta1.metrics.k8s.io', '--for=condition=Available'],
    `--timeout=${servedMs / 1000}s`,
  ]);
}
