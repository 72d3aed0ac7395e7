/** Manifests as people write them: YAML text, often several documents. */
import {
  isMap,
  isNode,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  parseAllDocuments,
  visit,
  type Document,
  type Node,
} from 'yaml';
import { pathTo } from './check.ts';
import { problemText, validate, type FunctionManifest, type Problem } from './function.ts';

export interface ManifestProblem extends Problem {
  readonly file: string;
  /** Counted from 1, as the documents between `---` stand; those of only comments count too. */
  readonly document: number;
  readonly line: number;
  readonly column: number;
}

export type Parsed = { ok: true; manifests: FunctionManifest[] } | { ok: false; problems: ManifestProblem[] };

/** Of one file or stream. An API server keeps no object beyond 1.5 MiB; a thousand Functions are below this too. */
export const maxManifestBytes = 1024 * 1024;
/** Aliases are for a shared block or two; more is an attack on our memory. */
const maxAliasCount = 100;
/** Of lists and maps in one another: the schema has no more than a dozen. */
const maxDepth = 100;
/** Of one document: what follows a mistake of syntax is seldom more than its echo. */
const maxSyntaxErrors = 10;

/**
 * Every Function of the text, or every problem of every document: one wrong document means that none is used.
 * Documents without content are passed over. Bytes must be UTF-8.
 */
export function parseManifests(content: string | Uint8Array, filename: string): Parsed {
  const text = textOf(content);
  if (typeof text !== 'string') {
    return { ok: false, problems: [{ ...text, path: '', value: undefined, file: filename, document: 1 }] };
  }
  const lines = new LineCounter();
  // merge: as kubectl reads `<<: *anchor`.
  const parsed = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false, merge: true });
  const documents: Document[] = 'empty' in parsed ? [] : parsed;
  const manifests: FunctionManifest[] = [];
  const problems: ManifestProblem[] = [];
  const firstOf = new Map<string, number>();

  for (const [index, document] of documents.entries()) {
    const add = (offset: number, { path, value, message }: Problem) => {
      const { line, col } = lines.linePos(offset);
      problems.push({ path, value, message, file: filename, document: index + 1, line, column: col });
    };
    const refuse = (offset: number, message: string, path = ''): void =>
      add(offset, { path, value: undefined, message });
    // The parser runs out of stack, and then reports each level.
    const tooDeep = document.errors.find(({ code }) => code === 'RESOURCE_EXHAUSTION');
    if (tooDeep) {
      refuse(tooDeep.pos[0], nestedTooDeeply);
      continue;
    }
    // What the parser only warns of, such as a tag it does not know, would be read as something else.
    const mistakes = [...document.errors, ...document.warnings];
    for (const { pos, message } of mistakes.slice(0, maxSyntaxErrors)) {
      refuse(pos[0], `is not valid YAML: ${message}`);
    }
    if (mistakes.length > 0) continue;
    const surprises = surprisesIn(document);
    for (const { offset, path, message } of surprises) refuse(offset, message, path);
    if (surprises.length > 0) continue;
    const start = document.contents?.range?.[0] ?? 0;
    let object: unknown;
    try {
      object = document.toJS({ maxAliasCount });
    } catch (error) {
      refuse(start, `is not valid YAML: ${(error as Error).message}`);
      continue;
    }
    if (object === null || object === undefined) continue;
    const unbounded = endlessness(object);
    if (unbounded !== undefined) {
      refuse(start, unbounded);
      continue;
    }
    const verdict = validate(object);
    const found = verdict.ok ? [] : [...verdict.problems];
    if (verdict.ok) {
      const { namespace = '', name } = verdict.object.metadata;
      const first = firstOf.get(`${namespace}/${name}`);
      if (first === undefined) firstOf.set(`${namespace}/${name}`, index + 1);
      else found.push({ path: 'metadata.name', value: name, message: `is taken by document ${first}` });
      manifests.push(verdict.object);
    }
    for (const problem of found) add(offsetOf(document, problem.path) ?? start, problem);
  }

  if (problems.length === 0 && manifests.length === 0) {
    problems.push({
      path: '',
      value: undefined,
      message: 'is missing: the file has no document with content',
      file: filename,
      document: 1,
      line: 1,
      column: 1,
    });
  }
  problems.sort((a, b) => a.line - b.line || a.column - b.column);
  return problems.length > 0 ? { ok: false, problems } : { ok: true, manifests };
}

