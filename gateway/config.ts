/** GatewayConfig: what a cluster's gateway is started with. `docs/reference/gateway.md` has the table. */
import { Type, type Static } from 'typebox';
import {
  bucketSchema,
  kubeconfigSchema,
  namespacesSchema,
  optional,
  readConfig,
  siteSchema,
  strict,
  text,
  tlsFilesSchema,
} from '../controller/config.ts';

export const GatewayConfigSchema = Type.Object(
  {
    site: siteSchema,
    kubeconfig: kubeconfigSchema,
    namespaces: namespacesSchema,
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
          tls: tlsFilesSchema,
          accountsFile: optional(
            text(
              'Instead of it: file of the seed of the accounts of namespaces, mode 0600 (docs/reference/accounts.md).',
            ),
          ),
        },
        { ...strict, description: 'For asynchronous invokes and dead letters.' },
      ),
    ),
    s3: optional(
      Type.Object(
        {
          ...bucketSchema,
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
