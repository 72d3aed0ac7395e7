/**
 * A workload as Kubernetes objects. Pure: the same workload and settings give the same objects, and nothing of them is
 * asked of a cluster. docs/reference/cluster.md says what they are for.
 */
import { createHash } from 'node:crypto';
import type { EnvVarSpec, FunctionSpec } from '../../crds/function.ts';
import { apiVersion, kind } from '../../crds/function.ts';
import { memoryBytes, sourceOf } from '../../crds/values.ts';
import {
  packageAudience,
  stopMs,
  type FunctionConfig,
  type MqttSettings,
  type NatsSettings,
  type PackageConfig,
  type RuntimeConfig,
  type S3Settings,
  type TlsFiles,
  type VariableSource,
} from '../../runtime/config.ts';
import { inboxPrefix, permissionsOf } from '../../runtime/account.ts';
import { inboxConsumer, inboxStream, triggerConsumer } from '../../runtime/names.ts';
import { maxPackedBytes, maxUnpackedBytes } from '../../runtime/package/format.ts';
import type { AccountKeys } from '../broker/account-keys.ts';
import type { Key } from '../stores/store.ts';
import type { Workload } from './backend.ts';

/** A key of a Secret that lies in the function's own namespace. */
export interface SecretKey {
  readonly name: string;
  readonly key: string;
}

/** A Secret in the function's own namespace, as kubernetes.io/tls has it. */
export interface TlsSecret {
  readonly name: string;
  /** It has ca.crt. */
  readonly ca: boolean;
  /** It has tls.crt and tls.key. */
  readonly client: boolean;
}

/** How hosts reach a broker. */
type BrokerSettings<S> = Omit<S, 'credentialsFile' | 'tls'> & {
  readonly credentials?: SecretKey;
  readonly tlsSecret?: TlsSecret;
};

export interface ClusterSettings {
  /** Atoll's own image, by which controller, gateway and hosts run. With a tag other than latest, or a digest. */
  readonly image: string;
  readonly site: string;
  /** Secrets hold the JSON that the file of `credentialsFile` would. */
  readonly nats?: BrokerSettings<NatsSettings>;
  /** Each function gets a user of its own in its namespace's account, in a Secret beside its ConfigMap. */
  readonly accounts?: AccountKeys;
  readonly mqtt?: BrokerSettings<MqttSettings>;
  readonly s3?: Omit<S3Settings, 'credentialsFile'> & { readonly credentials?: SecretKey };
  /**
   * `http://host:port` of the gateway, which hands packages to the pods that run them: no key of S3 is needed in the
   * function's namespace, and S3 may be away when a pod starts.
   */
  readonly packages?: string;
  /** Pods that may call hosts: gateway, controller, and who reads metrics. Nobody else is let in. */
  readonly callers: readonly Caller[];
  /** Absent: its CustomResourceDefinitions are not there, and spec.scaling by lag or in-flight is not acted on. */
  readonly keda?: KedaSettings;
}

export interface Caller {
  readonly namespace: string;
  /** Absent: every pod of the namespace. */
  readonly labels?: Readonly<Record<string, string>>;
}

export interface KedaSettings {
  /** `host:port` of NATS' monitoring endpoint, for targetLag. */
  readonly natsMonitoring?: string;
  /** JetStream account; `$G` is the one without a name. */
  readonly natsAccount?: string;
  /** `http://host:port` of Prometheus, for targetInFlight. */
  readonly prometheus?: string;
}

/** One object, as it is applied: the fields we own and no others. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly ownerReferences: readonly object[];
  };
  readonly [field: string]: unknown;
}

export interface Manifests {
  /** In the order in which they are applied: what a pod needs comes before it. */
  readonly objects: readonly Manifest[];
  /** Name of the ConfigMap: pods that carry it in `configAnnotation` run what the workload says. */
  readonly config: string;
  /** Of the host's container, as a quantity. */
  readonly memoryLimit: string;
  /** Parts of the spec that are not acted on, and why. */
  readonly ignored: readonly string[];
}

export const managedByLabel = 'app.kubernetes.io/managed-by';
export const manager = 'atoll';
export const functionLabel = 'atoll.dev/function';
/** On pods: which ConfigMap they run. */
export const configAnnotation = 'atoll.dev/config';
/** On pods: a digest of the values in Secrets and ConfigMaps, where those are watched. */
export const referencesAnnotation = 'atoll.dev/references';
/** On ConfigMaps: the last generation that wanted it. */
export const generationAnnotation = 'atoll.dev/generation';

