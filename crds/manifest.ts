/** Manifests as people write them: YAML text, often several documents. */
import { isMap, isNode, isPair, isScalar, isSeq, LineCounter, parseAllDocuments, type Document } from 'yaml';
import { problemText, validate, type FunctionManifest, type Problem } from './function.ts';

export interface ManifestProblem extends Problem {
  readonly file: string;
  /** Counted from 1, as the documents between `---` stand; those of only comments count too. */
  readonly document: number;
  readonly line: number;
  readonly column: number;
}

export type Parsed = { ok: true; manifests: FunctionManifest[] } | { ok: false; problems: ManifestProblem[] };

/** Aliases are for a shared block or two; more is an attack on our memory. */
const maxAliasCount = 100;

/**
 * Every Function of the text, or every problem of every document: one wrong document means that none is used.
 * Documents without content are passed over.
 */
export function parseManifests(text: string, filename: string): Parsed {
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
    for (const error of document.errors) {
      add(error.pos[0], { path: '', value: undefined, message: `is not valid YAML: ${error.message}` });
    }
    if (document.errors.length > 0) continue;
    const start = document.contents?.range?.[0] ?? 0;
    let object: unknown;
    try {
      object = document.toJS({ maxAliasCount });
    } catch (error) {
      add(start, { path: '', value: undefined, message: `is not valid YAML: ${(error as Error).message}` });
      continue;
    }
    if (object === null || object === undefined) continue;
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
