/** Why a command ends without success: what happened, what to do about it, and the exit code. */
import { exitCodes, type ExitCode } from './command.ts';

export class Failure extends Error {
  readonly exitCode: ExitCode;
  /** One of the runtime's error codes, or the CLI's own words for what happened (`NoSite`). Picks the advice. */
  readonly code: string | undefined;
  /** Instead of what the code's advice says. */
  readonly advice: string | undefined;

  constructor(
    exitCode: ExitCode,
    message: string,
    options: { code?: string; advice?: string; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = 'Failure';
    this.exitCode = exitCode;
    this.code = options.code;
    this.advice = options.advice;
  }
}

export const usageError = (message: string, advice?: string): Failure =>
  new Failure(exitCodes.usage, message, advice === undefined ? {} : { advice });
