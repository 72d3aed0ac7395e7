/** What handlers ask of their host: judged by the function's permissions, carried out on the host's connections. */
import type { MqttPublisher } from '../destinations.ts';
import { AtollError, errorCodes, faultOf, type Code } from '../errors.ts';
import type { CallAnswer, CallKind, HandlerCall, RosTopicCounts } from '../handler-calls.ts';
import { monotonicMs } from '../invoker/clock.ts';
import {
  detailOf,
  flagOf,
  headersOf,
  nameOf,
  qosOf,
  revisionOf,
  textOf,
  timeoutOf,
  type Detail,
} from './detail.ts';
import type { KvCalls } from './kv.ts';
import type { NatsCalls } from './nats.ts';
import { refusal, type Permissions, type Wanted } from './permissions.ts';
import { askRos, type RosCalls } from './ros.ts';

/** On whose behalf. */
export interface Caller {
  /** How many functions its event came through before this one. */
  readonly hops: number;
  /** On the monotonic clock; see invoker/clock.ts. */
  readonly deadlineMs: number;
  /** The invocation was cut off: nobody waits for an answer any more. */
  readonly signal: AbortSignal;
}

export interface Calls {
  /** Never rejects. */
  make(call: HandlerCall, caller: Caller): Promise<CallAnswer>;
}

/** The connections of a host; absent is what it has none of. */
export interface CallParts {
  readonly nats?: NatsCalls;
  readonly kv?: KvCalls;
  readonly mqtt?: MqttPublisher;
  readonly ros?: RosCalls;
  /** What spec.permissions does not name is refused, also where there are none. */
  readonly permissionsRequired: boolean;
}

export type CallOutcome = 'done' | 'refused' | 'failed';

export interface CallOptions {
  readonly parts: CallParts;
  /** Of the version that runs now. */
  permissions(): Permissions;
  /** Of the function's own triggers. */
  rosTopics?(): readonly RosTopicCounts[];
  counted?(kind: CallKind, outcome: CallOutcome): void;
}

/** One answer travels in one frame. */
const maxAnswerBytes = 15 * 1024 * 1024;
const noBytes = new Uint8Array();
const done: CallAnswer = { ok: true, detail: '', data: noBytes };

