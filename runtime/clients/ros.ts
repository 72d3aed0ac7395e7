/** What the host knows of ROS 2: a link to the ROS process of its machine. See docs/reference/ros.md. */
import { connect, type Socket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { RosSettings } from '../config.ts';
import { AtollError, errorCodes, type Code } from '../errors.ts';
import type { EventSchema } from '../event.ts';
import type { Log } from '../log.ts';
import { codecOf } from '../ros/message.ts';
import {
  FrameSender,
  fromHost,
  fromRos,
  jsonObject,
  maxMessageBytes,
  openFrames,
  type FrameReader,
  type ReadyFrame,
} from '../ros/protocol.ts';

/** Between attempts to reach a process that is being started. */
const retryMs = { min: 50, max: 1_000 };
const notThere =
  'nobody listens on its socket (it is started with the first function that has a ros trigger or a permission for ROS, or by "faas up --ros")';
/** The process ends a call by itself; beyond this it hangs. */
const overdueMs = 5_000;

/**
 * A link that may be down and comes up again by itself. What needs it meanwhile fails with RosUnavailable; subscriptions
 * and services are made anew.
 */
export interface RosLink {
  readonly state: RosState;
  /** At each change. Returns how to hear no more of them. */
  onState(listener: (state: RosState) => void): () => void;

  /**
   * Calls a ROS service; resolves with the response message as a plain object: numbers, booleans, strings, bigint for
   * 64-bit integers, typed arrays for arrays of numbers, `{ sec, nanosec }` for time and duration. Rejects with AtollError
   * RosUnavailable, RosTypeNotFound, RosServiceUnavailable (nobody serves it) or RosTimeout, with TypeError where the request
   * is not of the type, and with the signal's reason.
   * @param service `/name`, or `name` in the namespace of the site
   * @param type `std_srvs/srv/Trigger`
   */
  call(
    service: string,
    type: string,
    request: unknown,
    options: { timeoutMs: number; signal?: AbortSignal },
  ): Promise<unknown>;

  /**
   * Resolves when the ROS process has handed it to the middleware. Publishers are made at the first message of a topic and kept.
   * @param message a plain object of the message's fields (what is left out has its default), or a Uint8Array: its CDR
   * bytes with the encapsulation header of four bytes
   */
  publish(topic: string, type: string, message: unknown): Promise<void>;

  /**
   * The text of the definition with all types that it uses, as MCAP's schema encoding `ros2msg` has it: parts separated by a
   * line of 80 `=` and a line `MSG: pkg/Name`. Of a service: `<pkg>/srv/<Name>_Request` and `<Name>_Response`. Rejects with
   * RosTypeNotFound, whose message names the package to install.
   */
  definition(type: string): Promise<string>;

  subscribe(options: RosSubscriptionOptions): RosSubscription;
  /** The newest one that serves a name gets its requests. */
  serve(options: RosServiceOptions): RosService;
  close(): Promise<void>;
}

export interface RosState {
  readonly connected: boolean;
  /** `Ready`, or an error code: RosUnavailable, RosNotInstalled. */
  readonly reason: string;
  readonly message: string;
}

export interface RosTopicSpec {
  /** A topic's name; with `*` (one level) or `**` (any number) a pattern. Without a slash first: in the namespace. */
  readonly match: string;
  /** Default: what its publishers say. */
  readonly type?: string | undefined;
  /** Per topic. 0: all of them. */
  readonly maxHz: number;
  /** Messages of one topic that wait in the ROS process for somebody who takes them; older ones give way. */
  readonly keepLast: number;
  readonly qos: RosQos;
  readonly exclude?: readonly string[] | undefined;
}

/** `auto`: the strongest that all publishers offer. `transient_local`: reliable, with what was published before. */
export type RosQos = 'auto' | 'reliable' | 'best_effort' | 'transient_local';

export interface RosSubscriptionOptions {
  readonly topics: readonly RosTopicSpec[];
  onMessage(message: RosMessage): void;
  /** What the ROS process has found for each entry of `topics`; at each change. */
  onStatus(status: RosSubscriptionStatus): void;
}

export interface RosMessage {
  /** Index in `topics` of the entry that took it. */
  readonly entry: number;
  readonly topic: string;
  readonly type: string;
  /** What decodes it. */
  readonly schema: EventSchema;
  /** When the ROS process got it, ms since the epoch. */
  readonly time: number;
  /** CDR with its encapsulation header of four bytes; the receiver's to keep. */
  readonly data: Uint8Array;
}

export interface RosSubscription {
  /** So many messages more may come. Nothing comes unasked: what is not taken waits, `keepLast` of each topic. */
  request(messages: number): void;
  close(): Promise<void>;
}

export interface RosSubscriptionStatus {
  readonly topics: readonly RosTopicStatus[];
}

export interface RosTopicStatus {
  readonly entry: number;
  readonly topic: string;
  readonly type?: string;
  /** `best effort, volatile` of the subscription; absent without one. */
  readonly qos?: string;
  readonly publishers: number;
  /** Why there is none: RosTypeNotFound, RosTypeMismatch. */
  readonly problem?: { readonly code: string; readonly message: string };
  /** Since the subscription was made: messages that came, were held back by maxHz, gave way to newer ones, were too big. */
  readonly received: number;
  readonly filtered: number;
  readonly replaced: number;
  readonly tooLarge: number;
}

export interface RosServiceOptions {
  readonly service: string;
  readonly type: string;
  /** What a caller gets when nobody can answer: fields of the response, `{code}` and `{message}` in texts. */
  readonly failure: Readonly<Record<string, string>>;
  onRequest(request: RosRequest): void;
  onStatus(status: RosServiceStatus): void;
}

export interface RosServiceStatus {
  readonly ready: boolean;
  /** `Ready`, or an error code. */
  readonly code: string;
  readonly message: string;
}

export interface RosRequest {
  /** CDR of the request message. */
  readonly data: Uint8Array;
  /** What decodes it, and encodes the response. */
  readonly schema: EventSchema;
  readonly time: number;
  /** Aborted when the ROS process, and with it the caller's question, is gone. */
  readonly signal: AbortSignal;
  /** CDR of the response message; only the first answer counts. Throws where it is none: nothing is answered then. */
  respond(response: Uint8Array): void;
  /** The response's fields for a failure are filled in. */
  fail(fault: { readonly code: string; readonly message: string }): void;
}

export interface RosService {
  close(): Promise<void>;
}

export interface RosOptions {
  readonly log: Log;
}

export function openRos(settings: RosSettings, { log }: RosOptions): RosLink {
  const listeners = new Set<(state: RosState) => void>();
  const closing = new AbortController();
  const subscriptions = new Map<number, RosSubscriptionOptions & { asked: number }>();
  const services = new Map<number, RosServiceOptions>();
  const calls = new Map<number, { resolve(result: Buffer): void; reject(error: unknown): void }>();
  /** Of this connection: types by their numbers, and their texts by name. */
  const types = new Map<number, { type: string; definition: string }>();
  const definitions = new Map<string, Promise<string>>();
  /** The same object for the same texts, by which a handler process knows what it has. */
  const schemas = new Map<string, EventSchema>();
  const schemaOfService = new Map<number, EventSchema>();
  /** Aborted when the connection, and every request that came on it, is lost. */
  let connection = new AbortController();
  let socket: Socket | undefined;
  let lastId = 0;
  let state: RosState =
    'missing' in settings
      ? { connected: false, reason: 'RosNotInstalled', message: settings.missing }
      : { connected: false, reason: 'RosUnavailable', message: 'connecting to the ROS process' };

  const sender = new FrameSender((parts) => {
    if (socket === undefined || !socket.writable) return;
    socket.cork();
    for (const part of parts) socket.write(part);
    socket.uncork();
  });

  function become(next: RosState): void {
    if (next.reason === state.reason && next.message === state.message) return;
    state = next;
    for (const listener of listeners) listener(next);
  }

  async function run(path: string): Promise<void> {
    for (let failures = 0; !closing.signal.aborted; failures++) {
      const why = await once(path).catch((error: NodeJS.ErrnoException) =>
        error.code === 'ENOENT' || error.code === 'ECONNREFUSED' ? notThere : error.message,
      );
      if (state.connected) {
        failures = 0;
        log.warn({ error: why }, 'the ROS process is gone');
      }
      lost(why);
      const step = Math.min(retryMs.max, retryMs.min * 2 ** failures);
      await pause(step * (0.5 + Math.random() / 2), undefined, { signal: closing.signal, ref: false }).catch(
        () => {},
      );
    }
  }

  /** One connection; resolves with what ended it. */
  async function once(path: string): Promise<string> {
    const mine = connect(path);
    closing.signal.addEventListener('abort', () => mine.destroy(), { signal: connection.signal });
    let failure: Error | undefined;
    const decoder = openFrames((type, id, payload) => take(type, id, payload));
    mine.on('connect', () => (socket = mine));
    mine.on('data', (chunk: Buffer) => {
      try {
        decoder.push(chunk);
      } catch (error) {
        failure = error as Error;
        mine.destroy();
      }
    });
    mine.on('error', (error) => (failure = error));
    await new Promise<void>((resolve) => mine.once('close', () => resolve()));
    if (failure !== undefined) throw failure;
    return 'it ended';
  }

  function lost(why: string): void {
    socket = undefined;
    connection.abort();
    connection = new AbortController();
    types.clear();
    definitions.clear();
    schemaOfService.clear();
    const gone = new AtollError('RosUnavailable', `the ROS process is not running: ${why}`);
    for (const { reject } of calls.values()) reject(gone);
    calls.clear();
    if (!closing.signal.aborted && state.reason !== 'RosNotInstalled') {
      become({ connected: false, reason: gone.code, message: gone.message });
    }
  }

  function take(type: number, id: number, payload: FrameReader): void {
    if (type === fromRos.message) return takeMessage(id, payload);
    if (type === fromRos.request) return takeRequest(id, payload);
    if (type === fromRos.result) return settled(id)?.resolve(Buffer.from(payload.rest()));
    if (type === fromRos.fault) {
      const { code, message } = jsonObject(payload.restText());
      return settled(id)?.reject(errorOf(String(code), String(message)));
    }
    if (type === fromRos.type) {
      const number = payload.u32();
      types.set(number, { type: payload.string(), definition: payload.restText() });
    } else if (type === fromRos.status) takeStatus(id, jsonObject(payload.restText()));
    else if (type === fromRos.ready) welcome(jsonObject(payload.restText()) as ReadyFrame);
  }

  function welcome({ problem, node, distro }: ReadyFrame): void {
    if (problem !== undefined)
      return become({ connected: false, reason: problem.code, message: problem.message });
    for (const [id, options] of subscriptions) openSubscription(id, options);
    for (const [id, options] of services) offer(id, options);
    become({ connected: true, reason: 'Ready', message: `node ${node} of ROS ${distro}` });
  }

  function takeMessage(id: number, payload: FrameReader): void {
    const [entry, topic, number, time] = [payload.u32(), payload.string(), payload.u32(), payload.f64()];
    const known = types.get(number);
    const options = subscriptions.get(id);
    if (options === undefined || known === undefined) return;
    options.asked -= 1;
    const { type, definition } = known;
    const data = Buffer.from(payload.rest());
    options.onMessage({ entry, topic, type, schema: schemaOf({ type, definition }), time, data });
  }

  function takeRequest(id: number, payload: FrameReader): void {
    const [service, time] = [payload.u32(), payload.f64()];
    const options = services.get(service);
    const schema = schemaOfService.get(service);
    if (options === undefined || schema === undefined) {
      return sender.json(fromHost.fail, id, { code: 'HostUnavailable', message: 'the service was given up' });
    }
    const { signal } = connection;
    let open = true;
    options.onRequest({
      data: Buffer.from(payload.rest()),
      schema,
      time,
      signal,
      respond(response) {
        if (!open || signal.aborted) return;
        // A handler process may send any bytes, and native code is to read them: only what we wrote goes there.
        const { type, definition } = schema.response!;
        const codec = codecOf(definition, type);
        const bytes = codec.encode(codec.decode(response));
        open = false;
        sender.begin(fromHost.respond, id).raw(bytes).end();
      },
      fail({ code, message }) {
        if (!open || signal.aborted) return;
        open = false;
        sender.json(fromHost.fail, id, { code, message });
      },
    });
  }

  function takeStatus(id: number, status: Record<string, unknown>): void {
    subscriptions.get(id)?.onStatus(status as unknown as RosSubscriptionStatus);
    const service = services.get(id);
    if (service === undefined) return;
    const { request, response, ...told } = status as unknown as RosServiceStatus & {
      request?: number;
      response?: number;
    };
    const [asked, answered] = [types.get(request ?? 0), types.get(response ?? 0)];
    if (asked !== undefined && answered !== undefined) schemaOfService.set(id, schemaOf(asked, answered));
    service.onStatus(told);
  }

  function schemaOf(
    message: { type: string; definition: string },
    response?: { type: string; definition: string },
  ): EventSchema {
    const key = `${message.type}\n${message.definition}\n${response?.definition ?? ''}`;
    let schema = schemas.get(key);
    if (schema === undefined) {
      schema = { ...message, ...(response && { response }) };
      schemas.set(key, schema);
    }
    return schema;
  }

  function settled(id: number): { resolve(result: Buffer): void; reject(error: unknown): void } | undefined {
    const call = calls.get(id);
    calls.delete(id);
    return call;
  }

  const nextId = (): number => (lastId = (lastId + 1) >>> 0 || 1);

  /** `write` fills in the frame of that id. */
  function ask(write: (id: number) => void): Promise<Buffer> {
    if (!state.connected) return Promise.reject(errorOf(state.reason, state.message));
    const id = nextId();
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
    calls.set(id, { resolve, reject });
    write(id);
    return promise;
  }

  function define(type: string): Promise<string> {
    let text = definitions.get(type);
    if (text === undefined) {
      text = ask((id) => sender.begin(fromHost.define, id).rawText(type).end()).then((bytes) =>
        bytes.toString(),
      );
      definitions.set(type, text);
      text.catch(() => definitions.delete(type));
    }
    return text;
  }

  function openSubscription(id: number, options: RosSubscriptionOptions & { asked: number }): void {
    sender.json(fromHost.subscribe, id, { topics: options.topics });
    if (options.asked > 0) sender.begin(fromHost.request, id).u32(options.asked).end();
  }

  function offer(id: number, { service, type, failure }: RosServiceOptions): void {
    sender.json(fromHost.serve, id, { service, type, failure });
  }

  async function end(which: number): Promise<void> {
    await ask((id) => sender.begin(fromHost.end, id).u32(which).end()).catch(() => {});
  }

  const running = 'socket' in settings ? run(settings.socket) : Promise.resolve();

  return {
    get state() {
      return state;
    },
    onState(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async call(service, type, request, { timeoutMs, signal }) {
      const bytes = codecOf(await define(`${type}_Request`), `${type}_Request`).encode(request);
      const response = codecOf(await define(`${type}_Response`), `${type}_Response`);
      fits(bytes, `the request to ${service}`);
      signal?.throwIfAborted();
      let mine = 0;
      const answer = ask((id) => {
        mine = id;
        sender.begin(fromHost.call, id).string(service).string(type).f64(timeoutMs).raw(bytes).end();
      });
      const overdue = setTimeout(() => {
        settled(mine)?.reject(
          new AtollError('RosTimeout', `${service} did not answer within ${timeoutMs} ms`),
        );
      }, timeoutMs + overdueMs);
      const abort = (): void => {
        const call = settled(mine);
        if (call === undefined) return;
        sender.begin(fromHost.cancel, mine).end();
        call.reject(signal!.reason);
      };
      signal?.addEventListener('abort', abort);
      try {
        return response.decode(await answer);
      } finally {
        clearTimeout(overdue);
        signal?.removeEventListener('abort', abort);
      }
    },
    async publish(topic, type, message) {
      const bytes =
        message instanceof Uint8Array ? message : codecOf(await define(type), type).encode(message);
      if (bytes.length < 4)
        throw new TypeError(`${bytes.length} bytes are no CDR message: it begins with a header of 4`);
      fits(bytes, `the message to ${topic}`);
      await ask((id) => sender.begin(fromHost.publish, id).string(topic).string(type).raw(bytes).end());
    },
    definition: define,
    subscribe(options) {
      const id = nextId();
      const mine = { ...options, asked: 0 };
      subscriptions.set(id, mine);
      if (state.connected) openSubscription(id, mine);
      return {
        request(messages) {
          mine.asked += messages;
          if (state.connected) sender.begin(fromHost.request, id).u32(messages).end();
        },
        async close() {
          subscriptions.delete(id);
          await end(id);
        },
      };
    },
    serve(options) {
      const id = nextId();
      services.set(id, options);
      if (state.connected) offer(id, options);
      return {
        async close() {
          await end(id);
          services.delete(id);
          schemaOfService.delete(id);
        },
      };
    },
    async close() {
      closing.abort();
      socket?.destroy();
      await running;
      listeners.clear();
    },
  };
}

function fits(bytes: Uint8Array, what: string): void {
  if (bytes.length <= maxMessageBytes) return;
  throw new AtollError('TooLarge', `${what} has ${bytes.length} bytes; ${maxMessageBytes} are allowed`);
}

function errorOf(code: string, message: string): AtollError {
  return new AtollError(Object.hasOwn(errorCodes, code) ? (code as Code) : 'RosUnavailable', message);
}
