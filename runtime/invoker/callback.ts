/** Callback handlers, which Lambda runs up to nodejs22.x: `(event, context, callback)`, `context.done | succeed | fail`. */
import type { HandlerContext } from './handler-context.ts';

type Callback = (error?: unknown, result?: unknown) => void;
type CallbackHandler = (event: unknown, context: HandlerContext, callback: Callback) => unknown;

/** Calls `then` when nothing keeps the process busy any more. Returns the way to take that back. */
export type OnEmptyLoop = (then: () => void) => () => void;

/** For `spec.runtime`, or for the version of Node itself. */
export const takesCallbacks = (nodeMajor: number): boolean => nodeMajor < 24;

/**
 * The first of callback, done, succeed, fail, or the end of a returned promise, is the answer. The callback's waits until
 * the event loop is empty, unless `callbackWaitsForEmptyEventLoop` is false; a handler that gives no answer at all
 * answers null then. Without `onEmptyLoop` nobody can tell, and nothing waits for it.
 */
export function callWithCallback(
  handler: unknown,
  event: unknown,
  context: HandlerContext,
  onEmptyLoop: OnEmptyLoop | undefined,
): Promise<unknown> {
  return new Promise((resolve, reject) => {
    let answered = false;
    let forget: (() => void) | undefined;
    const answer = (error: unknown, result: unknown, waits: boolean) => {
      if (answered) return;
      answered = true;
      forget?.();
      if (error !== undefined && error !== null) reject(error as Error);
      else if (waits && onEmptyLoop) onEmptyLoop(() => resolve(result));
      else resolve(result);
    };
    const succeed = (result?: unknown) => answer(undefined, result, false);
    const fail = (error?: unknown) => answer(error ?? 'handled', undefined, false);
    const done: Callback = (error, result) => answer(error, result, false);
    Object.assign(context, { done, succeed, fail });
    try {
      const returned = (handler as CallbackHandler)(event, context, (error, result) =>
        answer(error, result, context.callbackWaitsForEmptyEventLoop),
      );
      if (typeof (returned as PromiseLike<unknown> | undefined | null)?.then === 'function') {
        (returned as PromiseLike<unknown>).then(succeed, fail);
      } else if (!answered) {
        forget = onEmptyLoop?.(() => answer(undefined, null, false));
      }
    } catch (error) {
      answer(error, undefined, false);
    }
  });
}