/** Of the host, in its pod. */
export const port = 8080;
export const hostContainer = 'host';
export const packageContainer = 'package';

/** Children of ours carry it, and what selects them for a watch. */
export const childSelector = `${managedByLabel}=${manager},${functionLabel}`;
/** What `status.selector` says, for /scale. */
export const podSelector = (name: string): string => `${managedByLabel}=${manager},${functionLabel}=${name}`;
export const childName = (name: string): string => `fn-${name}`;

const MiB = 1024 ** 2;
/** A process may exceed spec.memory by a quarter before it is killed (docs/decisions/0008). */
const memoryHeadroom = 1.25;
/** The host itself under load, and the successor of a process while that still ends (docs/reference/cluster.md). */
export const hostMemoryMiB = 256;
/** The host when nothing happens. */
const idleHostMemoryMiB = 80;
const cpuOfProcess = 100;

/** Lambda's /tmp, and what Node keeps there of compiled code. */
const temporaryMiB = 512 + 256;
const cacheMiB = Math.ceil((maxPackedBytes + maxUnpackedBytes) / MiB) + 12;

/** Until every node and the gateway have heard that a pod takes nothing new any more. */
const goodbyeSeconds = 5;
const stopMarginSeconds = 5;

/** UID and GID of the image (images/contents.ts). */
const user = 65532;
const mounts = { config: '/etc/atoll', packages: '/var/cache/atoll', temporary: '/tmp' } as const;
/** The least that the API server gives; kubelet renews it. */
const tokenSeconds = 600;
/** No volume of a function begins with it (crds/rules.ts). */
const ownVolumePrefix = 'atoll-';

/**
 * `workload.spec.package` must be there: without one there is nothing to run. Another digest of what its variables refer
 * to means other pods.
 */
export function manifestsOf(workload: Workload, settings: ClusterSettings, references?: string): Manifests {
  const { key, spec } = workload;
  const object = (apiVersion: string, kind: string, fields: object, metadata: object = {}): Manifest => ({
    apiVersion,
    kind,
    metadata: { ...metadataOf(workload), ...metadata },
    ...fields,
  });
  const scaling = scalingOf(workload, settings);
  const config = configMapOf(workload, settings);
  const selector = { matchLabels: selectorLabels(key.name) };
  const template = podTemplate(workload, settings, { config: config.name, references });
  const everyNode = spec.placement?.everyNode === true;
  const leastReplicas = spec.scaling ? spec.scaling.minReplicas : spec.replicas;

  const objects = [
    object('v1', 'ServiceAccount', { automountServiceAccountToken: false }),
    ...(config.secret === undefined
      ? []
      : [
          object(
            'v1',
            'Secret',
            { type: 'Opaque', immutable: true, stringData: config.secret },
            { name: config.name },
          ),
        ]),
    object(
      'v1',
      'ConfigMap',
      { data: config.data, immutable: true },
      { name: config.name, annotations: { [generationAnnotation]: String(workload.generation) } },
    ),
    object('networking.k8s.io/v1', 'NetworkPolicy', {
      spec: {
        podSelector: selector,
        policyTypes: ['Ingress'],
        ingress: [ingressFrom(settings.callers)],
      },
    }),
    object('v1', 'Service', {
      spec: {
        selector: selectorLabels(key.name),
        ports: [{ name: 'http', port, targetPort: 'http', protocol: 'TCP', appProtocol: 'http' }],
      },
    }),
    everyNode
      ? object('apps/v1', 'DaemonSet', {
          spec: {
            selector,
            template,
            revisionHistoryLimit,
            updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
          },
        })
      : object('apps/v1', 'Deployment', {
          spec: {
            ...(!spec.scaling && { replicas: spec.replicas }),
            selector,
            template,
            revisionHistoryLimit,
            // A version that does not become ready leaves the old one answering.
            strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: '25%', maxUnavailable: 0 } },
          },
        }),
  ];
  if (!everyNode && leastReplicas > 1) {
    objects.push(
      object('policy/v1', 'PodDisruptionBudget', {
        spec: { selector, maxUnavailable: 1, unhealthyPodEvictionPolicy: 'AlwaysAllow' },
      }),
    );
  }
  if (scaling.spec) objects.push(object(scaling.apiVersion, scaling.kind, { spec: scaling.spec }));
  const memoryLimit = String(resourcesOf(spec).limits['memory']);
  return { objects, config: config.name, memoryLimit, ignored: scaling.ignored };
}

