import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { openRobotMetrics } from '../controller/broker/robot-metrics.ts';
import { openControllerMetrics } from '../controller/engine/metrics.ts';
import { chartPage, controllerPage, errorsPage, gatewayPage } from '../docs/generate.ts';
import { openMetrics } from '../runtime/metrics.ts';

const root = resolve(import.meta.dirname, '..');
const read = (file: string): string => readFileSync(join(root, file), 'utf8');
const pages = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...['docs', 'bench', 'examples'].flatMap((folder) =>
    existsSync(join(root, folder))
      ? readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
          .filter((file) => file.endsWith('.md') && !file.includes('node_modules'))
          .map((file) => join(folder, file))
      : [],
  ),
];

test('the errors page is what the table of codes makes (else: npm run generate)', () => {
  expect(read('docs/reference/errors.md')).toBe(errorsPage());
});

test.each([
  ['controller', controllerPage],
  ['gateway', gatewayPage],
])("the table of a %s's configuration is what its schema makes (else: npm run generate)", (name, make) => {
  const page = read(`docs/reference/${name}.md`);
  expect(page).toContain('| `site` | string |');
  expect(page).toBe(make(page));
});

test('every metric of a controller has its row on the metrics page, with type and labels', async () => {
  const page = read('docs/reference/metrics.md');
  for (const { name, type } of await openControllerMetrics().registry.getMetricsAsJSON()) {
    expect(page).toMatch(new RegExp(`^\\| \`${name}\` \\| ${type} \\| (outcome )?\\|`, 'm'));
  }
});

test("every metric of a hub's robots has its row on the metrics page, with type and labels", async () => {
  const page = read('docs/reference/metrics.md');
  const { registry } = openRobotMetrics({ list: async () => [], kept: async () => undefined });
  for (const { name, type } of await registry.getMetricsAsJSON()) {
    expect(page).toMatch(new RegExp(`^\\| \`${name}\` \\| ${type} \\| (robot )?\\|`, 'm'));
  }
});

test('the page of the chart has the values of the chart (else: npm run generate)', () => {
  const page = read('docs/reference/chart.md');
  expect(page).toContain('| `nats.server.enabled` | `false` | One nats-server');
  expect(page).toBe(chartPage(page, read('charts/atoll/values.yaml')));
});

test('every metric of a host has its row on the metrics page, with type and labels', async () => {
  const page = read('docs/reference/metrics.md');
  const { registry } = openMetrics();
  for (const metric of await registry.getMetricsAsJSON()) {
    expect(page).toMatch(
      new RegExp(`^\\| \`${metric.name}\` \\| ${metric.type} \\| namespace, function`, 'm'),
    );
  }
});

test.each(pages)('links of %s lead somewhere', (page) => {
  const links = [...read(page).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)].map(
    (match) => match[1] ?? '',
  );
  const broken = links.filter((link) => !existsSync(resolve(root, dirname(page), link)));
  expect(broken).toEqual([]);
});

test('files that the architecture page names exist', () => {
  const named = [
    ...read('docs/architecture.md').matchAll(
      /`((?:crds|runtime|controller|gateway|cli|test|tools)\/[\w/-]*(?:\.ts)?)`/g,
    ),
  ].map((match) => match[1] ?? '');
  expect(named.filter((file) => !existsSync(join(root, file)))).toEqual([]);
});

test('each row on the page of Lambda that is to have a test names one that is there', () => {
  const tables = read('docs/reference/lambda.md')
    .split(/\n{2,}/)
    .filter((block) => /^\|.*\| test \|\n/.test(block));
  const rows = tables.flatMap((table) => table.trim().split('\n').slice(2));
  expect(rows.length).toBeGreaterThan(60);
  const untested = rows.filter((row) => {
    const named = [
      ...row
        .split(' | ')
        .at(-1)!
        .matchAll(/`([\w./-]+\.ts) › ([^`]+)`/g),
    ];
    const isThere = ([, file = '', name = '']: RegExpMatchArray): boolean =>
      existsSync(join(root, 'test', file)) && read(join('test', file)).includes(name);
    return named.length === 0 || !named.every(isThere);
  });
  expect(untested).toEqual([]);
});

test('the decisions are numbered without gaps', () => {
  const numbers = readdirSync(join(root, 'docs/decisions'))
    .filter((file) => /^\d/.test(file))
    .map((file) => Number(file.slice(0, 4)))
    .sort((a, b) => a - b);
  expect(numbers).toEqual(numbers.map((_, index) => index + 1));
});
