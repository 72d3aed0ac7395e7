/**
 * Keys of NATS accounts (docs/reference/accounts.md). `node charts/accounts.ts [--directory /data/accounts]` writes a new
 * Secret for nats.accounts.secret, for `kubectl create -f -`. `node charts/accounts.ts --user NAMESPACE NAME` reads the
 * seed `accounts.seed` from stdin and writes the credentials of a user who may do everything in that namespace's account.
 */
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { stringify } from 'yaml';
import { newOperatorSeed, openAccountKeys, openOperatorKeys } from '../controller/broker/account-keys.ts';

/** `directory`: where the nats-server keeps what it is told of accounts; in the chart's own on its volume. */
export function accountsSecret(directory = '/data/accounts', seed = newOperatorSeed()): object {
  const keys = openOperatorKeys(seed);
  return {
    apiVersion: 'v1',
    kind: 'Secret',
    metadata: { name: 'atoll-accounts', namespace: 'atoll-system' },
    type: 'Opaque',
    stringData: {
      'operator.seed': seed,
      'accounts.seed': keys.accountsSeed,
      'server.conf': keys.serverConfig(directory),
    },
  };
}

const usage = 'usage: node charts/accounts.ts [--directory DIR], or --user NAMESPACE NAME < accounts.seed';

async function main(): Promise<string> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { directory: { type: 'string' }, user: { type: 'boolean' } },
  });
  if (!values.user) return stringify(accountsSecret(values.directory), { lineWidth: 0 });
  const [namespace, name] = positionals;
  if (namespace === undefined || name === undefined) throw new TypeError(usage);
  return openAccountKeys(await text(process.stdin)).administrator(namespace, name);
}

if (import.meta.main) {
  try {
    process.stdout.write(await main());
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    // As parseArgs itself throws it: the command line is wrong.
    process.exitCode = error instanceof TypeError ? 2 : 1;
  }
}