/** ReplicaSets kept beside the current one: the one that answers while a new one does not become ready. */
const revisionHistoryLimit = 2;

function metadataOf({ key, uid }: Workload): Manifest['metadata'] {
  return {
    name: childName(key.name),
    namespace: key.namespace,
    labels: labelsOf(key.name),
    ownerReferences: [{ apiVersion, kind, name: key.name, uid, controller: true, blockOwnerDeletion: false }],
  };
}

const selectorLabels = (name: string): Record<string, string> => ({
  [managedByLabel]: manager,
  [functionLabel]: name,
});

const labelsOf = (name: string): Record<string, string> => ({
  'app.kubernetes.io/name': name,
  'app.kubernetes.io/component': 'function',
  'app.kubernetes.io/part-of': 'atoll',
  ...selectorLabels(name),
});

/**
 * Without callers a rule that lets nobody in: a list without rules is stored as none, and each time it is applied it
 * would be a change, with a new generation.
 */
function ingressFrom(callers: readonly Caller[]): object {
  const from = callers.map(({ namespace, labels }) => ({
    namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } },
    ...(labels && { podSelector: { matchLabels: labels } }),
  }));
  return {
    from: from.length > 0 ? from : [nobody],
    ports: [{ port: 'http', protocol: 'TCP' }],
  };
}

const nobody = {
  podSelector: {
    matchExpressions: ['Exists', 'DoesNotExist'].map((operator) => ({ key: functionLabel, operator })),
  },
};

// What host and package container read

const natsFile = 'nats.json';

/**
 * Named by its content and immutable: a pod that is restarted, or that an old ReplicaSet makes again, gets what its
 * siblings run, whatever the function has become since.
 */
function configMapOf(
  { key, uid, spec }: Workload,
  { site, nats, accounts, mqtt, s3, packages }: ClusterSettings,
): { name: string; data: Record<string, string>; secret?: Record<string, string> } {
  const settingsOf = <S extends { credentials?: SecretKey; tlsSecret?: TlsSecret }>(
    { credentials, tlsSecret, ...rest }: S,
    file: string,
  ): Omit<S, 'credentials' | 'tlsSecret'> & { credentialsFile?: string; tls?: TlsFiles } => ({
    ...rest,
    ...(credentials && { credentialsFile: `${mounts.config}/${file}` }),
    ...(tlsSecret && {
      tls: Object.fromEntries(
        tlsItems(tlsSecret).map(({ file: what, key }) => [
          what,
          `${mounts.config}/${tlsFolder(file)}/${key}`,
        ]),
      ),
    }),
  });
  const user = nats && accounts?.functionUser(key, uid, permissionsOf(site, key, spec));
  const host: RuntimeConfig = {
    site,
    listen: { port },
    goodbyeMs: goodbyeSeconds * 1000,
    ...(nats && {
      nats: {
        ...settingsOf(nats, natsFile),
        ...(user && {
          credentialsFile: `${mounts.config}/${natsFile}`,
          inboxPrefix: inboxPrefix(site, key),
        }),
      },
    }),
    ...(mqtt && { mqtt: settingsOf(mqtt, 'mqtt.json') }),
    // The user of its account may do what spec.permissions names and nothing more: so it is told by us, and why.
    ...(user && { permissions: 'required' as const }),
    packages: { cache: mounts.packages },
    functions: [functionConfig(key, uid, spec)],
  };
  const fetch: PackageConfig = {
    package: spec.package ?? {},
    handler: spec.handler,
    cache: mounts.packages,
    ...(s3 && { s3: settingsOf(s3, 's3.json') }),
    ...(packages !== undefined && { relay: { url: packages, tokenFile: `${mounts.config}/token` } }),
  };
  const data = {
    'host.json': JSON.stringify(host),
    'package.json': JSON.stringify(fetch),
    // Public: another user means another Secret.
    ...(user && { 'nats.user': user.user }),
  };
  const digest = createHash('sha256').update(JSON.stringify(data)).digest('hex');
  return {
    name: `${childName(key.name)}-${digest.slice(0, 10)}`,
    data,
    ...(user && { secret: { [natsFile]: JSON.stringify({ creds: user.creds }) } }),
  };
}