export function openCalls({ parts, permissions, rosTopics, counted }: CallOptions): Calls {
  function authorize(wanted: Wanted): void {
    const why = refusal(wanted, permissions(), parts.permissionsRequired);
    if (why !== undefined) throw new AtollError('NotAllowed', why);
  }

  async function carry(call: HandlerCall, detail: Detail, caller: Caller): Promise<CallAnswer> {
    const { kind, target, data } = call;
    switch (kind) {
      case 'nats.publish': {
        const name = nameOf('subject', target);
        authorize({ kind, to: 'nats', name });
        const nats = present(parts.nats, 'NatsUnavailable', 'this host has no NATS');
        const msgId = textOf(detail, 'msgId');
        const message = { subject: name, data, headers: headersOf(detail), hops: caller.hops + 1 };
        // Nothing to wait with here: who asked gives up by itself, and a connection that is silent ends.
        if (msgId === undefined) await nats.publish(message, caller);
        else await within(call, caller, nats.store({ ...message, msgId }, caller));
        return done;
      }
      case 'nats.request': {
        const name = nameOf('subject', target);
        authorize({ kind, to: 'nats', name });
        const nats = present(parts.nats, 'NatsUnavailable', 'this host has no NATS');
        const timeoutMs = waitOf(detail, caller);
        const message = { subject: name, data, headers: headersOf(detail), hops: caller.hops + 1 };
        const reply = await within(call, caller, nats.request(message, timeoutMs, caller));
        return { ok: true, detail: JSON.stringify({ headers: reply.headers }), data: reply.data };
      }
      case 'mqtt.publish': {
        const name = nameOf('topic', target);
        authorize({ kind, to: 'mqtt', name });
        const mqtt = present(parts.mqtt, 'MqttUnavailable', 'this host has no MQTT broker');
        const options = { qos: qosOf(detail), retain: flagOf(detail, 'retain') };
        if (data.length > maxMqttBytes) {
          throw new AtollError('TooLarge', `${data.length} bytes; ${maxMqttBytes} are allowed`);
        }
        await within(call, caller, mqtt.publish(name, data, caller.hops + 1, options));
        return done;
      }
      case 'kv.get':
      case 'kv.put':
      case 'kv.create':
      case 'kv.update':
      case 'kv.delete': {
        const bucket = nameOf('bucket', target);
        const key = nameOf('key', detail['key']);
        authorize({ kind, to: 'kv', bucket, name: key });
        const kv = present(parts.kv, 'NatsUnavailable', 'this host has no NATS');
        const revision = revisionOf(detail);
        if (kind === 'kv.update' && revision === undefined)
          throw new AtollError('InvalidRequest', 'update needs a revision');
        return await within(
          call,
          caller,
          kv.ask({ kind, bucket, key, revision, data, hops: caller.hops + 1 }, caller),
        );
      }
      case 'ros.definition': {
        const type = nameOf('ROS type', target);
        authorize({ kind, to: 'ros', name: type });
        return await within(call, caller, askRos(parts.ros, { kind, type }));
      }
      // Of itself a function may know, whatever its permissions.
      case 'ros.topics':
        return { ok: true, detail: '', data: Buffer.from(JSON.stringify(rosTopics?.() ?? [])) };
      case 'ros.call':
      case 'ros.publish': {
        const name = nameOf('ROS name', target);
        const type = nameOf('ROS type', detail['type']);
        authorize({ kind, to: 'ros', name });
        const asked = { kind, name, type, data, raw: flagOf(detail, 'raw') };
        const limits = { timeoutMs: waitOf(detail, caller), signal: caller.signal };
        return await within(call, caller, askRos(parts.ros, { ...asked, ...limits }));
      }
    }
  }

  return {
    async make(call, caller) {
      try {
        const answer = await carry(call, detailOf(call), caller);
        if (answer.ok && answer.data.length > maxAnswerBytes) {
          throw new AtollError(
            'TooLarge',
            `the answer has ${answer.data.length} bytes; ${maxAnswerBytes} fit`,
          );
        }
        counted?.(call.kind, 'done');
        return answer;
      } catch (error) {
        const answer = failure(call, error);
        counted?.(call.kind, answer.code === 'NotAllowed' ? 'refused' : 'failed');
        return answer;
      }
    },
  };
}

/** As our own servers take messages; a broker that takes less ends the connection, which is everybody's. */
const maxMqttBytes = 8 * 1024 * 1024;

/** A host without any connection. */
export const noCalls: Calls = openCalls({
  parts: { permissionsRequired: false },
  permissions: () => undefined,
});

function present<T>(part: T | undefined, code: Code, message: string): T {
  if (part === undefined) throw new AtollError(code, message);
  return part;
}

/** At its deadline an invocation is told by its signal, which must not be overtaken from here. */
const afterDeadlineMs = 1_000;

const remainingMs = ({ deadlineMs }: Caller): number =>
  Math.max(1, deadlineMs + afterDeadlineMs - monotonicMs());

/** ms that an answer may take. */
function waitOf(detail: Detail, caller: Caller): number {
  return Math.min(timeoutOf(detail) ?? Infinity, remainingMs(caller));
}

/** Not longer than the invocation: what a call occupies here is free again then. */
function within<T>({ kind, target }: HandlerCall, caller: Caller, answer: Promise<T>): Promise<T> {
  const { signal } = caller;
  return new Promise((resolve, reject) => {
    const over = (): void => {
      end();
      reject(new AtollError('RequestTimeout', `${kind} ${target}: the time of the invocation is over`));
    };
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', over);
    };
    const timer = setTimeout(over, remainingMs(caller));
    if (signal.aborted) over();
    else signal.addEventListener('abort', over, { once: true });
    answer.then(
      (value) => {
        end();
        resolve(value);
      },
      (error: unknown) => {
        end();
        reject(error as Error);
      },
    );
  });
}

/** The message begins with what was called, which is what a log of many calls is searched for. */
function failure({ kind, target }: HandlerCall, error: unknown): Extract<CallAnswer, { ok: false }> {
  const { code, message } = faultOf(error);
  const known = Object.hasOwn(errorCodes, code) ? (code as Code) : 'Internal';
  const shown = message.startsWith(kind) ? message : `${kind} ${target.slice(0, 256)}: ${message}`;
  return { ok: false, code: known, message: shown, retryable: errorCodes[known].retryable };
}
