/** ControllerConfig: what a cluster's controller is started with. `docs/reference/controller.md` has the table. */
import { readFile } from 'node:fs/promises';
import { Type, type Static, type TSchema } from 'typebox';
import { parse } from 'yaml';
import { check, problemText } from '../crds/check.ts';
import type { TlsFiles } from '../runtime/config.ts';
import { AtollError } from '../runtime/errors.ts';
import type { ClusterSettings } from './backends/manifests.ts';
import type { AccountKeys } from './broker/account-keys.ts';

export const strict = { additionalProperties: false } as const;
export const optional = <S extends TSchema>(schema: S) => Type.Optional(schema);
export const text = (description: string) => Type.String({ minLength: 1, description });
const label = {
  pattern: '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$',
  allowed: 'lowercase letters, digits and "-", at most 63, a letter or digit first and last',
};

/** What a program of a cluster is told of where it is. */
export const siteSchema = Type.String({
  ...label,
  default: 'local',
  description: "The site's name and JetStream domain.",
});
export const kubeconfigSchema = optional(
  text('A kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, else the ServiceAccount of the Pod.'),
);
export const namespacesSchema = optional(
  Type.Array(Type.String(label), {
    minItems: 1,
    uniqueItems: true,
    description: 'Only Functions of these namespaces. Default: of all, which needs a ClusterRole.',
  }),
);
/** Where packages lie, without the way in. */
export const bucketSchema = {
  endpoint: text('http://host:port.'),
  region: Type.String({ default: 'us-east-1', description: 'Region.' }),
  bucket: text('Bucket of the packages.'),
};

/** The controller reads its own credentials from a file; hosts get theirs from a Secret, which it may not read. */
const credentials = {
  credentialsFile: optional(text("File of JSON with the controller's credentials, mode 0600.")),
  credentials: optional(
    Type.Object(
      {
        name: text("Name of a Secret in each function's namespace."),
        key: text('Its key that holds JSON of the same form.'),
      },
      { ...strict, description: "The hosts' credentials." },
    ),
  ),
};

/** Files of one's own end of a connection. */
export const tlsFilesSchema = optional(
  Type.Object(
    {
      ca: optional(text('PEM file of authorities that are trusted. Default: those that Node knows.')),
      certificate: optional(text('PEM file of the certificate to show.')),
      key: optional(text('PEM file of its key, mode 0600.')),
    },
    { ...strict, description: 'TLS; read again at each connection.' },
  ),
);
/** The controller's own end is files; hosts get theirs from a Secret, as with credentials. */
const tls = {
  tls: tlsFilesSchema,
  tlsSecret: optional(
    Type.Object(
      {
        name: text("Name of a Secret in each function's namespace."),
        ca: Type.Boolean({ default: true, description: 'It has ca.crt: the authorities that are trusted.' }),
        client: Type.Boolean({ default: false, description: 'It has tls.crt and tls.key, to be shown.' }),
      },
      { ...strict, description: "The hosts' end of TLS." },
    ),
  ),
};

const hostPort = text('host:port.');

