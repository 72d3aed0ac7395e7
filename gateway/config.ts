/** GatewayConfig: what the chart hands over and `gateway/main.ts` reads. Secrets are file paths in it. */
import { readFile } from 'node:fs/promises';
import type { NatsSettings, S3Settings } from '../runtime/config.ts';

export interface GatewayConfig {
  readonly site: string;
  /** Without `host`: on every address of the pod. */
  readonly listen: { readonly host?: string; readonly port: number };
  /** Whose Functions are served; absent: all. */
  readonly namespaces?: readonly string[];
  /** Absent: only tokens of the API server open doors. */
  readonly keysFile?: string;
  /** PEM files; absent: plain HTTP. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  readonly allowedOrigins?: readonly string[];
  /** Absent: no asynchronous invokes and no dead letters. */
  readonly nats?: NatsSettings;
  /** Where packages go. Absent: they are not taken, and the pods of functions fetch them by themselves. */
  readonly s3?: S3Settings;
  readonly packages?: {
    /** For what the pods of functions fetch. */
    readonly folder: string;
    readonly maxBytes?: number;
  };
}

export async function readGatewayConfig(path: string): Promise<GatewayConfig> {
  return JSON.parse(await readFile(path, 'utf8')) as GatewayConfig;
}