/** Nothing that a host does not act on: a change of replicas alone replaces no pod. The backend knows the generation. */
function functionConfig(key: Key, uid: string, spec: FunctionSpec): FunctionConfig {
  const { scaling: _scaling, placement: _placement, pod: _pod, ...acted } = spec;
  return { ...key, uid, generation: 0, spec: { ...acted, replicas: 1 }, env: spec.env.map(variableSource) };
}

/** Secrets are files (never environment of the host); what a pod knows of itself only comes as environment. */
function variableSource({ name, value, valueFrom }: EnvVarSpec): VariableSource {
  const ref = valueFrom?.secretKeyRef ?? valueFrom?.configMapKeyRef;
  if (ref) return { name, file: `${mounts.config}/env/${name}`, ...(ref.optional && { optional: true }) };
  if (valueFrom?.fieldRef) return { name, variable: fieldVariable(name) };
  return { name, value: value ?? '' };
}

/** Under its own name it would act on the host: NODE_OPTIONS. */
const fieldVariable = (name: string): string => `ATOLL_FIELD_${name}`;

// The pod

function podTemplate(
  { key, spec }: Workload,
  settings: ClusterSettings,
  { config, references }: { config: string; references: string | undefined },
): object {
  const { pod = {}, placement = {} } = spec;
  const resources = resourcesOf(spec);
  const container = {
    image: settings.image,
    imagePullPolicy: 'IfNotPresent',
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
    },
    terminationMessagePolicy: 'FallbackToLogsOnError',
    resources,
  };
  const mount = (name: string, mountPath: string, readOnly?: boolean): object => ({
    name: `${ownVolumePrefix}${name}`,
    mountPath,
    ...(readOnly && { readOnly }),
  });
  const probe = (path: string, times: object): object => ({ httpGet: { path, port: 'http' }, ...times });
  const stopSeconds = Math.ceil(stopMs(spec.timeoutSeconds) / 1000);
  return {
    metadata: {
      labels: { ...pod.labels, ...labelsOf(key.name) },
      annotations: {
        'prometheus.io/scrape': 'true',
        'prometheus.io/port': String(port),
        'prometheus.io/path': '/metrics',
        ...pod.annotations,
        'kubectl.kubernetes.io/default-container': hostContainer,
        [configAnnotation]: config,
        ...(references !== undefined && { [referencesAnnotation]: references }),
      },
    },
    spec: {
      serviceAccountName: childName(key.name),
      automountServiceAccountToken: false,
      // A namespace with many Services would fill the environment of each process.
      enableServiceLinks: false,
      // Somebody has to reap what a handler's own children leave behind.
      shareProcessNamespace: true,
      terminationGracePeriodSeconds: goodbyeSeconds + stopSeconds + stopMarginSeconds,
      securityContext: {
        runAsNonRoot: true,
        runAsUser: user,
        runAsGroup: user,
        // By which files of Secrets, which are root's, can be read.
        fsGroup: user,
        fsGroupChangePolicy: 'OnRootMismatch',
        seccompProfile: { type: 'RuntimeDefault' },
      },
      initContainers: [
        {
          ...container,
          name: packageContainer,
          command: ['node', 'runtime/package/main.js', `${mounts.config}/package.json`],
          volumeMounts: [
            mount('fetch', mounts.config, true),
            mount('packages', mounts.packages),
            mount('temporary', mounts.temporary),
          ],
        },
      ],
      containers: [
        {
          ...container,
          name: hostContainer,
          command: ['node', 'runtime/main.js', `${mounts.config}/host.json`],
          env: fieldEnvironment(spec.env),
          ports: [{ name: 'http', containerPort: port, protocol: 'TCP' }],
          volumeMounts: [
            mount('config', mounts.config, true),
            mount('packages', mounts.packages),
            mount('temporary', mounts.temporary),
            ...(pod.volumeMounts ?? []),
          ],
          startupProbe: probe('/healthz', { periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 60 }),
          readinessProbe: probe('/readyz', { periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2 }),
          livenessProbe: probe('/healthz', { periodSeconds: 10, timeoutSeconds: 10, failureThreshold: 6 }),
        },
      ],
      volumes: [
        { name: `${ownVolumePrefix}config`, projected: hostFiles(spec, settings, config) },
        { name: `${ownVolumePrefix}fetch`, projected: packageFiles(settings, config) },
        { name: `${ownVolumePrefix}packages`, emptyDir: { sizeLimit: `${cacheMiB}Mi` } },
        { name: `${ownVolumePrefix}temporary`, emptyDir: { sizeLimit: `${temporaryMiB}Mi` } },
        ...(pod.volumes ?? []),
      ],
      ...(pod.imagePullSecrets && { imagePullSecrets: pod.imagePullSecrets }),
      ...(placement.nodeSelector && { nodeSelector: placement.nodeSelector }),
      ...(placement.tolerations && { tolerations: placement.tolerations }),
      ...(placement.affinity && { affinity: placement.affinity }),
      ...(!placement.everyNode && {
        topologySpreadConstraints: [
          {
            maxSkew: 1,
            topologyKey: 'kubernetes.io/hostname',
            whenUnsatisfiable: 'ScheduleAnyway',
            labelSelector: { matchLabels: selectorLabels(key.name) },
            matchLabelKeys: ['pod-template-hash'],
          },
        ],
      }),
    },
  };
}