/** Bytes as text, without a byte order mark; or what is wrong with them, and where. */
function textOf(content: string | Uint8Array): string | { message: string; line: number; column: number } {
  const refused = (message: string, line = 1, column = 1) => ({ message, line, column });
  if (content.length > maxManifestBytes) {
    return refused(`has more than the ${maxManifestBytes} bytes allowed: use several files`);
  }
  let text: string;
  if (typeof content === 'string') text = content.replace(/^\ufeff/, '');
  else {
    const [first, second] = content;
    // A byte order mark, or ASCII with every other byte a NUL.
    const utf16 = (first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff);
    if (utf16 || (first === 0) !== (second === 0)) return refused('is UTF-16, not UTF-8: save it as UTF-8');
    try {
      text = new TextDecoder('utf-8', { fatal: true }).decode(content);
    } catch {
      return refused('is not UTF-8 here: save the file as UTF-8', firstBadLine(content));
    }
  }
  // YAML 1.2.2, 5.1: these may be in a text as escapes only. Inside of it, a byte order mark is part of a name.
  const odd = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff]/.exec(text);
  if (odd === null) return text;
  const before = text.slice(0, odd.index).split('\n');
  const code = odd[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, '0');
  return refused(
    `has the character U+${code}, which YAML does not allow: remove it`,
    before.length,
    before.at(-1)!.length + 1,
  );
}

function firstBadLine(content: Uint8Array): number {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let line = 1;
  for (let from = 0; from < content.length; line += 1) {
    const end = content.indexOf(10, from);
    const to = end === -1 ? content.length : end + 1;
    try {
      decoder.decode(content.subarray(from, to));
    } catch {
      return line;
    }
    from = to;
  }
  return line;
}

/** Tags of what JSON has too; others make dates, sets and bytes of it, which no field takes. */
const plainTags = new Set(
  ['str', 'int', 'float', 'bool', 'null', 'map', 'seq'].map((name) => `tag:yaml.org,2002:${name}`),
);

interface Surprise {
  readonly offset: number;
  readonly path: string;
  readonly message: string;
}

/** What is valid YAML, yet means something else than its writer may think, here or in kubectl. */
function surprisesIn(document: Document): Surprise[] {
  const found: Surprise[] = [];
  const add = (node: Node, ancestors: readonly unknown[], message: string): void => {
    found.push({ offset: node.range?.[0] ?? 0, path: pathOf([...ancestors, node]), message });
  };
  visit(document, {
    Node(key, node, ancestors) {
      if ('tag' in node && node.tag !== undefined && !plainTags.has(node.tag)) {
        add(node, ancestors, `has the tag ${node.tag}, which makes more than plain data of it: leave it out`);
      }
      if (key === 'key' && !isScalar(node)) {
        add(node, ancestors, 'is a key that is not a word: keys are text');
      }
      if (isScalar(node) && typeof node.value === 'number' && /^[-+]?0[0-9]/.test(node.source ?? '')) {
        add(
          node,
          ancestors,
          `is written ${node.source}, which some readers take for octal: write ${node.value}, or "${node.source}" for text`,
        );
      }
    },
  });
  return found;
}

/** `spec.triggers[0].name` from the document down to the node. */
function pathOf(nodes: readonly unknown[]): string {
  let path = '';
  for (const [index, node] of nodes.entries()) {
    if (isPair(node)) path = pathTo(path, isScalar(node.key) ? String(node.key.value) : '?');
    else if (isSeq(node) && index + 1 < nodes.length) {
      path = `${path}[${node.items.indexOf(nodes[index + 1])}]`;
    }
  }
  return path;
}

const nestedTooDeeply = `is nested too deeply: at most ${maxDepth} levels are allowed`;

/** Why it cannot be walked through: an alias inside of what it stands for, or too many levels. */
function endlessness(value: unknown, around: readonly unknown[] = []): string | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  if (around.includes(value)) return 'is not valid YAML: an alias stands inside of what it stands for';
  if (around.length >= maxDepth) return nestedTooDeeply;
  const inside = [...around, value];
  for (const part of Object.values(value)) {
    const problem = endlessness(part, inside);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

/** `function.yaml:12:9 (document 2): spec.triggers[0].mqtt.topic: "a/#/b" must be …` */
export function manifestProblemText(problem: ManifestProblem): string {
  const { file, line, column, document } = problem;
  return `${file}:${line}:${column} (document ${document}): ${problemText(problem)}`;
}

/** Where the node of the path begins, or the nearest one around it that is written down. */
function offsetOf(document: Document, path: string): number | undefined {
  let node: unknown = document.contents;
  let offset = document.contents?.range?.[0];
  for (const step of path.match(/\["(?:[^"\\]|\\.)*"\]|\[[0-9]+\]|[^.[\]]+/g) ?? []) {
    const name = step.startsWith('["')
      ? (JSON.parse(step.slice(1, -1)) as string)
      : step.replace(/[[\]]/g, '');
    if (isMap(node)) {
      const pair = node.items.find(
        (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === name,
      );
      if (!pair) return offset;
      offset = isNode(pair.key) ? pair.key.range?.[0] : offset;
      node = pair.value;
    } else if (isSeq(node)) {
      node = node.items[Number(name)];
      offset = isNode(node) ? node.range?.[0] : offset;
    } else return offset;
  }
  return offset;
}