export const ControllerConfigSchema = Type.Object(
  {
    site: siteSchema,
    image: text("Atoll's image, which hosts run: with a tag other than latest, or a digest."),
    kubeconfig: kubeconfigSchema,
    namespaces: namespacesSchema,
    watchSecretsIn: Type.Array(Type.String(label), {
      uniqueItems: true,
      default: [],
      description:
        'Namespaces where a changed Secret or ConfigMap starts the functions anew that take variables from it. The controller reads all Secrets there.',
    }),
    concurrency: Type.Integer({
      minimum: 1,
      maximum: 64,
      default: 8,
      description: 'Functions that are reconciled at a time.',
    }),
    listen: Type.Object(
      {
        host: Type.String({ default: '0.0.0.0', description: 'Address.' }),
        port: Type.Integer({ minimum: 0, maximum: 65535, default: 8701, description: '0: a free one.' }),
      },
      { ...strict, default: {}, description: 'Where /healthz, /readyz and /metrics are served.' },
    ),
    lease: Type.Object(
      {
        namespace: optional(Type.String({ ...label, description: "Default: the Pod's own." })),
        name: Type.String({ ...label, default: 'atoll-controller', description: 'Name of the Lease.' }),
      },
      { ...strict, default: {}, description: 'Of several replicas the one that holds this Lease works.' },
    ),
    nats: optional(
      Type.Object(
        {
          url: text('nats://host:port[,…], without credentials in it.'),
          ...credentials,
          ...tls,
          operatorFile: optional(
            text(
              "Instead of credentials: file of the seed of NATS' operator, mode 0600. Each namespace gets an account, each function a user (docs/reference/accounts.md).",
            ),
          ),
        },
        { ...strict, description: 'NATS of the functions.' },
      ),
    ),
    mqtt: optional(
      Type.Object(
        { url: text('mqtt://host:port, without credentials in it.'), ...credentials, ...tls },
        { ...strict, description: 'MQTT broker of the functions.' },
      ),
    ),
    s3: optional(
      Type.Object(
        {
          ...bucketSchema,
          credentials: credentials.credentials,
        },
        { ...strict, description: 'Where packages lie.' },
      ),
    ),
    packages: optional(
      text('http://host:port of the gateway, which hands packages to pods: they need no key of S3 then.'),
    ),
    callers: Type.Array(
      Type.Object(
        {
          namespace: Type.String(label),
          labels: optional(
            Type.Unsafe<Record<string, string>>({
              type: 'object',
              additionalProperties: { type: 'string' },
              description: 'Absent: every pod of the namespace.',
            }),
          ),
        },
        strict,
      ),
      { default: [], description: 'Pods that may call hosts: gateway, controller, and who reads metrics.' },
    ),
    keda: optional(
      Type.Object(
        {
          natsMonitoring: optional(hostPort),
          natsAccount: optional(text('JetStream account; $G is the one without a name.')),
          prometheus: optional(text('http://host:port, for targetInFlight.')),
        },
        { ...strict, description: 'Set when KEDA is installed: spec.scaling by lag or in-flight.' },
      ),
    ),
  },
  strict,
);

export type ControllerConfig = Static<typeof ControllerConfigSchema>;

/** YAML or JSON. Rejects with AtollError InvalidRequest that names the file, each field, its value and what is allowed. */
export async function readConfig<S extends TSchema>(schema: S, file: string): Promise<Static<S>> {
  let input: unknown;
  try {
    input = parse(await readFile(file, 'utf8'));
  } catch (error) {
    throw new AtollError('InvalidRequest', `${file} cannot be read: ${(error as Error).message}`, {
      cause: error,
    });
  }
  const checked = check(schema, [], input);
  if (checked.ok) return checked.value as Static<S>;
  throw new AtollError('InvalidRequest', `${file}: ${checked.problems.map(problemText).join('; ')}`);
}

/** As `readConfig` does. */
export const readControllerConfig = (file: string): Promise<ControllerConfig> =>
  readConfig(ControllerConfigSchema, file);

/** The part of it that pods are made from: the controller's own credentials are not in it. */
export function settingsOf(
  { site, image, nats, mqtt, s3, packages, callers, keda }: ControllerConfig,
  accounts?: AccountKeys,
): ClusterSettings {
  const forHosts = <T extends { credentialsFile?: string; operatorFile?: string; tls?: TlsFiles }>({
    credentialsFile: _,
    operatorFile: __,
    tls: ___,
    ...others
  }: T) => others;
  return {
    site,
    image,
    callers,
    ...(nats && { nats: forHosts(nats) }),
    ...(accounts && { accounts }),
    ...(mqtt && { mqtt: forHosts(mqtt) }),
    ...(s3 && { s3 }),
    ...(packages !== undefined && { packages }),
    ...(keda && { keda }),
  };
}