/** spec.pod.resources takes the place of ours, resource by resource. */
function resourcesOf(spec: FunctionSpec): {
  requests: Record<string, number | string>;
  limits: Record<string, number | string>;
} {
  const { limits = {}, requests = {} } = spec.pod?.resources ?? {};
  const perProcess = memoryBytes(spec.memory) / MiB;
  const processes = spec.processes + spec.spareProcesses;
  // Who sets a limit and no request means the request to be the same, as Kubernetes does.
  const own = (name: string, amount: string): object =>
    limits[name] === undefined ? { [name]: amount } : {};
  return {
    requests: {
      ...own('cpu', `${cpuOfProcess * spec.processes}m`),
      ...own('memory', `${Math.ceil(spec.processes * perProcess) + idleHostMemoryMiB}Mi`),
      ...requests,
    },
    limits: {
      memory: `${Math.ceil(processes * perProcess * memoryHeadroom) + hostMemoryMiB}Mi`,
      ...limits,
    },
  };
}

function fieldEnvironment(env: FunctionSpec['env']): object[] {
  return env.flatMap(({ name, valueFrom }) =>
    valueFrom?.fieldRef ? [{ name: fieldVariable(name), valueFrom: { fieldRef: valueFrom.fieldRef } }] : [],
  );
}

/** All but the config optional: the host tells which key is missing, where a pod would only hang. */
function hostFiles(spec: FunctionSpec, settings: ClusterSettings, config: string): object {
  const { nats, accounts, mqtt } = settings;
  const ofFunction = spec.env.flatMap(({ name, valueFrom = {} }) => {
    const { secretKeyRef, configMapKeyRef } = valueFrom;
    const ref = secretKeyRef ?? configMapKeyRef;
    if (!ref) return [];
    const source = { name: ref.name, items: [{ key: ref.key, path: `env/${name}` }], optional: true };
    return [secretKeyRef ? { secret: source } : { configMap: source }];
  });
  return {
    defaultMode: 0o440,
    sources: [
      { configMap: { name: config, items: [{ key: 'host.json', path: 'host.json' }] } },
      ...credentialFile(accounts ? { name: config, key: natsFile } : nats?.credentials, natsFile),
      ...credentialFile(mqtt?.credentials, 'mqtt.json'),
      ...tlsSource(nats?.tlsSecret, natsFile),
      ...tlsSource(mqtt?.tlsSecret, 'mqtt.json'),
      ...ofFunction,
    ],
  };
}

function packageFiles({ s3, packages }: ClusterSettings, config: string): object {
  const token = { audience: packageAudience, expirationSeconds: tokenSeconds, path: 'token' };
  return {
    defaultMode: 0o440,
    sources: [
      { configMap: { name: config, items: [{ key: 'package.json', path: 'package.json' }] } },
      ...credentialFile(s3?.credentials, 's3.json'),
      ...(packages === undefined ? [] : [{ serviceAccountToken: token }]),
    ],
  };
}

function credentialFile(secret: SecretKey | undefined, path: string): object[] {
  if (!secret) return [];
  return [{ secret: { name: secret.name, items: [{ key: secret.key, path }], optional: true } }];
}

