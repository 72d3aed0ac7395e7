/** GatewayConfig: what a cluster's gateway is started with. `docs/reference/gateway.md` has the table. */
import { Type, type Static, type TSchema } from 'typebox';
import { readConfig } from '../controller/config.ts';

const strict = { additionalProperties: false } as const;
const optional = <S extends TSchema>(schema: S) => Type.Optional(schema);
const text = (description: string) => Type.String({ minLength: 1, description });
const label = {
  pattern: '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$',
  allowed: 'lowercase letters, digits and "-", at most 63, a letter or digit first and last',
};

export const GatewayConfigSchema = Type.Object(
  {
    site: Type.String({ ...label, default: 'local', description: "The site's name and JetStream domain." }),
    kubeconfig: optional(
      text('A kubeconfig file. Default: $KUBECONFIG, ~/.kube/config, else the ServiceAccount of the Pod.'),
    ),
    namespaces: optional(
      Type.Array(Type.String(label), {
        minItems: 1,
        uniqueItems: true,
        description: 'Only Functions of these namespaces. Default: of all, which needs a ClusterRole.',
      }),
    ),
    listen: Type.Object(
      {
        host: Type.String({ default: '0.0.0.0', description: 'Address.' }),
        port: Type.Integer({ minimum: 0, maximum: 65535, default: 8700, description: '0: a free one.' }),
      },
      { ...strict, default: {}, description: 'Where it listens.' },
    ),
    tls: optional(
      Type.Object(
        { certFile: text('PEM file of the certificate.'), keyFile: text('PEM file of its key.') },
        { ...strict, description: 'Absent: plain HTTP.' },
      ),
    ),
    keysFile: optional(text('Keys besides the tokens of the API server (docs/reference/doors.md).')),
    allowedOrigins: optional(
      Type.Array(Type.String(), { description: 'scheme://host:port of pages that may call.' }),
    ),
    nats: optional(
      Type.Object(
        {
          url: text('nats://host:port[,…], without credentials in it.'),
          credentialsFile: optional(text('File of JSON with its credentials, mode 0600.')),
        },
        { ...strict, description: 'For asynchronous invokes and dead letters.' },
      ),
    ),
    s3: optional(
      Type.Object(
        {
          endpoint: text('http://host:port.'),
          region: Type.String({ default: 'us-east-1', description: 'Region.' }),
          bucket: text('Bucket of the packages.'),
          credentialsFile: optional(text('File of JSON with its credentials, mode 0600.')),
        },
        { ...strict, description: 'Where packages lie; absent: it neither takes nor gives any.' },
      ),
    ),
    packages: Type.Object(
      {
        cache: Type.String({ default: '/var/cache/atoll', description: 'Folder of packages on this disk.' }),
      },
      { ...strict, default: {}, description: 'What is kept while S3 is away.' },
    ),
  },
  strict,
);

export type GatewayConfig = Static<typeof GatewayConfigSchema>;

/** YAML or JSON. Rejects with AtollError InvalidRequest that names the file, each field, its value and what is allowed. */
export const readGatewayConfig = (file: string): Promise<GatewayConfig> =>
  readConfig(GatewayConfigSchema, file);
