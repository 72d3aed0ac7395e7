/**
 * Writes what follows from `function.ts`: `function.yaml` (the CustomResourceDefinition) and the tables of
 * docs/reference/function.md. `node crds/generate.ts` writes; `--check` only says, with exit code 1, what is stale.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { fill, type Schema } from './check.ts';
import { apiVersion, FunctionSpecSchema, FunctionStatusSchema, kind } from './function.ts';
import { rules, type Rule } from './rules.ts';

const [group, version] = apiVersion.split('/') as [string, string];

/** TypeBox's schemas are plain JSON Schema; its types say more than is needed here. */
const asSchema = (schema: object) => schema as Schema;

/** An OpenAPI v3 schema as a CustomResourceDefinition takes it. */
type Structural = Record<string, unknown>;

export function customResourceDefinition(): object {
  const root: Schema = {
    type: 'object',
    description:
      'Function is Lambda-style code and what calls it: NATS, JetStream, MQTT, ROS 2, HTTP or the clock.',
    required: ['spec'],
    properties: {
      apiVersion: { type: 'string' },
      kind: { type: 'string' },
      // Named, so that the rule about it may point at it.
      metadata: { type: 'object', properties: { name: { type: 'string' } } },
      spec: asSchema(FunctionSpecSchema),
      status: asSchema(FunctionStatusSchema),
    },
  };
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `functions.${group}` },
    spec: {
      group,
      names: { kind, listKind: `${kind}List`, plural: 'functions', singular: 'function', shortNames: ['fn'] },
      scope: 'Namespaced',
      versions: [
        {
          name: version,
          served: true,
          storage: true,
          additionalPrinterColumns: printerColumns,
          subresources: {
            status: {},
            scale: {
              specReplicasPath: '.spec.replicas',
              statusReplicasPath: '.status.replicas',
              labelSelectorPath: '.status.selector',
            },
          },
          schema: { openAPIV3Schema: structural(root, '') },
        },
      ],
    },
  };
}

const condition = (type: string, field: string) => `.status.conditions[?(@.type=="${type}")].${field}`;

