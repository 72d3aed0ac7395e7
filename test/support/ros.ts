/** ROS 2 for a test: its environment, and peers in Python that speak to what is tested as other people's nodes would. */
import { execFile } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import type { Place } from './place.ts';
import { startProcess } from './process.ts';
import type { RunningProcess } from './process.ts';
import { requireTool } from './requirement.ts';

export interface RosEnvironmentOptions {
  /** 0–101; by default one that no other test on this machine has at the time. */
  domain?: number;
  closing?: Closing | undefined;
}

/**
 * The whole environment for a process that is to use ROS: python3 with rclpy, and Node with rclnodejs, whose folder is
 * `ATOLL_RCLNODEJS`. A domain of its own keeps tests apart, and nothing leaves loopback.
 */
export async function rosEnvironment(options: RosEnvironmentOptions = {}): Promise<NodeJS.ProcessEnv> {
  const { closing } = options;
  const installed = await installedEnvironment();
  return {
    ...installed,
    ROS_DOMAIN_ID: String(options.domain ?? (await freeDomain(closing))),
    ROS_AUTOMATIC_DISCOVERY_RANGE: 'LOCALHOST',
    // Through shared memory a process that was killed leaves files in /dev/shm that nobody removes.
    FASTDDS_BUILTIN_TRANSPORTS: 'UDPv4',
    ROS_LOG_DIR: await temporaryFolder({ closing }),
    PYTHONDONTWRITEBYTECODE: '1',
  };
}

let known: Promise<NodeJS.ProcessEnv> | undefined;

async function installedEnvironment(): Promise<NodeJS.ProcessEnv> {
  const withRos = await requireTool('ros');
  known ??= promisify(execFile)(withRos, ['env', '-0'], { maxBuffer: 16 * 1024 * 1024 }).then(({ stdout }) =>
    Object.fromEntries(
      stdout
        .split('\0')
        .filter((entry) => entry.includes('='))
        .map((entry) => [entry.slice(0, entry.indexOf('=')), entry.slice(entry.indexOf('=') + 1)]),
    ),
  );
  return known;
}

/** Above it a domain's ports reach into those that the kernel gives to whoever asks for any. */
const lastDomain = 101;
const portsOfDomain = 250;
const firstPort = 7400;

/** Held by a TCP port, which the kernel frees with the process that held it; DDS itself uses UDP only. */
async function freeDomain(closing: Closing | undefined): Promise<number> {
  const begin = process.pid % lastDomain;
  for (let tried = 0; tried < lastDomain; tried++) {
    const domain = 1 + ((begin + tried) % lastDomain);
    const server = createServer().unref();
    const held = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen({ host: '127.0.0.1', port: firstPort + portsOfDomain * domain }, () => resolve(true));
    });
    if (!held) continue;
    closeLater(async () => void server.close(), closing);
    return domain;
  }
  throw new Error(`all ${lastDomain} ROS domains of this machine are in use`);
}

export interface RosQuality {
  /** By default reliable. */
  reliability?: 'reliable' | 'best_effort';
  /** By default volatile. */
  durability?: 'volatile' | 'transient_local';
  /** How many are kept; by default 10. */
  depth?: number;
}

export interface RosPeerOptions {
  /** What `rosEnvironment()` gave: peers of one environment find one another. */
  env: NodeJS.ProcessEnv;
  /** By default "peer". */
  name?: string;
  /** Such as /robot1. */
  namespace?: string;
  /** Where no route leads elsewhere: a network namespace. */
  place?: Place;
  closing?: Closing | undefined;
}

/** What was heard on one topic, in order. */
export interface RosSubscription {
  readonly messages: readonly unknown[];
  /** The next one that nobody has taken; rejects when none came in time. */
  next(timeoutMs?: number): Promise<unknown>;
  /** Resolves when so many came, those before included. */
  count(messages: number, timeoutMs?: number): Promise<void>;
  close(): Promise<void>;
}

/**
 * A process in Python that speaks of topics. Messages are plain objects with ROS's field names: 64-bit integers that a
 * number would not hold are BigInt, byte arrays are Uint8Array, other arrays are arrays. Fields that are left out have
 * ROS's defaults.
 */
export interface DdsPeer {
  readonly process: RunningProcess;
  /** Declares the topic; `publish` needs it. */
  advertise(topic: string, type: string, quality?: RosQuality): Promise<void>;
  publish(topic: string, message: object): Promise<void>;
  /** Resolves when so many subscriptions have found the topic. */
  matched(topic: string, subscriptions?: number): Promise<void>;
  subscribe(topic: string, type: string, quality?: RosQuality): Promise<RosSubscription>;
}

