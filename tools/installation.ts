import type { Environment } from './command.ts';

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
