/**
 * Logs of a robot's functions, read at its hub. The hub asks over the link, and the robot sends what it has as requests,
 * each when the one before was taken: nothing piles up before a slow link or a slow reader, and each end notices that
 * the other is gone.
 */
import { createInbox, headers, type Msg, type Subscription } from '@nats-io/nats-core';
import type { NatsLink } from '../../runtime/clients/nats.ts';
import { AtollError, errorCodes, faultOf, type Code } from '../../runtime/errors.ts';
import type { Log, LogRecord } from '../../runtime/log.ts';
import type { LogQuery } from '../backends/backend.ts';
import { keyText, type Key } from '../stores/store.ts';

export const logsSubject = (robot: string): string => `robots.${robot}.stats.logs`;

/** What of the log is wanted, and of which function. */
export type LogQuestion = Key & Omit<LogQuery, 'signal' | 'onFollowing'>;

/** Lines of one message: far below what a server takes. */
const messageLength = 64 * 1024;
/** While nothing is logged, an empty message tells the hub that the robot is there. */
const aliveMs = 2_000;
const silentMs = 7_000;
/** How long the hub may leave a message unanswered: whoever reads there may have paused. */
const takenMs = 60_000;
const maxReaders = 16;
/** In the headers of the last message: empty, or the code of what went wrong, whose text is the message. */
const endHeader = 'Atoll-End';

export interface LogSource {
  /** The functions of the robot's site. */
  functions(): Promise<readonly Key[]>;
  logs(key: Key, query: LogQuery): AsyncIterable<LogRecord>;
}

/** On the robot: answers until stop(). */
export function serveLogs(options: {
  readonly link: NatsLink;
  readonly robot: string;
  readonly source: LogSource;
  readonly log: Log;
}): { stop(): void } {
  const { link, robot, source, log } = options;
  const stopping = new AbortController();
  let readers = 0;
  let subscription: Subscription | undefined;

  async function answer(message: Msg): Promise<void> {
    const { reply } = message;
    if (!reply) return;
    const gone = new AbortController();
    const signal = AbortSignal.any([stopping.signal, gone.signal]);

    async function send(text: string, end?: string): Promise<void> {
      const sent = headers();
      if (end !== undefined) sent.set(endHeader, end);
      const connection = link.current();
      if (connection === undefined) throw new Error(link.state.message);
      await connection.request(reply!, text, { timeout: takenMs, headers: sent });
    }

    readers += 1;
    try {
      const { namespace, name, ...query } = questionOf(message);
      const key = { namespace, name };
      if (readers > maxReaders) {
        throw new AtollError('TooManyRequests', `"${robot}" answers ${maxReaders} readers of logs at a time`);
      }
      await refuseUnknown(robot, key, await source.functions());
      const following = Promise.withResolvers<void>();
      const records = source.logs(key, { ...query, signal, onFollowing: following.resolve });
      await relay(records[Symbol.asyncIterator](), following.promise, send);
      await send('', '');
    } catch (error) {
      const { code = '', message: text } = faultOf(error);
      log.debug({ robot, error: text }, 'a reader of logs at the hub was given up');
      // When it is gone, nobody takes this either.
      await send(text, code).catch(() => {});
    } finally {
      readers -= 1;
      gone.abort();
    }
  }

  function listen(): void {
    const connection = link.current();
    if (connection === undefined || (subscription !== undefined && !subscription.isClosed())) return;
    subscription = connection.subscribe(logsSubject(robot), {
      callback: (error, message) => {
        if (error === null) void answer(message);
      },
    });
  }

  const stopListening = link.onState(listen);
  listen();
  return {
    stop() {
      stopping.abort();
      stopListening();
      subscription?.unsubscribe();
    },
  };
}