/** A node of rclpy. */
export interface RosPeer extends DdsPeer {
  /** CDR with its four bytes of encapsulation. */
  publishRaw(topic: string, bytes: Uint8Array): Promise<void>;
  /** `count` messages at `hz`, with numbers from `first` on in `field`; resolves after the last. */
  burst(
    topic: string,
    options: { count: number; hz: number; field: string; first?: number; message?: object },
  ): Promise<void>;
  /** Takes back what `advertise` declared. */
  withdraw(topic: string): Promise<void>;
  /** Resolves when so many subscriptions have found the topic. */
  matched(topic: string, subscriptions?: number): Promise<void>;
  subscribe(topic: string, type: string, options?: RosQuality & { raw?: boolean }): Promise<RosSubscription>;
  /** Serves until the peer ends; what `answer` gives is the response. */
  serve(service: string, type: string, answer: (request: never) => Promise<object> | object): Promise<void>;
  /** Waits for the service, then for its answer. */
  call(service: string, type: string, request?: object, timeoutMs?: number): Promise<unknown>;
  /**
   * What another node, such as /robot1/atoll, answers rclpy's own client of parameters, by which the program `ros2 param`
   * asks. `values` are to be set.
   */
  parameters(
    node: string,
    ask: 'list' | 'get' | 'types' | 'describe' | 'set' | 'setAtomically',
    what?: { names?: string[]; values?: Record<string, string> },
  ): Promise<unknown>;
  graph(): Promise<{
    nodes: string[];
    topics: Record<string, string[]>;
    services: Record<string, string[]>;
  }>;
  publishersOf(
    topic: string,
  ): Promise<{ node: string; type: string; reliability: string; durability: string }[]>;
}

/** Shorter than a test may take: then it says what it waited for. */
const answerMs = 60_000;
const scripts = join(import.meta.dirname, '..', 'ros');

export async function startRosPeer(options: RosPeerOptions): Promise<RosPeer> {
  const { name = 'peer', namespace } = options;
  const subscriptions: Subscriptions = new Map();
  const services = new Map<string, (request: never) => Promise<object> | object>();
  const node = await startNode('peer.py', [name, ...(namespace === undefined ? [] : [namespace])], options, {
    message: distribute(subscriptions),
    request: ({ service, request, message }) => {
      const answer = services.get(service as string);
      void Promise.resolve(answer?.(message as never)).then(
        (response) => node.ask('respond', { request, message: response }),
        // Who called waits on, as with any node that has a fault; the test sees it here.
        (error: unknown) => process.stderr.write(`${name}: ${service as string}: ${String(error)}\n`),
      );
    },
  });
  return {
    ...topicsOf(node, subscriptions),
    publishRaw: async (topic, bytes) => {
      await node.ask('publish', { topic, raw: Buffer.from(bytes).toString('base64') });
    },
    burst: async (topic, burst) => {
      await node.ask('burst', { topic, ...burst }, answerMs + (burst.count / burst.hz) * 2000);
    },
    withdraw: async (topic) => void (await node.ask('withdraw', { topic })),
    serve: async (service, type, answer) => {
      services.set(service, answer);
      await node.ask('serve', { service, type });
    },
    call: (service, type, request = {}, timeoutMs = answerMs) =>
      node.ask('call', { service, type, message: request }, timeoutMs),
    parameters: (of, ask, what = {}) => node.ask('parameters', { node: of, ask, ...what }),
    graph: async () => (await node.ask('graph')) as Awaited<ReturnType<RosPeer['graph']>>,
    publishersOf: async (topic) =>
      (await node.ask('publishers_of', { topic })) as Awaited<ReturnType<RosPeer['publishersOf']>>,
  };
}

/**
 * The same topics as DDS has them, from a peer that is no ROS and shares no code with its DDS: what it understands is on
 * the wire. Names begin with a slash.
 */
export async function startDdsPeer(options: Omit<RosPeerOptions, 'namespace'>): Promise<DdsPeer> {
  const subscriptions: Subscriptions = new Map();
  const events = { message: distribute(subscriptions) };
  const node = await startNode('dds_peer.py', [], { name: 'cyclonedds', ...options }, events);
  return topicsOf(node, subscriptions);
}

type Subscriptions = Map<string, (message: unknown) => void>;

