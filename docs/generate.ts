/** Writes the reference pages that are tables of the code: `npm run generate`. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ControllerConfigSchema } from '../controller/config.ts';
import { clusterRights, functionRights, leaseRights, type Rule } from '../controller/rights.ts';
import type { Schema } from '../crds/check.ts';
import { fieldTable } from '../crds/generate.ts';
import { errorCodes } from '../runtime/errors.ts';

export function errorsPage(): string {
  const rows = Object.entries(errorCodes).map(
    ([code, { whose, retryable, text }]) =>
      `| \`${code}\` | ${whose} | ${retryable ? 'yes' : 'no'} | ${text} |`,
  );
  return `# Errors

Generated from \`runtime/errors.ts\`. \`yours\`: the function's author can fix it; \`ours\`: the operator of the site
can. *again*: trying again can help. What a handler throws keeps its own name (\`TypeError\`, …).

| code | whose | again | what it means and what to do |
|---|---|---|---|
${rows.join('\n')}
`;
}

/** The page with its tables made anew. */
export function controllerPage(page: string): string {
  const tables: Record<string, string> = {
    config: fieldTable('', ControllerConfigSchema as object as Schema),
    rights: rightsTable(),
  };
  return page.replace(
    /(<!-- generated: (\w+) -->\n)[^]*?(<!-- end -->)/g,
    (_, start: string, what: string, end: string) => `${start}\n${tables[what]}\n\n${end}`,
  );
}

function rightsTable(): string {
  const rows = (where: string, rules: readonly Rule[]): string[] =>
    rules.map(({ apiGroups, resources, resourceNames, verbs, why }) => {
      const what = resources.map((resource) => `\`${resource}\``).join(', ');
      const named = resourceNames ? ` (${resourceNames.join(', ')})` : '';
      return `| ${where} | ${apiGroups.join(', ') || 'core'} | ${what}${named} | ${verbs.join(', ')} | ${why} |`;
    });
  return [
    '| where | API group | resources | verbs | for |',
    '|---|---|---|---|---|',
    ...rows('namespaces of Functions', functionRights),
    ...rows("the Lease's namespace", leaseRights),
    ...rows('the cluster', clusterRights),
  ].join('\n');
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await writeFile(join(import.meta.dirname, 'reference', 'errors.md'), errorsPage());
  const controller = join(import.meta.dirname, 'reference', 'controller.md');
  await writeFile(controller, controllerPage(await readFile(controller, 'utf8')));
}
