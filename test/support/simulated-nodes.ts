/**
 * Nodes that only seem to run pods, for clusters of a size that no machine has: kwok says that each pod runs, and here
 * a server at its address tells what its host would. API server, controllers and scheduler are the real ones.
 */
import { createServer, type Server } from 'node:http';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openCluster } from '../../controller/cluster/client.ts';
import { openInformer } from '../../controller/cluster/informer.ts';
import { functionLabel, port } from '../../controller/backends/manifests.ts';
import { podResource, type Pod } from '../../controller/backends/pods.ts';
import type { HostFunctionStatus, HostStatusLine } from '../../runtime/config.ts';
import { closeLater } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import type { Kubernetes } from './kubernetes.ts';
import { startProcess } from './process.ts';
import { requireTool } from './requirement.ts';

/** Loopback, so that what asks a pod stays on this machine; Endpoints, which refuse that, are to be switched off. */
const podAddresses = '127.64.0.0/12';
const podsOfNode = 500;

export interface SimulatedNodes {
  /** How many pods have a host that answers. */
  readonly answering: number;
  /** How often hosts were asked what they are, each time for as long as who asked lives. */
  readonly asked: number;
}

/** `statusOf`: what the host of the function's pod tells; undefined while it has nothing to tell. */
export async function simulateNodes(
  kubernetes: Kubernetes,
  options: { pods: number; statusOf: (namespace: string, name: string) => HostFunctionStatus | undefined },
): Promise<SimulatedNodes> {
  const kwok = await requireTool('kwok');
  const stages = join(await temporaryFolder(), 'stages.yaml');
  await writeFile(stages, [nodeRuns, podRuns, podGoes].join('---\n'));
  const nodes = Math.ceil(options.pods / podsOfNode);
  for (let number = 1; number <= nodes; number++) {
    const metadata = { name: `simulated-${number}`, labels: { 'kubernetes.io/os': 'linux' } };
    const { status } = await kubernetes.request('POST', '/api/v1/nodes', { body: { metadata } });
    if (status !== 201) throw new Error(`node ${metadata.name} was refused: HTTP ${status}`);
  }
  await startProcess(
    kwok,
    [
      ...['--config', stages, '--kubeconfig', kubernetes.kubeconfigFile, '--manage-all-nodes'],
      ...['--cidr', podAddresses, '--node-lease-duration-seconds', '40'],
    ],
    { name: 'kwok' },
  );

  const cluster = await openCluster({ kubeconfig: kubernetes.kubeconfigFile, userAgent: 'simulated-nodes' });
  const hosts = new Map<string, Server>();
  let asked = 0;
  const pods = openInformer<Pod>({ cluster, resource: podResource, labelSelector: functionLabel });
  pods.watch((_key, before, after) => {
    const { uid, namespace = '', labels } = (after ?? before)!.metadata;
    const name = labels?.[functionLabel];
    const address = after?.status.podIP;
    if (!after) {
      const host = hosts.get(uid);
      host?.closeAllConnections();
      host?.close();
      hosts.delete(uid);
    }
    if (name === undefined || address === undefined || hosts.has(uid)) return;
    const host = createServer((_request, response) => {
      asked += 1;
      const status = options.statusOf(namespace, name);
      if (status) response.write(`${JSON.stringify({ function: status } satisfies HostStatusLine)}\n`);
    });
    host.listen(port, address);
    hosts.set(uid, host);
  });
  closeLater(async () => {
    await pods.close();
    await cluster.close();
    for (const host of hosts.values()) {
      host.closeAllConnections();
      host.close();
    }
  });
  await pods.untilSynced();
  return {
    get answering() {
      return [...hosts.values()].filter(({ listening }) => listening).length;
    },
    get asked() {
      return asked;
    },
  };
}

/** https://kwok.sigs.k8s.io/docs/user/stages-configuration/ */
const stage = (
  name: string,
  kind: 'Node' | 'Pod',
  when: [key: string, is: string][],
  next: string,
): string => `
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: { name: ${name} }
spec:
  resourceRef: { apiGroup: v1, kind: ${kind} }
  selector:
    matchExpressions:
${when.map(([key, is]) => `      - { key: '${key}', ${is} }`).join('\n')}
  next:
${next.replaceAll(/^(?=.)/gm, '    ')}
`;

const nodeRuns = stage(
  'node-runs',
  'Node',
  [['.status.phase', "operator: NotIn, values: ['Running']"]],
  `
statusTemplate: |
  phase: Running
  conditions:
  {{ range NodeConditions }}
  - { type: {{ .type }}, status: {{ .status | Quote }}, reason: {{ .reason | Quote }}, message: {{ .message | Quote }}, lastHeartbeatTime: {{ Now | Quote }}, lastTransitionTime: {{ Now | Quote }} }
  {{ end }}
  addresses: [{ type: InternalIP, address: {{ NodeIP | Quote }} }]
  allocatable: { cpu: 1k, memory: 1Ti, pods: ${podsOfNode} }
  capacity: { cpu: 1k, memory: 1Ti, pods: ${podsOfNode} }
`,
);

const podRuns = stage(
  'pod-runs',
  'Pod',
  [
    ['.metadata.deletionTimestamp', 'operator: DoesNotExist'],
    ['.status.phase', "operator: In, values: ['Pending']"],
  ],
  `
statusTemplate: |
  {{ $now := Now | Quote }}
  phase: Running
  startTime: {{ $now }}
  conditions:
  - { type: Initialized, status: "True", lastTransitionTime: {{ $now }} }
  - { type: ContainersReady, status: "True", lastTransitionTime: {{ $now }} }
  - { type: Ready, status: "True", lastTransitionTime: {{ $now }} }
  containerStatuses:
  {{ range .spec.containers }}
  - { name: {{ .name }}, image: {{ .image | Quote }}, ready: true, restartCount: 0, state: { running: { startedAt: {{ $now }} } } }
  {{ end }}
  {{ with PodIPsWith .spec.nodeName false ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) }}
  podIP: {{ index . 0 | Quote }}
  podIPs: [{ ip: {{ index . 0 | Quote }} }]
  {{ end }}
`,
);

const podGoes = stage(
  'pod-goes',
  'Pod',
  [['.metadata.deletionTimestamp', 'operator: Exists']],
  'delete: true',
);
