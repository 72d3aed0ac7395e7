/** Writes the reference pages that are tables of the code: `npm run generate`. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
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

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  await writeFile(join(import.meta.dirname, 'reference', 'errors.md'), errorsPage());
}
