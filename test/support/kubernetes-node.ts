/** One node: containerd, kubelet and kube-proxy in namespaces of their own for network, mounts and processes. */
import { execFile } from 'node:child_process';
import { mkdir, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import type { ControlGroup } from './control-group.ts';
import { temporaryFolder } from './folder.ts';
import { sandboxImage } from './kubernetes-images.ts';
import { untilUnshared } from './kubernetes-network.ts';
import type { KubernetesNetwork } from './kubernetes-network.ts';
import type { Kubernetes } from './kubernetes.ts';
import { startProcess } from './process.ts';
import type { RunningProcess } from './process.ts';
import { requireTool } from './requirement.ts';
import { startServer } from './server.ts';
import type { Server } from './server.ts';

export interface KubernetesNode {
  readonly name: string;
  readonly address: string;
  /** Containers go on without it; `restart()` finds them again. */
  readonly containerd: Server;
  /** Pods go on without it. */
  readonly kubelet: Server;
  /** What it has set up for Services stays without it, and grows old. */
  readonly kubeProxy: Server;
  /** Pulls the network cable: pods on the node go on, the cluster hears nothing of them. */
  cut(): void;
  heal(): void;
  /** Pulls the other plug: everything on the node ends at once, for good. */
  kill(): Promise<void>;
  /** Runs a command on the node and gives what it wrote to stdout. */
  run(command: string, ...args: string[]): Promise<string>;
  /** Gives containerd an image: an OCI archive. */
  importImage(archive: string): Promise<void>;
}

export interface NodeOptions {
  readonly name: string;
  /** From 1 on. */
  readonly number: number;
  readonly network: KubernetesNetwork;
  readonly controlGroup: ControlGroup;
  /** OCI archives; the one of `sandboxImage` must be among them. */
  readonly images: Promise<readonly string[]>;
  /** Where `system:node:<name>` and `system:kube-proxy` are users. containerd does not wait for it. */
  readonly kubernetes: Promise<Kubernetes>;
  /** How often kubelet measures what containers use; every 10 to 15 s by default. */
  readonly measureSeconds?: number | undefined;
  readonly closing?: Closing | undefined;
}

/** Resolves when kubelet is at work; whether the node is Ready is for the cluster to say. */
export async function startKubernetesNode(options: NodeOptions): Promise<KubernetesNode> {
  const { name, network, closing } = options;
  const programs = await findPrograms();
  const folder = await temporaryFolder({ closing });
  const file = (path: string): string => join(folder, path);
  const cgroupRoot = await options.controlGroup.child(name);

  const machine = await startMachine(folder, name);
  closeLater(async () => void (await machine.kill()), closing);
  await untilUnshared(machine);
  const cable = network.join(options.number, machine.pid);
  await machine.line(/^mounted$/);

  const env = {
    ...process.env,
    PATH: [...programs.folders, process.env['PATH'], '/usr/sbin:/usr/bin:/sbin:/bin'].join(':'),
  };
  const enter = (command: string, args: readonly string[]): { command: string; args: string[] } => {
    const namespace = `/proc/${machine.pid}/ns`;
    const spaces = [`--net=${namespace}/net`, `--mount=${namespace}/mnt`];
    return {
      command: 'nsenter',
      args: [...spaces, `--pid=${namespace}/pid_for_children`, '--', command, ...args],
    };
  };
  const runOnNode: KubernetesNode['run'] = async (command, ...args) => {
    const entered = enter(command, args);
    const { stdout } = await promisify(execFile)(entered.command, entered.args, {
      env,
      maxBuffer: 64 * 1024 * 1024,
    });
    return stdout;
  };
  const startOnNode = (
    program: string,
    args: readonly string[],
    ready: (process: RunningProcess) => Promise<unknown>,
  ): Promise<Server> =>
    startServer<undefined>(
      {
        name: `${program.slice(program.lastIndexOf('/') + 1)} of ${name}`,
        choosePorts: async () => undefined,
        prepare: async () => ({ ...enter(program, args), env }),
        ready: async (process) => void (await ready(process)),
      },
      { closing },
    );

  await mkdir(file('cni'));
  await writeFile(file('cni/pods.conflist'), cniConfig(cable.pods));
  // Overlays cannot lie upon an overlay, which is what a container's own disk is.
  const snapshotter = (await statfs(folder)).type === overlayMagic ? 'native' : 'overlayfs';
  await writeFile(
    file('containerd.toml'),
    containerdConfig({ cniPrograms: programs.cni, cniFolder: file('cni'), snapshotter }),
  );
  const containerd = await startOnNode(
    programs.containerd,
    ['--config', file('containerd.toml')],
    (process) => process.line(/containerd successfully booted/),
  );
  const importImage: KubernetesNode['importImage'] = async (archive) => {
    await runOnNode('ctr', '--namespace', 'k8s.io', 'images', 'import', archive);
  };
  for (const archive of await options.images) await importImage(archive);

  const kubernetes = await options.kubernetes;
  const kubeconfig = async (user: string): Promise<string> => {
    const path = file(`${user.replaceAll(':', '-')}.kubeconfig`);
    await writeFile(path, kubernetes.kubeconfig(kubernetes.tokenOf(user)), { mode: 0o600 });
    return path;
  };
  await writeFile(file('resolv.conf'), '');
  await writeFile(
    file('kubelet.yaml'),
    kubeletConfig({
      address: cable.address,
      caFile: kubernetes.caFile,
      cgroupRoot,
      dns: network.dns,
      resolvConf: file('resolv.conf'),
    }),
  );
  await writeFile(
    file('kube-proxy.yaml'),
    kubeProxyConfig({
      name,
      address: cable.address,
      pods: network.pods,
      kubeconfig: await kubeconfig('system:kube-proxy'),
    }),
  );
  const healthy = (port: number) => (process: RunningProcess) =>
    process.until('it is healthy', async () => {
      const answer = await fetch(`http://${cable.address}:${port}/healthz`, {
        headers: { connection: 'close' },
      });
      return answer.ok || undefined;
    });
  const [kubelet, kubeProxy] = await Promise.all([
    startOnNode(
      join(kubernetes.bin, 'kubelet'),
      [
        ...['--config', file('kubelet.yaml'), '--kubeconfig', await kubeconfig(`system:node:${name}`)],
        ...['--hostname-override', name, '--node-ip', cable.address],
        ...(options.measureSeconds ? [`--housekeeping-interval=${options.measureSeconds}s`] : []),
      ],
      healthy(kubeletHealthPort),
    ),
    startOnNode(
      join(kubernetes.bin, 'kube-proxy'),
      ['--config', file('kube-proxy.yaml')],
      healthy(kubeProxyHealthPort),
    ),
  ]);
  const kill = async (): Promise<void> => {
    await machine.kill();
    // They die with their process namespace, which takes a moment.
    await Promise.all([kubelet.kill(), kubeProxy.kill(), containerd.kill()]);
  };
  // Nobody has to wait for the orderly end of what is thrown away.
  closeLater(kill, closing);

  return {
    name,
    address: cable.address,
    containerd,
    kubelet,
    kubeProxy,
    cut: cable.cut,
    heal: cable.heal,
    kill,
    run: runOnNode,
    importImage,
  };
}

const kubeletHealthPort = 10248;
const kubeProxyHealthPort = 10256;
/** Linux, magic.h: OVERLAYFS_SUPER_MAGIC. */
const overlayMagic = 0x794c7630;

async function findPrograms() {
  const [containerd, runc, cni, nft] = await Promise.all([
    requireTool('containerd'),
    requireTool('runc'),
    requireTool('cni'),
    requireTool('nft'),
  ]);
  return { containerd, cni: dirname(cni), folders: [containerd, runc, nft].map((path) => dirname(path)) };
}

/** kubelet sets these for the whole machine unless it finds them as it wants them. */
const kernelSettings: Readonly<Record<string, number>> = {
  'vm/overcommit_memory': 1,
  'vm/panic_on_oom': 0,
  'kernel/panic': 10,
  'kernel/panic_on_oops': 1,
  'kernel/keys/root_maxkeys': 1_000_000,
  'kernel/keys/root_maxbytes': 25_000_000,
};

/**
 * The namespaces, held by a process 1 that does nothing but to bury the orphans. Every program finds the usual paths,
 * and behind them what is this node's alone; with process 1 all processes and mounts go.
 */
async function startMachine(folder: string, name: string): Promise<RunningProcess> {
  const folders = ['lib/containerd', 'lib/kubelet', 'lib/cni', 'log/pods', 'log/containers', 'kernel'];
  for (const path of folders) await mkdir(join(folder, path), { recursive: true });
  for (const [path, value] of Object.entries(kernelSettings))
    await writeFile(join(folder, 'kernel', path.replaceAll('/', '.')), `${value}\n`);
  const script = [
    'set -e; cd "$1"',
    'mount --bind lib /var/lib',
    'mount --bind log /var/log',
    'mount -t tmpfs tmpfs /run',
    ...Object.keys(kernelSettings).map(
      (path) =>
        `[ ! -e /proc/sys/${path} ] || mount --bind kernel/${path.replaceAll('/', '.')} /proc/sys/${path}`,
    ),
    // Containers see what kubelet mounts for them only where mounts are shared.
    'mount --make-rshared /',
    'echo 1 > /proc/sys/net/ipv4/ip_forward',
    'echo mounted',
    'while :; do sleep infinity & wait; done',
  ].join('\n');
  return startProcess(
    'unshare',
    [
      ...['--net', '--mount', '--pid', '--fork', '--kill-child=KILL', '--mount-proc'],
      ...['sh', '-c', script, 'sh', folder],
    ],
    { name: `node ${name}`, closing: () => {} },
  );
}

function containerdConfig(options: { cniPrograms: string; cniFolder: string; snapshotter: string }): string {
  const cri = 'plugins."io.containerd.grpc.v1.cri"';
  const text = (value: string): string => JSON.stringify(value);
  return [
    'version = 2',
    // It would make /opt/containerd.
    'disabled_plugins = ["io.containerd.internal.v1.opt"]',
    `[${cri}]`,
    `sandbox_image = ${text(sandboxImage)}`,
    // Sandboxes ask for a score that not every root may give (CAP_SYS_RESOURCE).
    'restrict_oom_score_adj = true',
    'stream_server_address = "127.0.0.1"',
    `[${cri}.containerd]`,
    `snapshotter = ${text(options.snapshotter)}`,
    'default_runtime_name = "runc"',
    `[${cri}.containerd.runtimes.runc]`,
    'runtime_type = "io.containerd.runc.v2"',
    `[${cri}.containerd.runtimes.runc.options]`,
    'SystemdCgroup = false',
    `[${cri}.cni]`,
    `bin_dir = ${text(options.cniPrograms)}`,
    `conf_dir = ${text(options.cniFolder)}`,
    '',
  ].join('\n');
}

function cniConfig(pods: string): string {
  return JSON.stringify({
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      {
        type: 'bridge',
        bridge: 'pods',
        isGateway: true,
        hairpinMode: true,
        ipMasq: false,
        ipam: { type: 'host-local', ranges: [[{ subnet: pods }]], routes: [{ dst: '0.0.0.0/0' }] },
      },
    ],
  });
}