// A column shows one value, so TRIGGERS says whether they are connected, not what they are called.
const printerColumns = [
  { name: 'Ready', type: 'string', jsonPath: condition('Ready', 'status') },
  { name: 'Replicas', type: 'integer', jsonPath: '.status.readyReplicas' },
  { name: 'Triggers', type: 'string', jsonPath: condition('TriggersReady', 'status') },
  { name: 'Package', type: 'string', jsonPath: '.status.packageSha256' },
  { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' },
  { name: 'Reason', type: 'string', priority: 1, jsonPath: condition('Ready', 'reason') },
  { name: 'Message', type: 'string', priority: 1, jsonPath: condition('Ready', 'message') },
  { name: 'Runtime', type: 'string', priority: 1, jsonPath: '.spec.runtime' },
  { name: 'Handler', type: 'string', priority: 1, jsonPath: '.spec.handler' },
];

/** Keywords that mean the same on both sides. */
const shared = [
  'type',
  'description',
  'format',
  'enum',
  'minimum',
  'maximum',
  'minLength',
  'maxLength',
  'pattern',
  'minItems',
  'maxItems',
  'maxProperties',
  'x-kubernetes-int-or-string',
  'x-kubernetes-list-type',
  'x-kubernetes-list-map-keys',
] as const;

/**
 * JSON Schema → structural schema. Unknown fields are refused by the API server itself unless a node says
 * otherwise, so `additionalProperties` beside `properties` goes; what has a default is never missing, so it is
 * not required.
 */
function structural(schema: Schema, path: string): Structural {
  const out: Structural = {};
  for (const keyword of shared) if (schema[keyword] !== undefined) out[keyword] = schema[keyword];
  // A default has to pass the rules as it stands, before the defaults inside it are filled in.
  if (schema.default !== undefined) out.default = filled(schema);
  if (schema['x-kubernetes-int-or-string']) out.anyOf = schema.anyOf;
  if (schema.uniqueItems) out['x-kubernetes-list-type'] = 'set';
  if (schema.items) out.items = structural(schema.items, `${path}[]`);

  const properties = Object.entries(schema.properties ?? {});
  const required = (schema.required ?? []).filter((name) => schema.properties?.[name]?.default === undefined);
  if (required.length > 0) out.required = required;
  if (properties.length > 0) {
    out.properties = Object.fromEntries(
      properties.map(([name, property]) => [name, structural(property, path ? `${path}.${name}` : name)]),
    );
  }
  const rest = schema.additionalProperties;
  if (rest === true) out['x-kubernetes-preserve-unknown-fields'] = true;
  if (typeof rest === 'object') out.additionalProperties = structural(rest, `${path}.*`);

  const here = rules.filter((rule) => rule.path === path);
  if (here.length > 0) out['x-kubernetes-validations'] = here.map(validation);
  return out;
}

function filled(schema: Schema): unknown {
  const value = structuredClone(schema.default);
  fill(value, schema);
  return value;
}

function validation({ rule, message, fieldPath }: Rule): Structural {
  return { rule, message, ...(fieldPath && { fieldPath }) };
}

export function customResourceDefinitionYaml(): string {
  const head =
    '# Generated from crds/function.ts and crds/rules.ts by "node crds/generate.ts". Do not edit.\n';
  return head + stringify(customResourceDefinition(), { lineWidth: 0, aliasDuplicateObjects: false });
}

/** A table of all fields below the one of that path: `spec`, `spec.triggers[].nats`. */
export function fieldTable(path: string, schema: Schema = nodeAt(path)): string {
  const rows = Object.entries(schema.properties ?? {}).flatMap(([name, field]) =>
    fieldRows(name, schema, field),
  );
  return ['| field | type | default | meaning |', '|---|---|---|---|', ...rows].join('\n');
}

// Blocks with a table of their own.
const ownTable = new Set(['triggers', 'placement', 'pod']);

function fieldRows(name: string, parent: Schema, field: Schema): string[] {
  const last = name.split('.').at(-1)?.replace('[]', '') ?? name;
  const required = parent.required?.includes(last) && field.default === undefined;
  const fallback = required
    ? 'required'
    : field.default === undefined
      ? ''
      : `\`${JSON.stringify(field.default)}\``;
  const row = `| \`${name}\` | ${typeText(field)} | ${fallback} | ${cell(field.description ?? '')} |`;
  if (ownTable.has(last)) return [row];
  const inner = field.items ?? field;
  const prefix = field.items ? `${name}[]` : name;
  return [
    row,
    ...Object.entries(inner.properties ?? {}).flatMap(([child, schema]) =>
      fieldRows(`${prefix}.${child}`, inner, schema),
    ),
  ];
}

function typeText(field: Schema): string {
  if (field.enum) return field.enum.map((value) => `\`${String(value)}\``).join(' or ');
  if (field.items) return field.items.enum ? `list of ${typeText(field.items)}` : 'list';
  if (field.type === undefined) return 'integer or string';
  const { minimum, maximum, maxLength } = field;
  if (minimum !== undefined && maximum !== undefined)
    return `${field.type}, ${String(minimum)}–${String(maximum)}`;
  if (maxLength !== undefined) return `${field.type}, ≤ ${String(maxLength)}`;
  return field.type;
}

function nodeAt(path: string): Schema {
  let node: Schema = {
    properties: { spec: asSchema(FunctionSpecSchema), status: asSchema(FunctionStatusSchema) },
  };
  for (const step of path.split('.')) {
    const next = node.properties?.[step.replace('[]', '')];
    const inner = step.endsWith('[]') ? next?.items : next;
    if (!inner) throw new Error(`the schema has no ${path}`);
    node = inner;
  }
  return node;
}

const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('<', '&lt;');

/** Every rule with its path and message, as the docs list them. */
export function ruleTable(): string {
  const rows = rules.map((rule) => {
    const path = rule.path + (rule.fieldPath ?? '');
    return `| \`${path.replace(/^\./, '')}\` | ${cell(rule.message)} |`;
  });
  return ['| field | what is checked |', '|---|---|', ...rows].join('\n');
}

/** The page with each part between `<!-- generated: X -->` and `<!-- end -->` made anew. */
export function referencePage(page: string): string {
  return page.replace(
    /(<!-- generated: ([^ ]+) -->\n)[^]*?(<!-- end -->)/g,
    (_, start: string, path: string, end: string) =>
      `${start}\n${path === 'rules' ? ruleTable() : fieldTable(path)}\n\n${end}`,
  );
}

export const generated = [
  { file: new URL('./function.yaml', import.meta.url), make: () => customResourceDefinitionYaml() },
  // Helm can read no file outside of its chart.
  {
    file: new URL('../charts/atoll/files/function.yaml', import.meta.url),
    make: () => customResourceDefinitionYaml(),
  },
  { file: new URL('../docs/reference/function.md', import.meta.url), make: referencePage },
];

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { file, make } of generated) {
    const present = await readFile(file, 'utf8').catch(() => '');
    const wanted = make(present);
    if (present === wanted) continue;
    if (process.argv.includes('--check')) {
      const lines = present.split('\n');
      const at = wanted.split('\n').findIndex((line, index) => line !== lines[index]);
      console.error(`${fileURLToPath(file)} is stale from line ${at + 1} on: run "node crds/generate.ts"`);
      process.exitCode = 1;
    } else {
      await writeFile(file, wanted);
      console.log(`wrote ${fileURLToPath(file)}`);
    }
  }
}
