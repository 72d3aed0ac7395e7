import type { FunctionObject } from '../../crds/function.ts';
import { defineCommand, exitCodes } from '../command.ts';
import { Failure, usageError } from '../failure.ts';
import { print, printData, shortDigest } from '../output.ts';
import { withProgress } from '../progress.ts';
import { waitUntilReady } from '../rollout.ts';
import { existing, mustAnswer, openSite } from '../site.ts';

const defaultTimeoutSeconds = 60;
/** Fewer digits are rather a slip than a name. */
const minDigits = 6;

export const command = defineCommand({
  positionals: {
    name: { type: 'string', describe: 'The function', required: true, completes: 'function' },
  },
  options: {
    to: {
      type: 'string',
      value: 'SHA256',
      describe: `The package, or the first ${minDigits} or more of its digits; else the one before the last`,
    },
    wait: {
      type: 'boolean',
      default: true,
      describe: 'Wait until the old code answers; --no-wait returns when it is declared',
    },
    timeout: {
      type: 'number',
      value: 'S',
      default: defaultTimeoutSeconds,
      describe: 'Wait at most so many seconds',
    },
  },
  description:
    'Brings back a package that answered before: the code only, the rest of the manifest stays as it is. Rolled back twice, it is where it was.',
  examples: [
    ['rollback hello', 'To the package before'],
    ['rollback hello --to 7f0c1a2b', 'To one that "faas history hello" shows'],
  ],
  async run({ site: dir, context, namespace, name, to, wait, timeout, output }) {
    if (!(timeout > 0)) throw usageError(`--timeout is ${timeout}; it must be more than 0`);
    const site = await openSite({ site: dir, context });
    const { store } = site;
    const key = { namespace, name };
    const before = await existing(store, key);
    const sha256 = target(before, to);
    const uri = await site.find(sha256, key);
    if (uri === undefined) {
      throw new Failure(exitCodes.site, `the package ${shortDigest(sha256)} is in the store no more`, {
        code: 'PackageNotFound',
        advice: 'Deploy that code again with "faas deploy".',
      });
    }
    if (wait) mustAnswer(site);
    const after = await store.put({ ...before, spec: { ...before.spec, package: { uri, sha256 } } });
    const { generation } = after.metadata;
    if (wait) {
      await withProgress(`waiting until ${name} answers`, (progress) =>
        waitUntilReady(site, key, { generation, sha256 }, { timeoutMs: timeout * 1000, progress }),
      );
    }
    if (output === 'json' || output === 'yaml') {
      return printData({ name, namespace, sha256, uri, generation, ready: wait }, output);
    }
    print(`function ${name} rolled back to package ${shortDigest(sha256)}${wait ? ', ready' : ''}`);
  },
});

/** Throws a Failure that says what there is to choose from. */
function target({ metadata: { name }, spec, status }: FunctionObject, to: string | undefined): string {
  if (spec.package?.inline !== undefined) {
    throw new Failure(exitCodes.usage, `the code of ${name} stands in its manifest, which keeps no history`, {
      code: 'NoPackage',
      advice: 'Apply the manifest as it was.',
    });
  }
  const known = [...new Set((status?.history ?? []).map(({ packageSha256 }) => packageSha256))].reverse();
  const earlier = known.filter((sha256) => sha256 !== spec.package?.sha256);
  const advice = `See "faas history ${name}".`;
  if (to === undefined) {
    if (earlier[0] !== undefined) return earlier[0];
    throw new Failure(exitCodes.usage, `${name} has no package to go back to`, { advice });
  }
  if (!/^[0-9a-f]+$/.test(to) || to.length < minDigits) {
    throw usageError(`--to is "${to}"; it must be ${minDigits} or more digits of a package`, advice);
  }
  const found = known.filter((sha256) => sha256.startsWith(to));
  if (found.length === 1) return found[0]!;
  const problem = found.length === 0 ? 'no package that begins' : `${found.length} packages that begin`;
  throw usageError(`the history of ${name} has ${problem} with ${to}`, advice);
}
