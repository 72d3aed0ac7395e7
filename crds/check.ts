/** An object against a schema and rules, as an API server does it: nulls away, defaults in, schema, rules. */
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv';
import type { Rule } from './rules.ts';

export interface Problem {
  /** `spec.triggers[2].mqtt.topic`; '' is the whole object. */
  readonly path: string;
  /** What is there; undefined when nothing is. */
  readonly value: unknown;
  /** What is allowed, as the rest of a sentence that begins with the path. */
  readonly message: string;
}

export type Checked = { ok: true; value: unknown } | { ok: false; problems: Problem[] };

/** The part of JSON Schema that the schemas of this folder use. */
export interface Schema {
  readonly type?: string;
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean | Schema;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly pattern?: string;
  /** What the pattern means, for people. */
  readonly allowed?: string;
  readonly uniqueItems?: boolean;
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
  readonly [keyword: string]: unknown;
}

/** The argument stays as it was; `value` is a copy with the defaults filled in. */
export function check(schema: object, rules: readonly Rule[], input: unknown): Checked {
  let value: unknown;
  try {
    value = structuredClone(input);
  } catch (error) {
    return problem('', undefined, `must be plain data: ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return problem('', value, `must be an object, not ${kindOf(value)}`);
  }
  fill(value, schema as Schema);

  const problems = [...schemaProblems(schema, value), ...duplicates(schema as Schema, value, '')];
  // A rule relies on what the schema promises, so one whose node is of the wrong shape is not asked.
  const misshapen = problems.filter((each) => each.misshapen).map((each) => each.path);
  for (const rule of rules) {
    for (const node of nodesAt(value, rule.path)) {
      const field = rule.fieldPath?.slice(1);
      const blamed = field ? field.split('.').reduce(pathTo, node.path) : node.path;
      if (misshapen.some((path) => within(path, blamed) || within(blamed, path))) continue;
      // One sentence about a text is enough; a second would often say the same in other words.
      if (typeof node.value === 'string' && problems.some((each) => each.path === blamed)) continue;
      if (rule.check(node.value)) continue;
      problems.push({
        path: blamed,
        value: field ? nodesAt(node.value, field)[0]?.value : node.value,
        message: rule.message,
        misshapen: false,
      });
    }
  }
  if (problems.length === 0) return { ok: true, value };
  return { ok: false, problems: problems.map(({ path, value, message }) => ({ path, value, message })) };
}

/** One line: the path, the value as far as it is short, and what is allowed. */
export function problemText({ path, value, message }: Problem): string {
  const printed =
    typeof value === 'string'
      ? ` ${clip(JSON.stringify(value))}`
      : typeof value === 'object' || value === undefined
        ? ''
        : ` ${String(value)}`;
  return `${path || 'the object'}:${printed} ${message}`;
}

function problem(path: string, value: unknown, message: string): Checked {
  return { ok: false, problems: [{ path, value, message }] };
}

/**
 * Nulls of known fields count as absent, then each absent field gets its default, and so do the fields in it.
 * A default inside an absent object is not reached: only what is there is filled.
 */
export function fill(value: unknown, schema: Schema): void {
  if (Array.isArray(value)) {
    if (schema.items) for (const item of value) fill(item, schema.items);
  } else if (typeof value === 'object' && value !== null) {
    const object = value as Record<string, unknown>;
    for (const [name, property] of Object.entries(schema.properties ?? {})) {
      if (Object.hasOwn(object, name) && object[name] === null) delete object[name];
      if (!Object.hasOwn(object, name) && property.default !== undefined) {
        object[name] = structuredClone(property.default);
      }
      if (Object.hasOwn(object, name)) fill(object[name], property);
    }
    const rest = schema.additionalProperties;
    if (typeof rest === 'object') {
      for (const name of Object.keys(object)) if (object[name] === null) delete object[name];
    }
  }
}

interface Found extends Problem {
  /** The value is of another type than the schema says, or a part of it is missing. */
  readonly misshapen: boolean;
}

const validators = new WeakMap<object, ValidateFunction>();

function validatorOf(schema: object): ValidateFunction {
  let validator = validators.get(schema);
  if (!validator) {
    const ajv = new Ajv({ allErrors: true, verbose: true, strictTypes: false, strictRequired: false });
    ajv.addVocabulary([
      'allowed',
      'x-kubernetes-int-or-string',
      'x-kubernetes-list-type',
      'x-kubernetes-list-map-keys',
    ]);
    validator = ajv.compile(schema);
    validators.set(schema, validator);
  }
  return validator;
}

function schemaProblems(schema: object, value: unknown): Found[] {
  const validator = validatorOf(schema);
  if (validator(value)) return [];
  return (validator.errors ?? [])
    .filter((error) => !(error.keyword === 'type' && error.schemaPath.includes('/anyOf/')))
    .map(problemOf);
}

function problemOf(error: ErrorObject): Found {
  const path = pathOf(error.instancePath);
  const parameters = error.params as { additionalProperty: string; missingProperty: string; limit: number };
  const schema = error.parentSchema as Schema;
  const found = (message: string, misshapen = false): Found => ({
    path,
    value: error.data,
    message,
    misshapen,
  });
  switch (error.keyword) {
    case 'additionalProperties': {
      const field = parameters.additionalProperty;
      return {
        path: pathTo(path, field),
        value: (error.data as Record<string, unknown>)[field],
        message: unknownField(field, Object.keys(schema.properties ?? {})),
        misshapen: false,
      };
    }
    case 'required': {
      const field = parameters.missingProperty;
      const allowed = schema.properties?.[field];
      return {
        path: pathTo(path, field),
        value: undefined,
        message: `is required${allowed?.enum ? `: ${list(allowed.enum)}` : ''}`,
        misshapen: true,
      };
    }
    case 'type':
      return found(`must be ${aTypeName(schema.type ?? '')}, not ${kindOf(error.data)}`, true);
    case 'anyOf':
      return found(`must be an integer or a string, not ${kindOf(error.data)}`, true);
    case 'enum':
      return found(
        `must be ${list(schema.enum ?? [])}${schema.enum?.length === 1 ? '' : near(error.data, schema.enum ?? [])}`,
      );
    case 'pattern':
      return found(`must be ${schema.allowed ?? `text that matches ${schema.pattern}`}`);
    case 'minimum':
    case 'maximum':
      return found(`must be ${rangeOf(schema)}`);
    case 'maxLength':
      return found(`must not have more than ${parameters.limit} characters`);
    case 'minLength':
      return found('must not be empty');
    case 'maxItems':
    case 'maxProperties':
      return found(`must not have more than ${parameters.limit} entries`);
    case 'minItems':
      return found(`must have at least ${parameters.limit} entries`);
    case 'uniqueItems':
      return found('must not have the same entry twice');
    default:
      return found(error.message ?? 'is not valid');
  }
}

/** Entries of a list map with the same keys. */
function duplicates(schema: Schema, value: unknown, path: string): Found[] {
  const problems: Found[] = [];
  if (Array.isArray(value) && schema.items) {
    const keys = schema['x-kubernetes-list-map-keys'];
    const seen = new Map<string, number>();
    for (const [index, item] of value.entries()) {
      problems.push(...duplicates(schema.items, item, `${path}[${index}]`));
      if (!keys || typeof item !== 'object' || item === null) continue;
      const values = keys.map((key) => (item as Record<string, unknown>)[key]);
      // A missing key is a problem of its own.
      if (values.some((each) => typeof each !== 'string')) continue;
      const first = seen.get(JSON.stringify(values));
      if (first === undefined) seen.set(JSON.stringify(values), index);
      else {
        problems.push({
          path: `${path}[${index}].${keys[0]}`,
          value: values[0],
          message: `is taken by ${path}[${first}]; each entry needs its own`,
          misshapen: false,
        });
      }
    }
  } else if (typeof value === 'object' && value !== null) {
    for (const [name, property] of Object.entries(schema.properties ?? {})) {
      if (Object.hasOwn(value, name)) {
        problems.push(...duplicates(property, (value as Record<string, unknown>)[name], pathTo(path, name)));
      }
    }
  }
  return problems;
}

/** Every node a rule's path leads to: `spec.triggers[].nats` has none, one or several. */
function nodesAt(root: unknown, rulePath: string): { path: string; value: unknown }[] {
  let nodes = [{ path: '', value: root }];
  for (const step of rulePath === '' ? [] : rulePath.split('.')) {
    const name = step.replace('[]', '');
    nodes = nodes.flatMap(({ path, value }) => {
      if (typeof value !== 'object' || value === null || !Object.hasOwn(value, name)) return [];
      const next = { path: pathTo(path, name), value: (value as Record<string, unknown>)[name] };
      if (!step.endsWith('[]')) return [next];
      if (!Array.isArray(next.value)) return [];
      return next.value.map((item: unknown, index) => ({ path: `${next.path}[${index}]`, value: item }));
    });
  }
  return nodes;
}

/** Whether the first path is the second one or lies in it. */
function within(path: string, outer: string): boolean {
  return outer === '' || path === outer || path.startsWith(`${outer}.`) || path.startsWith(`${outer}[`);
}

function pathOf(pointer: string): string {
  return pointer
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .reduce(pathTo, '');
}

/** Names that are not plain words are quoted: `metadata.labels["app.kubernetes.io/name"]`. */
export function pathTo(path: string, name: string): string {
  if (/^[0-9]+$/.test(name)) return `${path}[${name}]`;
  if (!/^[A-Za-z_][A-Za-z0-9_-]*$/.test(name)) return `${path}[${JSON.stringify(name)}]`;
  return path === '' ? name : `${path}.${name}`;
}

function unknownField(field: string, known: readonly string[]): string {
  return `is not a field here${near(field, known) || (known.length ? `; known are ${known.join(', ')}` : '')}`;
}

/** `; did you mean "topic"?` when one of the known words is near. */
function near(value: unknown, known: readonly unknown[]): string {
  if (typeof value !== 'string' || value.length > 64) return '';
  const words = known.filter((word) => typeof word === 'string');
  const ranked = words
    .map((word) => ({ word, distance: editDistance(value.toLowerCase(), word.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  // Units are forgotten more often than letters: "timeout".
  const begun =
    value.length >= 4 ? words.find((word) => word.startsWith(value) && word !== value) : undefined;
  if (begun !== undefined) return `; did you mean "${begun}"?`;
  const best = ranked[0];
  return best && best.distance <= Math.min(3, Math.ceil(best.word.length * 0.4))
    ? `; did you mean "${best.word}"?`
    : '';
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        (row[j] ?? 0) + 1,
        (next[j - 1] ?? 0) + 1,
        (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

const clip = (text: string) => (text.length > 100 ? `${text.slice(0, 100)}…` : text);

function list(values: readonly unknown[]): string {
  const words = values.map((value) => JSON.stringify(value));
  return words.length === 1 ? `${words[0]}` : `${words.slice(0, -1).join(', ')} or ${words.at(-1)}`;
}

function rangeOf(schema: Schema): string {
  const { minimum, maximum } = schema;
  if (minimum === undefined) return `at most ${String(maximum)}`;
  if (maximum === undefined) return `at least ${String(minimum)}`;
  return `from ${String(minimum)} to ${String(maximum)}`;
}

function aTypeName(type: string): string {
  if (type === 'array') return 'a list';
  return `${type === 'integer' || type === 'object' ? 'an' : 'a'} ${type}`;
}

function kindOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'string') return `the string ${clip(JSON.stringify(value))}`;
  if (typeof value === 'object') return 'an object';
  if (value === undefined) return 'nothing';
  return `the ${typeof value} ${String(value)}`;
}
