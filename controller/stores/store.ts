/** Where desired state lives. `test/contracts/store.ts` holds every store to this. */
import type { FunctionObject, FunctionStatus } from '../../crds/function.ts';
import { namePattern } from '../../crds/rules.ts';
import { AtollError } from '../../runtime/errors.ts';

export interface Key {
  readonly namespace: string;
  readonly name: string;
}

/** Keys become paths, subjects and URLs: whatever comes from outside is asked this first. */
export const isKey = ({ namespace, name }: Key): boolean => isNamespace(namespace) && nameForm.test(name);
const nameForm = new RegExp(namePattern);
/** A DNS label, as Kubernetes has it. */
export const isNamespace = (text: string): boolean => /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(text);

export const keyText = (key: Key): string => `${key.namespace}/${key.name}`;

/** Emits keys only: level, not edge. Who hears a key reads what is there now. */
export interface Watchable {
  /** Every key at once, then each that changes. Returns the way to stop. */
  watch(listener: (key: Key) => void): () => void;
}

/** What is read may be shared by all who read it: it is not to be changed. */
export interface Store extends Watchable {
  /** Rejects with UnreadableObjectError when what is stored is not a valid Function (edited by hand). */
  get(key: Key): Promise<FunctionObject | undefined>;
  /** Leaves out what cannot be read, or gives its last readable form. */
  list(namespace?: string): Promise<FunctionObject[]>;
  /** Every key there is, also of what cannot be read. */
  keys(namespace?: string): Promise<Key[]>;
  /**
   * Creates or replaces spec, labels and annotations; validates and fills defaults first. Bumps generation when the
   * spec changed. `metadata.resourceVersion`, when given, must be the current one, else AtollError Conflict.
   * Rejects with InvalidObjectError. `dryRun` checks all of it, gives what would be stored, and stores nothing.
   */
  put(object: unknown, options?: { dryRun?: boolean }): Promise<FunctionObject>;
  /** False: there was none. */
  remove(key: Key): Promise<boolean>;
  /**
   * Touches the status only; does nothing when it is equal or the object is gone. May reject with AtollError Conflict
   * when the object is newer than what was read: its key is told then.
   */
  writeStatus(key: Key, status: FunctionStatus): Promise<void>;
}

/** What was to be stored is not a valid Function. `problems` has every one of them, a sentence each. */
export class InvalidObjectError extends AtollError {
  readonly problems: readonly string[];

  constructor(what: string, problems: readonly string[]) {
    super('InvalidObject', `${what} is not valid: ${problems.join('; ')}`);
    this.problems = problems;
  }
}

/** What is stored is not a valid Function any more. What runs is left running. */
export class UnreadableObjectError extends InvalidObjectError {
  readonly key: Key;
  /** The last status written, so that it can go on telling what runs. */
  readonly status: FunctionStatus | undefined;
  /** Which one it is; undefined where that cannot be read either. */
  readonly identity: { readonly uid: string; readonly resourceVersion: string } | undefined;

  constructor(
    key: Key,
    file: string,
    problems: readonly string[],
    facts: Pick<UnreadableObjectError, 'status'> & Partial<Pick<UnreadableObjectError, 'identity'>>,
  ) {
    super(file, problems);
    this.key = key;
    this.status = facts.status;
    this.identity = facts.identity;
  }
}