const tlsItems = ({ ca, client }: TlsSecret): { file: keyof TlsFiles; key: string }[] => [
  ...(ca ? [{ file: 'ca', key: 'ca.crt' } as const] : []),
  ...(client
    ? ([
        { file: 'certificate', key: 'tls.crt' },
        { file: 'key', key: 'tls.key' },
      ] as const)
    : []),
];

/** nats.json → nats-tls */
const tlsFolder = (file: string): string => file.replace('.json', '-tls');

/** Renewed in place by kubelet, and read at the next connection. */
function tlsSource(secret: TlsSecret | undefined, file: string): object[] {
  if (!secret) return [];
  const items = tlsItems(secret).map(({ key }) => ({ key, path: `${tlsFolder(file)}/${key}` }));
  return [{ secret: { name: secret.name, items, optional: true } }];
}

// Scaling

interface Scaling {
  readonly apiVersion: string;
  readonly kind: string;
  readonly spec?: object;
  readonly ignored: readonly string[];
}

function scalingOf({ key, spec }: Workload, { keda, accounts }: ClusterSettings): Scaling {
  const none = (...ignored: string[]): Scaling => ({ apiVersion: '', kind: '', ignored });
  const { scaling } = spec;
  if (!scaling) return none();
  if (spec.placement?.everyNode) return none('scaling (placement.everyNode decides)');
  const { minReplicas, maxReplicas, targetCPUPercent, targetInFlight, targetLag } = scaling;
  const target = { apiVersion: 'apps/v1', kind: 'Deployment', name: childName(key.name) };
  if (targetCPUPercent !== undefined) {
    const metric = { name: 'cpu', target: { type: 'Utilization', averageUtilization: targetCPUPercent } };
    return {
      apiVersion: 'autoscaling/v2',
      kind: 'HorizontalPodAutoscaler',
      spec: {
        scaleTargetRef: target,
        minReplicas: Math.max(1, minReplicas),
        maxReplicas,
        metrics: [{ type: 'Resource', resource: metric }],
      },
      ignored: minReplicas === 0 ? ['scaling.minReplicas 0 (by CPU at least 1 has to run)'] : [],
    };
  }
  const what = targetLag === undefined ? 'scaling.targetInFlight' : 'scaling.targetLag';
  if (!keda) return none(`${what} (KEDA is not installed)`);
  // It asks the server by the account's key and looks for that among the names, which are those of namespaces.
  if (accounts && targetLag !== undefined) {
    return none(`${what} (KEDA cannot see into NATS accounts of namespaces; targetInFlight needs none)`);
  }
  const triggers =
    targetLag === undefined
      ? inFlightTriggers(key, keda, targetInFlight ?? 1)
      : lagTriggers(key, spec, keda, targetLag);
  if (triggers === undefined) {
    return none(
      `${what} (the controller is not told where ${targetLag === undefined ? 'Prometheus' : "NATS' monitoring"} is)`,
    );
  }
  return {
    apiVersion: 'keda.sh/v1alpha1',
    kind: 'ScaledObject',
    spec: {
      scaleTargetRef: target,
      minReplicaCount: minReplicas,
      maxReplicaCount: maxReplicas,
      pollingInterval: 5,
      triggers,
    },
    ignored: [],
  };
}

/** Each stream the function pulls from; what comes by the other triggers waits in the inbox. */
function lagTriggers(key: Key, spec: FunctionSpec, keda: KedaSettings, target: number): object[] | undefined {
  if (keda.natsMonitoring === undefined) return undefined;
  const consumers = spec.triggers.flatMap((trigger) => {
    const { kind, source } = sourceOf(trigger);
    return kind === 'jetstream'
      ? [{ stream: source.stream, consumer: triggerConsumer(key, trigger.name) }]
      : [];
  });
  return [...consumers, { stream: inboxStream, consumer: inboxConsumer(key) }].map((consumer) => ({
    type: 'nats-jetstream',
    metadata: {
      natsServerMonitoringEndpoint: keda.natsMonitoring,
      account: keda.natsAccount ?? '$G',
      ...consumer,
      lagThreshold: String(target),
    },
  }));
}

function inFlightTriggers(
  { namespace, name }: Key,
  { prometheus }: KedaSettings,
  target: number,
): object[] | undefined {
  if (prometheus === undefined) return undefined;
  const query = `sum(atoll_invocations_in_flight{namespace="${namespace}",function="${name}"})`;
  return [{ type: 'prometheus', metadata: { serverAddress: prometheus, query, threshold: String(target) } }];
}
