/** Credentials from a program that a kubeconfig names: `aws eks get-token`, `kubelogin`, a script of the site. */
import { spawn } from 'node:child_process';
import { AtollError } from '../../runtime/errors.ts';
import type { ClusterEntry, ExecEntry } from './kubeconfig.ts';

export interface ExecCredential {
  readonly token?: string;
  /** PEM */
  readonly certificate?: string;
  readonly key?: string;
  /** ms since the epoch; undefined: until the server refuses it. */
  readonly expiresAtMs?: number;
}

const versions = ['client.authentication.k8s.io/v1', 'client.authentication.k8s.io/v1beta1'];
/** It may ask a person to log in. */
const patienceMs = 5 * 60_000;
const answerBytes = 1024 * 1024;

/** Rejects with AtollError ClusterUnavailable. */
export async function runExecPlugin(exec: ExecEntry, cluster: ClusterEntry): Promise<ExecCredential> {
  const { apiVersion, command, args, env, interactiveMode = 'IfAvailable', installHint } = exec;
  if (!versions.includes(apiVersion)) {
    throw failed(command, `its apiVersion "${apiVersion}" is not one of ${versions.join(', ')}`);
  }
  const terminal = process.stdin.isTTY === true;
  if (interactiveMode === 'Always' && !terminal) {
    throw failed(command, 'it wants to ask a person (interactiveMode: Always), and there is no terminal');
  }
  const interactive = interactiveMode !== 'Never' && terminal;
  const info = {
    apiVersion,
    kind: 'ExecCredential',
    spec: { interactive, ...(exec.provideClusterInfo === true && { cluster: infoOf(cluster) }) },
  };
  const { output, problem } = await new Promise<{ output: string; problem?: string }>((resolve) => {
    const child = spawn(command, args ?? [], {
      // What it says to a person goes to the person.
      stdio: [interactive ? 'inherit' : 'ignore', 'pipe', 'inherit'],
      timeout: patienceMs,
      env: {
        ...process.env,
        ...Object.fromEntries((env ?? []).map(({ name, value }) => [name, value])),
        KUBERNETES_EXEC_INFO: JSON.stringify(info),
      },
    });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (output.length > answerBytes) child.kill('SIGKILL');
    });
    child.once('error', ({ message }) =>
      resolve({ output: '', problem: installHint === undefined ? message : `${message}\n${installHint}` }),
    );
    child.once('close', (code, signal) =>
      resolve(code === 0 ? { output } : { output, problem: `it ended with ${signal ?? code}` }),
    );
  });
  if (problem !== undefined) throw failed(command, problem);
  return read(command, apiVersion, output);
}

function read(command: string, apiVersion: string, output: string): ExecCredential {
  interface Answer {
    readonly apiVersion?: string;
    readonly status?: {
      readonly token?: string;
      readonly clientCertificateData?: string;
      readonly clientKeyData?: string;
      readonly expirationTimestamp?: string;
    };
  }
  let answer: Answer | null;
  try {
    answer = JSON.parse(output) as Answer | null;
  } catch {
    // Not the text itself: it may well be a secret.
    throw failed(command, 'what it printed is no JSON');
  }
  if (answer?.apiVersion !== apiVersion) {
    throw failed(command, `it answered in "${answer?.apiVersion}" and was asked for "${apiVersion}"`);
  }
  const { token, clientCertificateData, clientKeyData, expirationTimestamp } = answer.status ?? {};
  if (!token && !(clientCertificateData && clientKeyData)) {
    throw failed(command, 'its status has neither a token nor a certificate with its key');
  }
  const expiresAtMs = Date.parse(expirationTimestamp ?? '');
  return {
    ...(token && { token }),
    ...(clientCertificateData && { certificate: clientCertificateData }),
    ...(clientKeyData && { key: clientKeyData }),
    ...(Number.isFinite(expiresAtMs) && { expiresAtMs }),
  };
}

function infoOf(cluster: ClusterEntry): object {
  const { extensions = [], server } = cluster;
  const config = extensions.find(({ name }) => name === 'client.authentication.k8s.io/exec')?.extension;
  const known = [
    'tls-server-name',
    'insecure-skip-tls-verify',
    'certificate-authority-data',
    'proxy-url',
  ] as const;
  return {
    server,
    ...Object.fromEntries(
      known.flatMap((field) => (cluster[field] === undefined ? [] : [[field, cluster[field]]])),
    ),
    ...(config !== undefined && { config }),
  };
}

function failed(command: string, why: string): AtollError {
  return new AtollError('ClusterUnavailable', `no credentials from the plug-in "${command}": ${why}`);
}