const distribute =
  (subscriptions: Subscriptions) =>
  ({ topic, message }: Line): void =>
    subscriptions.get(topic as string)?.(message);

function topicsOf(
  node: PythonNode,
  subscriptions: Subscriptions,
): Omit<DdsPeer, 'subscribe'> & Pick<RosPeer, 'subscribe'> {
  return {
    process: node.process,
    advertise: async (topic, type, qos) => void (await node.ask('advertise', { topic, type, qos })),
    publish: async (topic, message) => void (await node.ask('publish', { topic, message })),
    matched: async (topic, count = 1) => void (await node.ask('matched', { topic, count })),
    subscribe: async (topic, type, { raw = false, ...qos } = {}) => {
      const { subscription, heard } = openSubscription(topic, async () => {
        subscriptions.delete(topic);
        await node.ask('unsubscribe', { topic });
      });
      subscriptions.set(topic, heard);
      await node.ask('subscribe', { topic, type, raw, qos });
      return subscription;
    },
  };
}

export interface SimulatedRobotOptions extends RosPeerOptions {
  /** Hertz; 0: not at all. By default 20, 10, 1, 1 and 5. */
  rates?: Partial<Record<'odom' | 'scan' | 'battery' | 'diagnostics' | 'camera', number>>;
  /** Of one image; by default 20. */
  cameraKilobytes?: number;
}

/** A simulated robot (test/ros/robot.py says what it publishes and serves). */
export interface SimulatedRobot {
  readonly process: RunningProcess;
  /** Speeds that it was told by cmd_vel: metres and radians per second. */
  readonly commands: readonly { linear: number; angular: number }[];
  /** Resolves with the next one after those that were there when this was called. */
  nextCommand(timeoutMs?: number): Promise<{ linear: number; angular: number }>;
  /** `count` further messages of `numbers`, each one more than the last; resolves with how many there were in all. */
  numbers(count: number, hz: number): Promise<number>;
  /** From now on a further one so often, 0: none any more; resolves with how many there were until now. */
  pace(hz: number): Promise<number>;
  /** Resolves when so many subscriptions have found `numbers`. */
  matched(subscriptions?: number, timeoutMs?: number): Promise<void>;
  state(): Promise<{
    x: number;
    y: number;
    heading: number;
    charge: number;
    frames: number;
    numbers: number;
  }>;
}

export async function startSimulatedRobot(options: SimulatedRobotOptions): Promise<SimulatedRobot> {
  const { namespace, rates = {}, cameraKilobytes } = options;
  const commands: { linear: number; angular: number }[] = [];
  const waiting = new Set<() => void>();
  const settings = Object.entries(rates).map(([name, hz]) => [`ROBOT_${name.toUpperCase()}_HZ`, String(hz)]);
  const env = {
    ...options.env,
    ...Object.fromEntries(settings),
    ...(cameraKilobytes === undefined ? {} : { ROBOT_CAMERA_KB: String(cameraKilobytes) }),
  };
  const args = namespace === undefined ? [] : [namespace];
  const node = await startNode(
    'robot.py',
    args,
    { ...options, env, name: options.name ?? 'robot' },
    {
      cmd_vel: ({ linear, angular }) => {
        commands.push({ linear: linear as number, angular: angular as number });
        for (const look of waiting) look();
      },
    },
  );
  return {
    process: node.process,
    commands,
    nextCommand: (timeoutMs = answerMs) => {
      const index = commands.length;
      return waitFor(waiting, () => commands[index], 'no command came', timeoutMs);
    },
    numbers: async (count, hz) =>
      (await node.ask('numbers', { count, hz }, answerMs + (count / hz) * 2000)) as number,
    pace: async (hz) => (await node.ask('pace', { hz })) as number,
    matched: async (count = 1, timeoutMs = answerMs) =>
      void (await node.ask('matched', { count }, timeoutMs)),
    state: async () => (await node.ask('state')) as Awaited<ReturnType<SimulatedRobot['state']>>,
  };
}

type Line = Readonly<Record<string, unknown>>;

interface PythonNode {
  readonly process: RunningProcess;
  ask(op: string, values?: object, timeoutMs?: number): Promise<unknown>;
}