/** What is there already goes together; `following` says that there is nothing more for now. */
async function relay(
  records: AsyncIterator<LogRecord>,
  following: Promise<void>,
  send: (text: string) => Promise<void>,
): Promise<void> {
  let opened: Promise<void> | undefined = following;
  let next = records.next();
  try {
    for (;;) {
      let text = '';
      let result = await firstOf(next, aliveMs, opened);
      while (result !== undefined && result.done !== true) {
        text += `${JSON.stringify(result.value)}\n`;
        next = records.next();
        result = text.length < messageLength ? await firstOf(next, 0) : undefined;
      }
      if (text !== '' || result?.done !== true) await send(text);
      if (result?.done === true) return;
      opened = undefined;
    }
  } finally {
    next.catch(() => {});
    // A reader that waits for its next line ends by its signal.
    void records.return?.().catch(() => {});
  }
}

/** Undefined: nothing came within that time, or before the other did. */
async function firstOf<T>(promise: Promise<T>, ms: number, other?: Promise<void>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), ms);
  });
  try {
    return await Promise.race([promise, late, ...(other ? [other.then(() => undefined)] : [])]);
  } finally {
    clearTimeout(timer);
  }
}

function questionOf(message: Msg): LogQuestion {
  let question: Partial<LogQuestion> | null = null;
  try {
    question = message.json<Partial<LogQuestion> | null>();
  } catch {
    // As unreadable as one without a name.
  }
  const { namespace, name, since, limit, requestId, follow } = question ?? {};
  if (typeof namespace !== 'string' || typeof name !== 'string') {
    throw new AtollError('InvalidRequest', 'the question for logs names no function');
  }
  return {
    namespace,
    name,
    ...(typeof since === 'number' && { since }),
    ...(typeof limit === 'number' && { limit }),
    ...(typeof requestId === 'string' && { requestId }),
    follow: follow === true,
  };
}

async function refuseUnknown(robot: string, key: Key, functions: readonly Key[]): Promise<void> {
  if (functions.some(({ namespace, name }) => namespace === key.namespace && name === key.name)) return;
  const known = functions.map(keyText).join(', ');
  throw new AtollError(
    'FunctionNotFound',
    `there is no function ${keyText(key)} on "${robot}"; there are: ${known || 'none'}`,
  );
}

/**
 * At the hub: JSON lines, several at a time, the next when these were taken. Ends with the log, or when the signal
 * aborts; rejects with RobotAway when the robot says nothing any more, and with what the robot refused.
 */
export async function* readRobotLogs(
  link: NatsLink,
  robot: string,
  question: LogQuestion,
  signal: AbortSignal,
): AsyncGenerator<string, void, undefined> {
  const connection = link.current();
  if (connection === undefined) throw new AtollError('NatsUnavailable', link.state.message);
  const inbox = createInbox(link.inboxPrefix);
  const subscription = connection.subscribe(inbox);
  const stop = (): void => subscription.unsubscribe();
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  try {
    connection.publish(logsSubject(robot), JSON.stringify(question), { reply: inbox });
    const messages = subscription[Symbol.asyncIterator]();
    for (;;) {
      const next = await firstOf(messages.next(), silentMs);
      if (signal.aborted) return;
      if (next === undefined || next.value?.headers?.code === 503) {
        throw new AtollError('RobotAway', `"${robot}" does not answer: its link is down, or its site`);
      }
      if (next.done === true) throw new AtollError('NatsUnavailable', link.state.message);
      const message = next.value;
      const end = message.headers?.has(endHeader) ? message.headers.get(endHeader) : undefined;
      if (end !== undefined) message.respond();
      if (end === '') return;
      if (end !== undefined) throw new AtollError(codeOf(end), message.string());
      yield message.string();
      message.respond();
    }
  } finally {
    signal.removeEventListener('abort', stop);
    subscription.unsubscribe();
  }
}

/** Robots of another version may know codes that we do not. */
const codeOf = (code: string): Code => (Object.hasOwn(errorCodes, code) ? (code as Code) : 'Internal');
