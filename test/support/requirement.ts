import { findTool } from '../../tools/install.ts';
import type { ToolName } from '../../tools/install.ts';
import { presentTest } from './present-test.ts';

/**
 * The program's path. Tests install nothing on the way: a build of minutes would only look like a test that hangs.
 * So where it is missing, the running test is skipped and says why; in CI, where that would hide a gap, it fails.
 * In a hook nothing can be skipped: there use `describe.skipIf(await missing('minio'))`.
 */
export async function requireTool(name: ToolName): Promise<string> {
  const path = await findTool(name, { log: () => {} });
  if (path !== undefined) return path;
  const reason = reasonFor([name]);
  if (!inCI()) presentTest()?.skip(reason);
  throw new Error(reason);
}

/** Why tests that need these tools cannot run here, or undefined when they can. In CI this throws instead. */
export async function missing(...names: ToolName[]): Promise<string | undefined> {
  const paths = await Promise.all(names.map((name) => findTool(name, { log: () => {} })));
  const absent = names.filter((_, i) => paths[i] === undefined);
  if (absent.length === 0) return undefined;
  const reason = reasonFor(absent);
  if (inCI()) throw new Error(reason);
  process.stderr.write(`Skipped: ${reason}\n`);
  return reason;
}

function reasonFor(names: readonly ToolName[]): string {
  return `${names.join(', ')} not found; "node tools/install.ts ${names.join(' ')}" installs what is missing`;
}

function inCI(): boolean {
  return process.env['CI'] === 'true';
}
