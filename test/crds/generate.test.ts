import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { expect, test } from 'vitest';
import { customResourceDefinitionYaml, generated } from '../../crds/generate.ts';
import { rules } from '../../crds/rules.ts';

test.each(generated.map(({ file, make }) => ({ path: fileURLToPath(file), make })))(
  '$path is current (else: node crds/generate.ts)',
  async ({ path, make }) => {
    const present = await readFile(path, 'utf8');
    expect(present).toBe(make(present));
  },
);

type Node = Record<string, unknown> & { properties?: Record<string, Node>; items?: Node };

const definition = parse(customResourceDefinitionYaml()) as {
  spec: {
    names: object;
    versions: { schema: { openAPIV3Schema: Node }; subresources: object; additionalPrinterColumns: Node[] }[];
  };
};
const version = definition.spec.versions[0];

function everyNode(node: Node, path = ''): [string, Node][] {
  const additional = node.additionalProperties;
  return [
    [path, node],
    ...Object.entries(node.properties ?? {}).flatMap(([name, child]) => everyNode(child, `${path}.${name}`)),
    ...(node.items ? everyNode(node.items, `${path}[]`) : []),
    ...(typeof additional === 'object' ? everyNode(additional as Node, `${path}.*`) : []),
  ];
}
const nodes = everyNode(version?.schema.openAPIV3Schema ?? {});

test('the schema is structural: every node has a type, and none closes or unites what the API server judges', () => {
  for (const [path, node] of nodes) {
    if (node['x-kubernetes-int-or-string']) continue;
    expect(node.type, path).toBeTypeOf('string');
    for (const keyword of ['anyOf', 'oneOf', 'allOf', 'not', 'const', 'uniqueItems', '$ref', 'allowed']) {
      expect(node, path).not.toHaveProperty(keyword);
    }
    if (node.properties) expect(node, path).not.toHaveProperty('additionalProperties');
  }
});

test('what has a default is not required, and the default of a block is complete by itself', () => {
  for (const [path, node] of nodes) {
    for (const name of (node.required as string[] | undefined) ?? []) {
      expect(node.properties?.[name], `${path}.${name}`).not.toHaveProperty('default');
    }
    if (node.type !== 'object' || node.default === undefined) continue;
    expect(Object.keys(node.default as object), path).toEqual(Object.keys(node.properties ?? {}));
  }
});

test('every string, list and map of the spec has a maximum, or rules would cost more than the API server allows', () => {
  for (const [path, node] of nodes.filter(([path]) => path.startsWith('.spec'))) {
    if (node.type === 'string' && !node.enum) expect(node, path).toHaveProperty('maxLength');
    if (node.type === 'array') expect(node, path).toHaveProperty('maxItems');
    if (node.additionalProperties) expect(node, path).toHaveProperty('maxProperties');
  }
});

test('every rule is in the definition, word for word', () => {
  const found = nodes.flatMap(([path, node]) =>
    ((node['x-kubernetes-validations'] as Node[] | undefined) ?? []).map(
      ({ rule, message }) => `${path.slice(1)} ${String(rule)} ${String(message)}`,
    ),
  );
  expect(found.toSorted()).toEqual(
    rules.map(({ path, rule, message }) => `${path} ${rule} ${message}`).toSorted(),
  );
});

test('kubectl get shows the columns of faas list, and the function can be scaled by its short name', () => {
  const columns = version?.additionalPrinterColumns
    .filter(({ priority }) => !priority)
    .map(({ name }) => name);
  expect(columns).toEqual(['Ready', 'Replicas', 'Triggers', 'Package', 'Age']);
  expect(version?.subresources).toMatchObject({
    status: {},
    scale: { specReplicasPath: '.spec.replicas', labelSelectorPath: '.status.selector' },
  });
  expect(definition.spec.names).toMatchObject({ plural: 'functions', shortNames: ['fn'] });
});
