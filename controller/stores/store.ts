/** Where desired state lives. `test/contracts/store.ts` holds every store to this. */
import type { FunctionObject, FunctionStatus } from '../../crds/function.ts';

export interface Key {
  readonly namespace: string;
  readonly name: string;
}

export const keyText = (key: Key): string => `${key.namespace}/${key.name}`;

/** Emits keys only: level, not edge. Who hears a key reads what is there now. */
export interface Watchable {
  /** Every key at once, then each that changes. Returns the way to stop. */
  watch(listener: (key: Key) => void): () => void;
}

export interface Store extends Watchable {
  get(key: Key): Promise<FunctionObject | undefined>;
  list(namespace?: string): Promise<FunctionObject[]>;
  /**
   * Creates or replaces spec, labels and annotations; validates and fills defaults first. Bumps generation when the
   * spec changed. `metadata.resourceVersion`, when given, must be the current one, else Conflict.
   */
  put(object: unknown, options?: { dryRun?: boolean }): Promise<FunctionObject>;
  /** False: there was none. */
  remove(key: Key): Promise<boolean>;
  /** Touches the status only; does nothing when it is equal or the object is gone. */
  writeStatus(key: Key, status: FunctionStatus): Promise<void>;
}
