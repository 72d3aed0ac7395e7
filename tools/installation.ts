import { findOnPath, type Environment } from './command.ts';

/** What the installer of one kind is handed. */
export interface Installation {
  /** Becomes the tool's folder when all went well; it does not exist yet. */
  readonly result: string;
  /** Deleted in any case; exists. */
  readonly scratch: string;
  readonly env: Environment;
  readonly log: (line: string) => void;
  readonly signal: AbortSignal | undefined;
}

/** The machine lacks something that the installation begins with. */
export class NotPossible extends Error {
  readonly advice: string;

  constructor(reason: string, advice: string) {
    super(reason);
    this.name = 'NotPossible';
    this.advice = advice;
  }
}

/** The path of a program that the machine has to bring along. `why` begins the sentence that says that it is not there. */
export function requiredProgram(name: string, env: Environment, why: string, advice: string): string {
  const found = findOnPath(name, env);
  if (found !== undefined) return found;
  throw new NotPossible(`${why}, and there is no "${name}" on PATH`, advice);
}
