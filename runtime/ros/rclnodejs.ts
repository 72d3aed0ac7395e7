/**
 * rclnodejs, loaded so that it can do no harm. It is no dependency of ours: it is built against the ROS of its machine.
 * Without ROS in the environment, or when its addon cannot be loaded, importing it runs a rebuild that first deletes the build.
 */
import childProcess from 'node:child_process';
import { createRequire } from 'node:module';
import { AtollError } from '../errors.ts';

/** What is used of it; its own types need its generated code. */
export interface Rclnodejs {
  init(context?: unknown, argv?: readonly string[]): Promise<void>;
  shutdown(): void;
  createNode(name: string, namespace?: string): RosNode;
  removeSignalHandlers(): void;
  require(type: string): TypeClass;
  serializeMessage(message: unknown, type: TypeClass): Buffer;
  deserializeMessage(cdr: Buffer, type: TypeClass): unknown;
  readonly QoS: (new (history: number, depth: number, reliability: number, durability: number) => unknown) & {
    readonly HistoryPolicy: Readonly<Record<string, number>>;
    readonly ReliabilityPolicy: Readonly<Record<string, number>>;
    readonly DurabilityPolicy: Readonly<Record<string, number>>;
  };
  readonly Parameter: new (name: string, type: number, value: unknown) => unknown;
  readonly ParameterType: Readonly<Record<string, number>>;
  readonly ParameterDescriptor: new (
    name: string,
    type: number,
    description: string,
    readOnly: boolean,
  ) => unknown;
}

export interface TypeClass {
  new (value?: unknown): unknown;
  type?(): { pkgName: string; subFolder: string; interfaceName: string };
  readonly Request?: TypeClass;
  readonly Response?: TypeClass;
}

export interface RosNode {
  spin(): void;
  destroy(): void;
  createSubscription(
    type: TypeClass,
    topic: string,
    options: { isRaw: true; qos: unknown },
    take: (cdr: Buffer) => void,
  ): unknown;
  destroySubscription(subscription: unknown): void;
  createPublisher(type: TypeClass, topic: string, options: { qos: unknown }): RosPublisher;
  destroyPublisher(publisher: unknown): void;
  createService(
    type: string,
    service: string,
    options: object,
    take: (request: unknown, response: RosResponse) => void,
  ): unknown;
  destroyService(service: unknown): void;
  createClient(type: string, service: string, options?: object): RosClient;
  destroyClient(client: unknown): void;
  getTopicNamesAndTypes(): { name: string; types: string[] }[];
  getPublishersInfoByTopic(topic: string, noDemangle?: boolean): PublisherInfo[];
  countSubscribers(topic: string): number;
  declareParameter(parameter: unknown, descriptor?: unknown): unknown;
}

export interface PublisherInfo {
  readonly node_name: string;
  readonly node_namespace: string;
  readonly topic_type: string;
  readonly qos_profile: { readonly reliability: number; readonly durability: number };
}

export interface RosPublisher {
  readonly subscriptionCount: number;
  publish(message: Buffer): void;
}

export interface RosResponse {
  send(response: unknown): void;
}

export interface RosClient {
  isServiceServerAvailable(): boolean;
  sendRequestAsync(request: unknown, options: { timeout: number; signal?: AbortSignal }): Promise<unknown>;
}

/** The version that the tests run with. */
const version = '2.2.0';

/** @param env of this process: rclnodejs and the libraries that it loads look there, whatever is given here */
export async function loadRclnodejs(env: NodeJS.ProcessEnv): Promise<Rclnodejs> {
  for (const name of ['AMENT_PREFIX_PATH', 'ROS_DISTRO']) {
    if (!env[name])
      throw notInstalled(
        `${name} is not set: source a ROS 2 (. /opt/ros/<distro>/setup.sh), then start "faas up" again`,
      );
  }
  const require = createRequire(import.meta.url);
  const where = env['ATOLL_RCLNODEJS'] ?? 'rclnodejs';
  try {
    require.resolve(where);
  } catch {
    throw notInstalled(
      `rclnodejs is not there (${where}): with ROS sourced, run "npm install rclnodejs@${version}" in the folder of Atoll, or set ATOLL_RCLNODEJS to the folder of the module`,
    );
  }
  const refused = (command: string): never => {
    throw new Error(`"${command}" would delete its build`);
  };
  delete process.env['RCLNODEJS_FORCE_BUILD'];
  const { execSync } = childProcess;
  childProcess.execSync = ((command: string) =>
    command.includes('rebuild') ? refused(command) : execSync(command)) as typeof execSync;
  try {
    const rcl = require(where) as Rclnodejs;
    // Ours shut down in order; its own only knows SIGINT.
    rcl.removeSignalHandlers();
    // An empty list: our own arguments are not ROS's.
    await rcl.init(undefined, []);
    return rcl;
  } catch (error) {
    throw notInstalled(
      `rclnodejs (${require.resolve(where)}) cannot be loaded with ROS ${env['ROS_DISTRO']}: ${(error as Error).message}; it must be built with this ROS sourced: "npm rebuild rclnodejs"`,
    );
  } finally {
    childProcess.execSync = execSync;
  }
}

function notInstalled(message: string): AtollError {
  return new AtollError('RosNotInstalled', message);
}

/** For bytes a type's name is enough: rclnodejs's generated code is only needed where it reads fields. */
export function typeClassOf(type: string): TypeClass {
  const [pkgName = '', subFolder = '', interfaceName = ''] = type.split('/');
  const named = function (): void {} as unknown as TypeClass;
  return Object.assign(named, { type: () => ({ pkgName, subFolder, interfaceName }) });
}
