/** ROS for handlers, over the process that has its environment. */
import type { RosLink } from '../clients/ros.ts';
import { AtollError } from '../errors.ts';
import { CallError, rosText, rosValue, type CallAnswer } from '../handler-calls.ts';

/** What is used of the ROS process. */
export type RosCalls = Pick<RosLink, 'call' | 'publish' | 'definition'>;

export type RosQuestion =
  | { readonly kind: 'ros.definition'; readonly type: string }
  | {
      readonly kind: 'ros.call' | 'ros.publish';
      readonly name: string;
      readonly type: string;
      readonly data: Uint8Array;
      /** `data` is CDR instead of text. */
      readonly raw: boolean;
      readonly timeoutMs: number;
      readonly signal: AbortSignal;
    };

const noBytes = new Uint8Array();

/** Rejects with AtollError, and with what the ROS process says. */
export async function askRos(ros: RosCalls | undefined, question: RosQuestion): Promise<CallAnswer> {
  if (ros === undefined) {
    throw new AtollError(
      'RosNotInstalled',
      'this site has no ROS: install ROS 2 and rclnodejs, source its setup file, and start the site again',
    );
  }
  if (question.kind === 'ros.definition') {
    return { ok: true, detail: '', data: Buffer.from(await ros.definition(question.type)) };
  }
  const { kind, name, type, data, raw, timeoutMs, signal } = question;
  const message = raw ? Buffer.from(data) : valueOf(data);
  try {
    if (kind === 'ros.publish') {
      await ros.publish(name, type, message);
      return { ok: true, detail: '', data: noBytes };
    }
    const response = await ros.call(name, type, message, { timeoutMs, signal });
    return { ok: true, detail: '', data: Buffer.from(rosText(response)) };
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new AtollError('InvalidRequest', `the message is no ${type}: ${error.message}`, { cause: error });
  }
}

/** User code shares the process that made the text. */
function valueOf(data: Uint8Array): unknown {
  try {
    return rosValue(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString());
  } catch (error) {
    if (error instanceof CallError) throw error;
    throw new AtollError('InvalidRequest', `the message cannot be read: ${(error as Error).message}`);
  }
}
