/** The chart as a user installs it in a cluster with nodes, and takes the next one. */
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { chart } from '../../charts/manifest.ts';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import type { KubernetesWithNodes } from './kubernetes-nodes.ts';
import { requireTool } from './requirement.ts';
import type { S3Server } from './s3.ts';

export const systemNamespace = 'atoll-system';
/** Of Helm, for images that are there and a machine that has other things to do. */
const timeout = '180s';

export interface ReleaseOptions {
  /** A folder or a packed chart; ours by default. */
  readonly chart?: string;
  /** Of the chart, besides image and the gateway's address. */
  readonly values?: Readonly<Record<string, unknown>>;
  /** Where packages come from. */
  readonly s3?: S3Server;
  /** Made before, in `systemNamespace`: what is in them, by name and key. */
  readonly secrets?: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly closing?: Closing | undefined;
}

export interface Release {
  /** `http://address` of the gateway's Service, for the test and for pods. */
  readonly url: string;
  /** `helm upgrade` to this chart; values of before stay, and these are laid over them. Resolves when all of it is ready. */
  upgrade(options?: Pick<ReleaseOptions, 'chart' | 'values'>): Promise<void>;
  /** Pods, events and the last words of ours, for who reads why a test failed. */
  state(): Promise<string>;
}

/** `helm install` into `systemNamespace` with the image of this checkout. Resolves when controller and gateway are ready. */
export async function installRelease(
  kubernetes: KubernetesWithNodes,
  { chart: first = chart, values = {}, s3, secrets = {}, closing }: ReleaseOptions = {},
): Promise<Release> {
  const folder = await temporaryFolder({ closing });
  const ofS3 = s3 && {
    [s3SecretName]: {
      's3.json': JSON.stringify({ accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey }),
    },
  };
  await kubernetes.kubectl(['apply', '-f', '-'], namespaceAndSecrets({ ...secrets, ...ofS3 }));
  const [repository, tag] = kubernetes.image.split(/:(?=[^:/]*$)/);
  const address = await gatewayAddress(kubernetes);
  const own = {
    image: { repository, tag },
    gateway: { service: { clusterIP: address }, packagesUrl: `http://${address}` },
    ...(s3 && { s3: { endpoint: s3.endpoint, bucket: s3.bucket, credentialsSecret: s3SecretName } }),
  };

  async function state(): Promise<string> {
    const parts = [
      ['get', 'pods,events', '-A', '-o', 'wide'],
      [
        'logs',
        '-n',
        systemNamespace,
        '-l',
        'app.kubernetes.io/part-of=atoll',
        '--all-containers',
        '--tail=20',
      ],
    ];
    return (await Promise.all(parts.map((args) => kubernetes.kubectl(args).catch(String)))).join('\n');
  }

  async function helm(verb: 'install' | 'upgrade', what: string, ...given: object[]): Promise<void> {
    const files = given.map((_, index) => join(folder, `${verb}-${index}.json`));
    await Promise.all(given.map((one, index) => writeFile(files[index]!, JSON.stringify(one))));
    const args = [verb, 'atoll', what, '--namespace', systemNamespace, '--wait', '--timeout', timeout];
    args.push(...files.flatMap((file) => ['--values', file]));
    if (verb === 'upgrade') args.push('--reset-then-reuse-values');
    await promisify(execFile)(await requireTool('helm'), args, {
      env: { PATH: process.env['PATH'], HOME: folder, KUBECONFIG: kubernetes.kubeconfigFile },
    }).catch(async (error: unknown) => {
      throw new Error(`${String(error)}\n${await state()}`);
    });
  }

  await helm('install', first, own, values);
  return {
    url: `http://${address}`,
    upgrade: ({ chart: next = chart, values: changed = {} } = {}) => helm('upgrade', next, changed),
    state,
  };
}

/** Known before it is installed: pods of tests have no DNS, so the gateway's Service is told which of the range it gets. */
export async function gatewayAddress(kubernetes: KubernetesWithNodes): Promise<string> {
  const path = 'jsonpath={.spec.clusterIP}';
  const first = await kubernetes.kubectl(['get', 'service', 'kubernetes', '-n', 'default', '-o', path]);
  // In the band that is not given to who asks for no address (the first 16 of a range of this size, at least).
  return first.replace(/\d+$/, '7');
}

const s3SecretName = 'atoll-s3';

function namespaceAndSecrets(secrets: NonNullable<ReleaseOptions['secrets']>): string {
  const items = [
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: systemNamespace } },
    ...Object.entries(secrets).map(([name, stringData]) => ({
      apiVersion: 'v1',
      kind: 'Secret',
      metadata: { name, namespace: systemNamespace },
      stringData,
    })),
  ];
  return JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
}
