/** RuntimeConfig: what a backend hands over and `runtime/main.ts` reads. Both ends of one contract in one file. */
import { readFile } from 'node:fs/promises';
import type { FunctionSpec, PackageSpec } from '../crds/function.ts';

/** Lambda's limit for a synchronous payload; also for the body of an http trigger's request. */
export const maxPayloadBytes = 6 * 1024 * 1024;

/** What a drained version may take beyond the function's timeout before it is killed. */
export const drainGraceMs = 5_000;

/** From the signal to the end of a host: what runs ends, then open connections. A backend that stops it waits longer. */
export const stopMs = (timeoutSeconds: number): number => timeoutSeconds * 1000 + 2 * drainGraceMs;

export interface RuntimeConfig {
  readonly site: string;
  /**
   * Where the host's own HTTP server listens: health, metrics, status, invoke and http triggers. Without `host`:
   * on every address there is, as in a pod, whose address is not known beforehand.
   */
  readonly listen: { readonly path: string } | { readonly host?: string; readonly port: number };
  readonly nats?: NatsSettings;
  readonly mqtt?: MqttSettings;
  readonly s3?: S3Settings;
  /** `required`: what spec.permissions does not name is refused to handlers, also where a function has none. */
  readonly permissions?: 'required';
  readonly ros?: RosSettings;
  /**
   * ms from the signal until the host no longer answers over HTTP, for callers that do not know yet that it ends. No
   * trigger takes an event meanwhile. Absent: 0.
   */
  readonly goodbyeMs?: number;
  readonly packages: {
    /** Unpacked packages by digest. */
    readonly cache: string;
  };
  /** Root of what `file://` packages may name; absent: file:// is refused. */
  readonly packageFolder?: string;
  readonly functions: readonly FunctionConfig[];
}

export interface NatsSettings {
  /** nats://host:port[,…]; never with credentials in it. */
  readonly url: string;
  /** File of JSON { user, pass } or { token } or { creds }, mode 0600. */
  readonly credentialsFile?: string;
  /** Instead of it: a file of a user's JWT and seed, as nsc writes it, mode 0600. */
  readonly credsFile?: string;
  /** Of the subjects that answers come to. Default: `_INBOX.<site>`, where others of the site may listen too. */
  readonly inboxPrefix?: string;
  readonly tls?: TlsFiles;
}

/** PEM files. Without `ca` the authorities that Node knows count; certificate and key go together. */
export interface TlsFiles {
  readonly ca?: string;
  readonly certificate?: string;
  /** Mode 0600. */
  readonly key?: string;
}

export interface MqttSettings {
  readonly url: string;
  /** File of JSON { username, password }, mode 0600. */
  readonly credentialsFile?: string;
  readonly tls?: TlsFiles;
}

/** Where the ROS process of the machine listens, or why there is none. */
export type RosSettings = { readonly socket: string } | { readonly missing: string };

/** What `runtime/ros/main.ts` reads. ROS itself comes from the environment of the process. */
export interface RosProcessConfig {
  readonly site: string;
  /** Path of the unix socket that it makes. */
  readonly socket: string;
  /** Of the node, and of names without a slash first: `/robot1`. Default: `/`. */
  readonly namespace?: string;
}

export interface S3Settings {
  readonly endpoint: string;
  readonly region: string;
  readonly bucket: string;
  /** File of JSON { accessKeyId, secretAccessKey, sessionToken? }, mode 0600. */
  readonly credentialsFile?: string;
}

export interface FunctionConfig {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  readonly generation: number;
  readonly spec: FunctionSpec;
  /** spec.env resolved by the backend. */
  readonly env: readonly VariableSource[];
}

/** A plain value, the file a secret lies in, or a variable of the host's own environment that tells about its pod. */
export type VariableSource =
  | { readonly name: string; readonly value: string }
  | {
      readonly name: string;
      readonly file: string;
      /** True: without the file the variable is not set, instead of nothing starting. */
      readonly optional?: boolean;
      /** Another one when the file may hold something else: then new processes read it. */
      readonly stamp?: string;
    }
  | { readonly name: string; readonly variable: string };

/** What `runtime/package/main.ts` puts into the cache before a host starts that has no access to any store. */
export interface PackageConfig {
  readonly package: PackageSpec;
  readonly handler: string;
  readonly cache: string;
  readonly s3?: S3Settings;
  readonly relay?: PackageRelay;
}

/** Who keeps packages nearer than S3 and may read it for others: a cluster's gateway. */
export interface PackageRelay {
  /** `http://host:port`; a package is at /packages/<sha256>. */
  readonly url: string;
  /** A Kubernetes token for `packageAudience`. */
  readonly tokenFile: string;
}

/** Of the tokens that the pods of functions get for their packages, and that are good for nothing else. */
export const packageAudience = 'packages.atoll.dev';

/** What the host tells about one function: GET /status, and one line each at a change with ?watch=true. */
export interface HostFunctionStatus {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Generation of the config this speaks of. */
  readonly generation: number;
  /** Digest of the package that answers now; absent while none does. */
  readonly packageSha256?: string;
  /** The generation's package was fetched, verified and unpacked. */
  readonly package: { readonly ready: boolean; readonly reason: string; readonly message: string };
  /** The generation's handler processes are ready. While false an older package may still answer. */
  readonly handler: { readonly ready: boolean; readonly reason: string; readonly message: string };
  readonly triggers: readonly {
    readonly name: string;
    readonly ready: boolean;
    readonly reason: string;
    readonly message: string;
  }[];
}

export type HostStatusLine =
  { function: HostFunctionStatus } | { removed: { namespace: string; name: string } };

export async function readRuntimeConfig(path: string): Promise<RuntimeConfig> {
  return JSON.parse(await readFile(path, 'utf8')) as RuntimeConfig;
}
