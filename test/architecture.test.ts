import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { expect, test } from 'vitest';

const root = resolve(import.meta.dirname, '..');
const sources = [
  'crds',
  'runtime',
  'controller',
  'gateway',
  'cli',
  'functions',
  'examples',
  'tools',
  'images',
  'charts',
  'test',
  'bench',
];

interface Import {
  readonly from: string;
  readonly to: string;
}

function filesBelow(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((file) => join(folder, file))
    .filter(
      (file) => file.endsWith('.ts') && !file.includes('/templates/') && !file.includes('node_modules'),
    );
}

function existing(folder: string): string[] {
  try {
    return filesBelow(folder);
  } catch {
    return [];
  }
}

const files = sources.flatMap(existing);
const imports: Import[] = files.flatMap((from) => {
  const text = readFileSync(join(root, from), 'utf8');
  const specifiers = [
    ...text.matchAll(
      /^(?:import|export)\b[^'"]*?from\s+'([^']+)'|^import\s+'([^']+)'|\bimport\('([^']+)'\)/gm,
    ),
  ];
  return specifiers.map((match) => {
    const specifier = match[1] ?? match[2] ?? match[3] ?? '';
    const to = specifier.startsWith('.')
      ? relative(root, resolve(root, dirname(from), specifier))
      : specifier;
    return { from, to };
  });
});
const own = imports.filter(({ to }) => sources.some((folder) => to.startsWith(`${folder}/`)));
const folderOf = (file: string): string => file.split('/')[0] ?? '';
const shown = ({ from, to }: Import): string => `${from} → ${to}`;

test('the scan sees the imports it judges', () => {
  expect(own.map(shown)).toContain('runtime/settle.ts → crds/function.ts');
  expect(imports.length).toBeGreaterThan(50);
});

test('imports go leftwards only: crds ← runtime ← controller ← gateway ← cli', () => {
  const order = ['crds', 'runtime', 'controller', 'gateway', 'cli'];
  const wrong = own.filter(({ from, to }) => {
    const [importer, imported] = [order.indexOf(folderOf(from)), order.indexOf(folderOf(to))];
    if (importer < 0) return false;
    // tools/ is a leaf: the list of outside programs, which the broker needs as well as the tests. What makes the chart a
    // manifest is one too, and `faas install` prints it.
    return imported < 0
      ? folderOf(to) !== 'tools' && `${from} ${to}` !== 'cli/commands/install.ts charts/manifest.ts'
      : imported > importer;
  });
  expect(wrong.map(shown)).toEqual([]);
});

test('the controller takes from the runtime only what the design lists', () => {
  const allowed =
    // dead-letters.ts: the sweep writes those of Functions that were deleted. account.ts: it prepares NATS accounts.
    /^runtime\/(account|config|errors|log|metrics|health|names|dead-letters|package\/format|process\/[\w-]+|clients\/(nats|mqtt)|triggers\/forget)\.ts$/;
  const wrong = own.filter(
    ({ from, to }) => folderOf(from) === 'controller' && folderOf(to) === 'runtime' && !allowed.test(to),
  );
  expect(wrong.map(shown)).toEqual([]);
});

test('gateway and command line take from the runtime what the controller does, and packages, clients, inbox, dead letters', () => {
  const allowed =
    // handler.ts and handler-calls.ts are the public package 'atoll', which the command line packs.
    /^runtime\/(config|errors|log|log-keys|metrics|health|handler|handler-calls|inbox|dead-letters|package\/\w+|process\/\w+|clients\/\w+|triggers\/(forget|schedule))\.ts$/;
  const wrong = own.filter(
    ({ from, to }) =>
      ['gateway', 'cli'].includes(folderOf(from)) && folderOf(to) === 'runtime' && !allowed.test(to),
  );
  expect(wrong.map(shown)).toEqual([]);
});

test('triggers and invoker do not know each other', () => {
  const wrong = own.filter(
    ({ from, to }) =>
      (from.startsWith('runtime/triggers/') && to.startsWith('runtime/invoker/')) ||
      (from.startsWith('runtime/invoker/') && to.startsWith('runtime/triggers/')),
  );
  expect(wrong.map(shown)).toEqual([]);
});

test('functions and examples import only atoll, packages and their own folder', () => {
  const wrong = own.filter(({ from, to }) => {
    const folder = folderOf(from);
    return ['functions', 'examples'].includes(folder) && folderOf(to) !== folder;
  });
  expect(wrong.map(shown)).toEqual([]);
});

test('nobody imports a main.ts', () => {
  expect(own.filter(({ to }) => to.endsWith('/main.ts')).map(shown)).toEqual([]);
});

test('only the handler process touches user code', () => {
  const text = (file: string): string => readFileSync(join(root, file), 'utf8');
  const loads = files.filter(
    (file) => file.startsWith('runtime/') && /\bimport\(\s*[^'"\s)]/.test(text(file)),
  );
  // inline.ts is the same invoker inside our process, for its own suite and the debugger.
  expect(loads).toEqual(['runtime/invoker/user-function.ts']);
  const users = own.filter(({ to }) => to === 'runtime/invoker/user-function.ts').map(({ from }) => from);
  expect(users.filter((file) => file.startsWith('runtime/'))).toEqual([
    'runtime/invoker/child.ts',
    'runtime/invoker/inline.ts',
  ]);
});

test('no folder is named for nothing in particular', () => {
  expect(files.filter((file) => /(^|\/)(utils?|helpers?|common|misc)(\/|\.ts$)/.test(file))).toEqual([]);
});

test('every test file lies where its source does', () => {
  const free = new Set([
    'test/architecture.test.ts',
    'test/bench.test.ts',
    'test/docs.test.ts',
    'test/examples.test.ts',
  ]);
  const wrong = files
    .filter((file) => file.startsWith('test/') && file.endsWith('.test.ts') && !free.has(file))
    .filter(
      (file) =>
        !sources.includes(file.split('/')[1] ?? '') &&
        !/^test\/(e2e|faults|fuzz|support|contracts)\//.test(file),
    );
  expect(wrong).toEqual([]);
});
