/**
 * The network of a cluster's nodes: a bridge in a namespace of its own, with this machine and every node plugged in.
 * It vanishes with the process that holds the namespace, so nothing is left of a run that was killed. The addresses
 * are of RFC 2544's range for tests (`network.ts` has its other half), and nothing leaves the machine: nodes know no
 * way out, and what comes from them is not forwarded.
 */
import { execFileSync } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import { startProcess } from './process.ts';
import type { RunningProcess } from './process.ts';

export interface KubernetesNetwork {
  /** Of this machine, as nodes and pods reach it; pods are reached from here by their own addresses. */
  readonly address: string;
  /** Of all pods, `a.b.c.d/n`; each node has a part of it. */
  readonly pods: string;
  /** Of ClusterIPs, a.b.c.0/24: also for this machine once the first node is there. */
  readonly services: string;
  /** Of the server that knows the names of Services. */
  readonly dns: string;
  /** Plugs in the node of that number, from 1 to `maxNodes`, whose network namespace the process is in. */
  join(number: number, pid: number): Cable;
  /** The command that runs a command at `dns`. */
  enter(launch: { command: string; args: string[] }): { command: string; args: string[] };
}

export interface Cable {
  /** Of the node. */
  readonly address: string;
  /** Of the pods on it, a.b.c.0/24. */
  readonly pods: string;
  /** Pulls the plug: what is sent there vanishes, both ways, and nobody is told. */
  cut(): void;
  heal(): void;
}

export const maxNodes = 8;
const blocks = 16;

/** A /20 for each cluster: its nodes, its Services, and from the middle on a /24 of pods for each node. */
function addressesOf(block: number) {
  const third = block * 16;
  const net = (offset: number): string => `198.19.${third + offset}`;
  return {
    all: `${net(0)}.0/20`,
    nodes: `${net(0)}.0/24`,
    host: `${net(0)}.1`,
    dns: `${net(0)}.2`,
    node: (number: number): string => `${net(0)}.${10 + number}`,
    services: `${net(1)}.0/24`,
    pods: `${net(8)}.0/21`,
    podsOf: (number: number): string => `${net(7 + number)}.0/24`,
  };
}

export async function startKubernetesNetwork(
  options: { closing?: Closing | undefined } = {},
): Promise<KubernetesNetwork> {
  const hub = await startProcess('unshare', ['--net', 'sleep', 'infinity'], {
    name: 'network of the nodes',
    closing: () => {},
  });
  closeLater(async () => void (await hub.kill()), options.closing);
  await untilUnshared(hub);

  const block = takeBlock(hub.pid);
  const addresses = addressesOf(block);
  const device = deviceOf(block);
  // With its namespace it would go as well, but at a time of the kernel's own.
  closeLater(async () => ip(undefined, [`link delete dev ${device}`]), options.closing);
  ip(undefined, [
    `address add ${addresses.host}/24 dev ${device}`,
    `link set dev ${device} up`,
    // Whatever has no address there must not be looked for elsewhere.
    `route add ${addresses.all} dev ${device}`,
    `route add ${addresses.services} via ${addresses.node(1)} dev ${device}`,
  ]);
  await writeFile(`/proc/sys/net/ipv4/conf/${device}/forwarding`, '0');
  ip(hub.pid, [
    'link set dev lo up',
    'link add name nodes type bridge mcast_snooping 0',
    'link set dev host master nodes up',
    `address add ${addresses.dns}/24 dev nodes`,
    'link set dev nodes up',
  ]);

  return {
    address: addresses.host,
    pods: addresses.pods,
    services: addresses.services,
    dns: addresses.dns,
    join(number, pid) {
      const [address, pods, port] = [addresses.node(number), addresses.podsOf(number), `node${number}`];
      ip(undefined, [
        `link add name ${port} netns ${hub.pid} type veth peer name eth0 netns ${pid}`,
        `route add ${pods} via ${address} dev ${device}`,
      ]);
      ip(hub.pid, [`link set dev ${port} master nodes up`, `route add ${pods} via ${address}`]);
      const others = Array.from({ length: maxNodes }, (_, index) => index + 1).filter((n) => n !== number);
      ip(pid, [
        'link set dev lo up',
        `address add ${address}/24 dev eth0`,
        'link set dev eth0 up',
        ...others.map((n) => `route add ${addresses.podsOf(n)} via ${addresses.node(n)}`),
        // kube-proxy turns it aside, but only after a way to it was found.
        `route add ${addresses.services} via ${addresses.host}`,
      ]);
      return {
        address,
        pods,
        cut: () => ip(hub.pid, [`link set dev ${port} down`]),
        heal: () => ip(hub.pid, [`link set dev ${port} up`]),
      };
    },
    enter: ({ command, args }) => ({
      command: 'nsenter',
      args: [`--net=/proc/${hub.pid}/ns/net`, command, ...args],
    }),
  };
}

/** Resolves when the process is in a network namespace of its own. */
export async function untilUnshared(process: RunningProcess): Promise<void> {
  const own = readlinkSync('/proc/self/ns/net');
  await process.until('it had a network of its own', async () => {
    return readlinkSync(`/proc/${process.pid}/ns/net`) !== own || undefined;
  });
}

const deviceOf = (block: number): string => `atoll-k8s-${block}`;

/** The name of a device exists once: whoever could make it has the block. */
function takeBlock(hub: number): number {
  const first = Math.floor(Math.random() * blocks);
  for (let tried = 0; tried < blocks; tried++) {
    const block = (first + tried) % blocks;
    try {
      ip(undefined, [`link add name ${deviceOf(block)} type veth peer name host netns ${hub}`]);
      return block;
    } catch (error) {
      if (!String(error).includes('File exists')) throw error;
    }
  }
  throw new Error(`${blocks} clusters are running, and there are addresses for no more`);
}

/** In the network namespace of the process, or in ours. */
function ip(pid: number | undefined, commands: readonly string[]): void {
  const [command, ...args] =
    pid === undefined ? ['ip', '-batch', '-'] : ['nsenter', `--net=/proc/${pid}/ns/net`, 'ip', '-batch', '-'];
  execFileSync(command, args, {
    input: `${commands.join('\n')}\n`,
    stdio: ['pipe', 'ignore', 'pipe'],
    env: { ...process.env, LC_ALL: 'C', PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  });
}
