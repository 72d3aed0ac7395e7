/** Writes the reference pages that are tables of the code: `npm run generate`. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isMap, parseDocument, type YAMLMap } from 'yaml';
import { ControllerConfigSchema } from '../controller/config.ts';
import {
  accountRights,
  clusterRights,
  functionRights,
  leaseRights,
  secretRights,
  type Rule,
} from '../controller/rights.ts';
import type { Schema } from '../crds/check.ts';
import { fieldTable } from '../crds/generate.ts';
import { GatewayConfigSchema } from '../gateway/config.ts';
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

export const controllerPage = (page: string): string =>
  withTables(page, { config: configTable(ControllerConfigSchema), rights: rightsTable() });
export const gatewayPage = (page: string): string =>
  withTables(page, { config: configTable(GatewayConfigSchema) });
export const chartPage = (page: string, valuesYaml: string): string =>
  withTables(page, { values: valuesTable(valuesYaml) });

/** The page with each part between `<!-- generated: NAME -->` and `<!-- end -->` made anew. */
function withTables(page: string, tables: Readonly<Record<string, string>>): string {
  return page.replace(
    /(<!-- generated: (\w+) -->\n)[^]*?(<!-- end -->)/g,
    (_, start: string, what: string, end: string) => `${start}\n${tables[what]}\n\n${end}`,
  );
}

const configTable = (schema: object): string => fieldTable('', schema as Schema);

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
    ...rows('namespaces of Functions', accountRights),
    ...rows('namespaces of `watchSecretsIn`', secretRights),
    ...rows("the Lease's namespace", leaseRights),
    ...rows('the cluster', clusterRights),
  ].join('\n');
}

/** A row for each value of the chart: its path, its default, and the comment above it. */
export function valuesTable(valuesYaml: string): string {
  const { contents } = parseDocument(valuesYaml);
  if (!isMap(contents)) throw new Error('values.yaml is no map');
  // The comment above the first key is taken for one above the whole document.
  const rows = valueRows(contents, '', contents.commentBefore ?? undefined);
  return ['| value | default | meaning |', '|---|---|---|', ...rows].join('\n');
}

function valueRows(map: YAMLMap, above: string, firstComment: string | undefined): string[] {
  return map.items.flatMap(({ key, value }, index) => {
    const { value: name, commentBefore } = key as { value: string; commentBefore?: string };
    const path = above === '' ? name : `${above}.${name}`;
    const comment = commentBefore ?? (index === 0 ? firstComment : undefined);
    const text = comment?.split('\n').map((line) => line.trim());
    const meaning = (text ?? []).join(' ').trim();
    // Written in one line, it is one value: what it may hold is Kubernetes' matter.
    const nested = isMap(value) && !value.flow && value.items.length > 0;
    if (!nested) {
      const shown = JSON.stringify((value as { toJSON(): unknown } | null)?.toJSON() ?? null);
      return [`| \`${path}\` | \`${shown}\` | ${meaning} |`];
    }
    const inner = valueRows(value, path, value.commentBefore ?? undefined);
    return meaning === '' ? inner : [`| \`${path}\` | | ${meaning} |`, ...inner];
  });
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await writeFile(join(import.meta.dirname, 'reference', 'errors.md'), errorsPage());
  const values = await readFile(join(import.meta.dirname, '../charts/atoll/values.yaml'), 'utf8');
  const pages = {
    controller: controllerPage,
    gateway: gatewayPage,
    chart: (page: string) => chartPage(page, values),
  };
  for (const [name, make] of Object.entries(pages)) {
    const file = join(import.meta.dirname, 'reference', `${name}.md`);
    await writeFile(file, make(await readFile(file, 'utf8')));
  }
}
