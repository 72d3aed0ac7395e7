/** `globalThis.awslambda`: what Lambda's runtime puts there, and its libraries look for. One object, made here alone. */
import { invokeStore } from './invoke-store.ts';
import { responseStreaming } from './response-stream.ts';

/** Before the handler module is imported: libraries look at it once, as they are loaded. */
export function provideAwsLambda(): void {
  (globalThis as Record<string, unknown>)['awslambda'] = { InvokeStore: invokeStore, ...responseStreaming };
}
