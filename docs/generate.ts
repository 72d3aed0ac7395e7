/** Writes the reference pages that are tables of the code: `npm run generate`. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { ControllerConfigSchema } from '../controller/config.ts';
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

/** The page with its table made anew. */
export function controllerPage(page: string): string {
  const table = fieldTable('', ControllerConfigSchema as object as Schema);
  return page.replace(
    /(<!-- generated: config -->\n)[^]*?(<!-- end -->)/,
    (_, start: string, end: string) => `${start}\n${table}\n\n${end}`,
  );
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await writeFile(join(import.meta.dirname, 'reference', 'errors.md'), errorsPage());
  const controller = join(import.meta.dirname, 'reference', 'controller.md');
  await writeFile(controller, controllerPage(await readFile(controller, 'utf8')));
}
