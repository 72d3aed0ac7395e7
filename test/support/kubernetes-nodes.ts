/** A real cluster: the control plane of `kubernetes.ts` and nodes that run pods of our own image. */
import { execFileSync } from 'node:child_process';
import { closeLater } from './closing.ts';
import { makeControlGroup } from './control-group.ts';
import { temporaryFolder } from './folder.ts';
import { writeOwnImage, writeSandboxImage } from './kubernetes-images.ts';
import { maxNodes, startKubernetesNetwork } from './kubernetes-network.ts';
import { startKubernetesNode } from './kubernetes-node.ts';
import type { KubernetesNode } from './kubernetes-node.ts';
import { startKubernetes } from './kubernetes.ts';
import type { Kubernetes, KubernetesOptions } from './kubernetes.ts';
import type { Place } from './place.ts';
import { startMs } from './process.ts';
import { missing } from './requirement.ts';

export interface NodesOptions extends Omit<KubernetesOptions, 'controllers' | 'scheduler' | 'network'> {
  /** Names of the nodes, 8 at most; one called `node-1` by default. */
  nodes?: readonly string[];
}

export interface KubernetesWithNodes extends Kubernetes {
  readonly nodes: readonly KubernetesNode[];
  /** Our own image, built from this checkout and present on every node: pods must not pull it (`IfNotPresent`). */
  readonly image: string;
  /** For servers that pods are to reach; loopback is not theirs. */
  readonly place: Place;
  /** Throws when there is none of that name. */
  node(name: string): KubernetesNode;
}

/** Why there can be no nodes here, or undefined when there can. In CI this throws instead. */
export async function missingNodes(): Promise<string | undefined> {
  const absent = await missing('kubernetes', 'openssl', 'containerd', 'runc', 'cni', 'nft');
  if (absent !== undefined) return absent;
  const closings: (() => Promise<void>)[] = [];
  try {
    await makeControlGroup({ closing: (close) => closings.push(close) });
    // A bridge and a tmpfs are what a node cannot do without.
    const script = 'ip link add name tried type bridge && mount -t tmpfs tmpfs /run';
    execFileSync('unshare', ['--net', '--mount', '--pid', '--fork', '--mount-proc', 'sh', '-c', script], {
      stdio: 'pipe',
      env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
    });
    return undefined;
  } catch (error) {
    const reason = `nodes need root, namespaces and control groups that it may change: ${String(error)}`;
    if (process.env['CI'] === 'true') throw new Error(reason, { cause: error });
    process.stderr.write(`Skipped: ${reason}\n`);
    return reason;
  } finally {
    for (const close of closings) await close();
  }
}

/** Resolves when every node is Ready, has our image, and pods can be created. */
export async function startKubernetesWithNodes(options: NodesOptions = {}): Promise<KubernetesWithNodes> {
  const { nodes: names = ['node-1'], closing } = options;
  if (names.length > maxNodes) throw new Error(`there are ${maxNodes} nodes at most, not ${names.length}`);
  const network = await startKubernetesNetwork({ closing });
  const controlGroup = await makeControlGroup({ closing });
  const folder = await temporaryFolder({ closing });

  const own = writeOwnImage(folder);
  const images = Promise.all([writeSandboxImage(folder), own.then(({ archive }) => archive)]);
  const starting = startKubernetes({
    ...options,
    controllers: true,
    scheduler: true,
    network,
    users: {
      'system:kube-proxy': [],
      ...Object.fromEntries(names.map((name) => [`system:node:${name}`, ['system:nodes']])),
      ...options.users,
    },
  });
  // Nodes await them late, and may fail before that.
  for (const promise of [own, images, starting]) promise.catch(() => {});
  const nodes = await Promise.all(
    names.map((name, index) =>
      startKubernetesNode({
        name,
        number: index + 1,
        network,
        controlGroup,
        images,
        kubernetes: starting,
        measureSeconds: options.aggregation ? 1 : undefined,
        closing,
      }),
    ),
  );
  const kubernetes = await starting;
  // Their pods do not have to end in an orderly way either, so the nodes go first.
  for (const node of nodes) closeLater(() => node.kill(), closing);
  await Promise.all(nodes.map((node) => untilReady(kubernetes, node)));
  const { name: image } = await own;
  const facts = {
    nodes,
    image,
    place: { host: network.address, enter: (launch: { command: string; args: string[] }) => launch },
    node(name: string) {
      const node = nodes.find((one) => one.name === name);
      if (node === undefined) throw new Error(`there is no node ${name}, only ${names.join(', ')}`);
      return node;
    },
  };
  // A spread would call getters, some of which throw.
  return Object.defineProperties(kubernetes, Object.getOwnPropertyDescriptors(facts)) as KubernetesWithNodes;
}

interface NodeObject {
  readonly status?: {
    readonly conditions?: readonly { readonly type: string; readonly status: string; message?: string }[];
  };
}

async function untilReady(kubernetes: Kubernetes, node: KubernetesNode): Promise<void> {
  const deadline = Date.now() + startMs;
  for (;;) {
    const { body } = await kubernetes.request('GET', `/api/v1/nodes/${node.name}`);
    const ready = (body as NodeObject).status?.conditions?.find(({ type }) => type === 'Ready');
    if (ready?.status === 'True') return;
    if (Date.now() > deadline) {
      const last = `${JSON.stringify(ready)}. kubelet wrote:\n${node.kubelet.output().slice(-4000)}`;
      throw new Error(`waited ${startMs} ms in vain until ${node.name} is Ready: ${last}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