function kubeletConfig(options: {
  address: string;
  caFile: string;
  cgroupRoot: string;
  dns: string;
  resolvConf: string;
}): string {
  return stringify({
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    address: options.address,
    healthzBindAddress: options.address,
    healthzPort: kubeletHealthPort,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: options.caFile },
    },
    authorization: { mode: 'Webhook' },
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
    cgroupDriver: 'cgroupfs',
    cgroupRoot: options.cgroupRoot,
    failCgroupV1: false,
    failSwapOn: false,
    clusterDomain: 'cluster.local',
    clusterDNS: [options.dns],
    resolvConf: options.resolvConf,
    makeIPTablesUtilChains: false,
    volumePluginDir: '/var/lib/kubelet/volume-plugins',
    // Images could not be had a second time.
    imageGCHighThresholdPercent: 100,
    // How full the disk is says nothing about the node.
    evictionHard: {
      'memory.available': '50Mi',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
      'imagefs.inodesFree': '0%',
    },
    nodeStatusUpdateFrequency: '2s',
  });
}

function kubeProxyConfig(options: {
  name: string;
  address: string;
  pods: string;
  kubeconfig: string;
}): string {
  return stringify({
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: 'nftables',
    clusterCIDR: options.pods,
    detectLocalMode: 'ClusterCIDR',
    hostnameOverride: options.name,
    bindAddress: options.address,
    healthzBindAddress: `${options.address}:${kubeProxyHealthPort}`,
    metricsBindAddress: '127.0.0.1:10249',
    // Outside the machine's own network namespace these cannot be set.
    conntrack: { maxPerCore: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
    clientConnection: { kubeconfig: options.kubeconfig },
  });
}