/** Of a script in test/ros that speaks JSON lines (lines.py). */
async function startNode(
  script: string,
  args: readonly string[],
  { env, name = script, place, closing }: RosPeerOptions,
  events: Readonly<Record<string, (line: Line) => void>>,
): Promise<PythonNode> {
  const asked = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  const launch = { command: 'python3', args: [join(scripts, script), ...args] };
  const { command, args: all } = place?.enter(launch) ?? launch;
  const running = await startProcess(command, all, {
    name,
    env,
    input: true,
    ...(closing === undefined ? {} : { closing }),
    onLine: (text) => {
      if (!text.startsWith('{')) return;
      const line = parsed(text);
      if (typeof line['event'] === 'string') return events[line['event']]?.(line);
      const waiting = asked.get(line['id'] as number);
      asked.delete(line['id'] as number);
      if (typeof line['error'] === 'string') waiting?.reject(new Error(`${name}: ${line['error']}`));
      else waiting?.resolve(line['value']);
    },
  });
  await running.line(/"event": "ready"/);
  let last = 0;
  return {
    process: running,
    ask: async (op, values = {}, timeoutMs = answerMs) => {
      const id = ++last;
      const answer = Promise.withResolvers<unknown>();
      asked.set(id, answer);
      const timer = setTimeout(() => {
        answer.reject(
          new Error(
            `${name}: no answer to ${op} in ${timeoutMs} ms. It wrote:\n${running.stderr().trimEnd()}`,
          ),
        );
      }, timeoutMs);
      void running.exited.then(({ code, signal }) => {
        answer.reject(
          new Error(`${name} ended (${signal ?? code}) before it answered ${op}:\n${running.stderr()}`),
        );
      });
      running.write(`${unparsed({ ...values, op, id })}\n`);
      try {
        return await answer.promise;
      } finally {
        clearTimeout(timer);
        asked.delete(id);
      }
    },
  };
}

function openSubscription(
  topic: string,
  close: () => Promise<void>,
): { subscription: RosSubscription; heard(message: unknown): void } {
  const messages: unknown[] = [];
  const waiting = new Set<() => void>();
  let taken = 0;
  const none = (): string => `${topic}: ${messages.length} messages came`;
  return {
    heard: (message) => {
      messages.push(message);
      for (const look of waiting) look();
    },
    subscription: {
      messages,
      next: async (timeoutMs = answerMs) => {
        const index = taken++;
        return await waitFor(waiting, () => messages[index], none, timeoutMs);
      },
      count: async (wanted, timeoutMs = answerMs) => {
        await waitFor(waiting, () => (messages.length >= wanted ? true : undefined), none, timeoutMs);
      },
      close,
    },
  };
}

async function waitFor<T>(
  waiting: Set<() => void>,
  look: () => T | undefined,
  failure: string | (() => string),
  timeoutMs: number,
): Promise<T> {
  const found = Promise.withResolvers<T>();
  const once = (): void => {
    const value = look();
    if (value !== undefined) found.resolve(value);
  };
  const timer = setTimeout(() => {
    const text = typeof failure === 'string' ? failure : failure();
    found.reject(new Error(`${text} in ${timeoutMs} ms`));
  }, timeoutMs);
  waiting.add(once);
  once();
  try {
    return await found.promise;
  } finally {
    clearTimeout(timer);
    waiting.delete(once);
  }
}

/** What Node has and TypeScript's libraries do not yet know of. */
const exact = JSON as unknown as {
  parse(
    text: string,
    revive: (key: string, value: unknown, context: { source?: string }) => unknown,
  ): unknown;
  rawJSON(text: string): unknown;
};

/** The counterpart of test/ros/messages.py. */
function parsed(text: string): Line {
  return exact.parse(text, (_key, value, { source }) => {
    if (typeof value === 'number' && !Number.isSafeInteger(value) && /^-?\d+$/.test(source ?? '')) {
      return BigInt(source ?? '');
    }
    if (typeof value !== 'object' || value === null) return value;
    if ('$base64' in value) return new Uint8Array(Buffer.from(value.$base64 as string, 'base64'));
    if ('$float' in value) return Number(value.$float);
    return value;
  }) as Line;
}

function unparsed(value: unknown): string {
  return JSON.stringify(value, function (this: Line, key) {
    // Not the second argument: of a Buffer that is already what its toJSON made of it.
    const one = this[key];
    if (typeof one === 'bigint') return exact.rawJSON(one.toString());
    if (typeof one === 'number' && !Number.isFinite(one)) return { $float: String(one) };
    if (one instanceof Uint8Array) return { $base64: Buffer.from(one).toString('base64') };
    if (ArrayBuffer.isView(one)) return [...(one as unknown as Iterable<unknown>)];
    return one;
  });
}
