/** The ROS process: one node for all functions of a machine, and a socket on which their hosts ask for what they need of it. */
import { chmod, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import type { RosProcessConfig } from '../config.ts';
import { AtollError, faultOf } from '../errors.ts';
import type { RosServiceStatus, RosTopicSpec } from '../clients/ros.ts';
import type { Log } from '../log.ts';
import { openCalls, type Calls } from './calls.ts';
import { openDefinitions, type Definitions } from './definitions.ts';
import {
  FrameSender,
  fromHost,
  fromRos,
  jsonObject,
  openFrames,
  ProtocolError,
  type FrameReader,
  type ReadyFrame,
} from './protocol.ts';
import { loadRclnodejs, type Rclnodejs, type RosNode } from './rclnodejs.ts';
import { openServices, type ServiceAnswer, type ServiceOffer, type Services } from './services.ts';
import { openTopics, type Topics } from './topics.ts';

const nodeName = 'atoll';
/** Nobody but us may speak as this site. */
const socketMode = 0o600;

export interface RosProcess {
  readonly ready: ReadyFrame;
  /** Answers who waits, leaves ROS, closes the socket. Without it Jazzy crashes at the exit. */
  close(): Promise<void>;
}

interface Ros {
  readonly rcl: Rclnodejs;
  readonly node: RosNode;
  readonly definitions: Definitions;
  readonly topics: Topics;
  readonly services: Services;
  readonly calls: Calls;
}

/** A machine without ROS has a process, too: it says to each host what is missing. */
export async function startRosProcess(config: RosProcessConfig, log: Log): Promise<RosProcess> {
  const { namespace = '/' } = config;
  const distro = process.env['ROS_DISTRO'] ?? '';
  let ros: Ros | undefined;
  let ready: ReadyFrame;
  try {
    ros = await openRos(config, log);
    ready = { node: `${namespace === '/' ? '' : namespace}/${nodeName}`, namespace, distro };
  } catch (error) {
    const { code, message } = faultOf(error);
    log.error({ code, error: message }, 'ROS is not there');
    ready = { problem: { code: error instanceof AtollError ? code : 'RosNotInstalled', message } };
  }
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    serve(socket, ready, ros, log);
  });
  await listen(server, config.socket);
  return {
    ready,
    async close() {
      ros?.services.close();
      // What was just answered is on its way: nothing is sent later than the next tick.
      await new Promise((resolve) => setImmediate(resolve));
      for (const socket of sockets) socket.destroy();
      server.close();
      leave(ros);
      await rm(config.socket, { force: true });
    },
  };
}

async function openRos({ site, namespace = '/' }: RosProcessConfig, log: Log): Promise<Ros> {
  const { env } = process;
  const rcl = await loadRclnodejs(env);
  const node = rcl.createNode(nodeName, namespace);
  const definitions = openDefinitions(env['AMENT_PREFIX_PATH'] ?? '', env['ROS_DISTRO'] ?? '');
  // Told to `ros2 param`: who this is.
  for (const [name, value, description] of [
    ['site', site, 'Name of the Atoll site'],
    ['namespace', namespace, 'Where names without a slash first are'],
  ] as const) {
    const { PARAMETER_STRING: text } = rcl.ParameterType;
    node.declareParameter(
      new rcl.Parameter(name, text!, value),
      new rcl.ParameterDescriptor(name, text!, description, true),
    );
  }
  const parts = { rcl, node, definitions, namespace };
  const ros = {
    rcl,
    node,
    definitions,
    topics: openTopics({ ...parts, log }),
    services: openServices({ ...parts, log }),
    calls: openCalls(parts),
  };
  node.spin();
  return ros;
}

function leave(ros: Ros | undefined): void {
  if (ros === undefined) return;
  ros.topics.close();
  ros.calls.close();
  ros.node.destroy();
  ros.rcl.shutdown();
}

async function listen(server: Server, path: string): Promise<void> {
  // Of a process that was killed.
  await rm(path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  await chmod(path, socketMode);
}

/** One host, from its connection to its end. */
function serve(socket: Socket, ready: ReadyFrame, ros: Ros | undefined, log: Log): void {
  const sender = new FrameSender((parts) => {
    if (!socket.writable) return;
    socket.cork();
    for (const part of parts) socket.write(part);
    socket.uncork();
  });
  const open = new Map<number, { close(): void; request?(messages: number): void }>();
  const answers = new Map<number, ServiceAnswer>();
  const running = new Map<number, AbortController>();
  const types = new Map<string, number>();
  let lastRequest = 0;

  /** A host needs the definition before the first message. */
  function typeNumber(type: string): number {
    let number = types.get(type);
    if (number === undefined) {
      // First: a frame that is begun has to be ended.
      const definition = ros!.definitions.text(type);
      number = types.size + 1;
      types.set(type, number);
      sender.begin(fromRos.type, 0).u32(number).string(type).rawText(definition).end();
    }
    return number;
  }

  function settle(id: number, work: Promise<Uint8Array | string | void>): void {
    work
      .then(
        (result) => {
          const frame = sender.begin(fromRos.result, id);
          if (typeof result === 'string') frame.rawText(result);
          else if (result !== undefined) frame.raw(result);
          frame.end();
        },
        (error: unknown) => {
          const { code, message } = faultOf(error);
          sender.json(fromRos.fault, id, { code, message });
        },
      )
      .finally(() => running.delete(id));
  }

  function take(type: number, id: number, payload: FrameReader): void {
    if (ros === undefined) throw new ProtocolError('there is no ROS here');
    if (type === fromHost.subscribe) {
      const { topics } = jsonObject(payload.restText()) as unknown as { topics: RosTopicSpec[] };
      const subscription = ros.topics.subscribe(topics, {
        message: ({ entry, topic, type, time, data }) => {
          const number = typeNumber(type);
          sender.begin(fromRos.message, id).u32(entry).string(topic).u32(number).f64(time).raw(data).end();
        },
        status: (status) => sender.json(fromRos.status, id, status),
      });
      open.set(id, subscription);
    } else if (type === fromHost.request) {
      open.get(id)?.request?.(payload.u32());
    } else if (type === fromHost.serve) {
      const offer = jsonObject(payload.restText()) as unknown as Pick<
        ServiceOffer,
        'service' | 'type' | 'failure'
      >;
      open.set(id, ros.services.serve(offerOf(id, offer)));
    } else if (type === fromHost.end) {
      const which = payload.u32();
      open.get(which)?.close();
      open.delete(which);
      settle(id, Promise.resolve());
    } else if (type === fromHost.respond) {
      const answer = answers.get(id);
      answers.delete(id);
      answer?.respond(Buffer.from(payload.rest()));
    } else if (type === fromHost.fail) {
      const { code, message } = jsonObject(payload.restText());
      const answer = answers.get(id);
      answers.delete(id);
      answer?.fail({ code: String(code), message: String(message) });
    } else if (type === fromHost.call) {
      const [service, name, timeoutMs] = [payload.string(), payload.string(), payload.f64()];
      const controller = new AbortController();
      running.set(id, controller);
      const { signal } = controller;
      settle(id, ros.calls.call(service, name, Buffer.from(payload.rest()), { timeoutMs, signal }));
    } else if (type === fromHost.cancel) {
      running.get(id)?.abort();
    } else if (type === fromHost.publish) {
      settle(id, ros.calls.publish(payload.string(), payload.string(), Buffer.from(payload.rest())));
    } else if (type === fromHost.define) {
      const name = payload.restText();
      settle(id, new Promise((resolve) => resolve(ros.definitions.text(name))));
    } else {
      throw new ProtocolError(`unexpected frame of type ${type}`);
    }
  }

  function offerOf(id: number, offer: Pick<ServiceOffer, 'service' | 'type' | 'failure'>): ServiceOffer {
    return {
      ...offer,
      take(request, time, answer) {
        const number = (lastRequest = (lastRequest + 1) >>> 0 || 1);
        answers.set(number, answer);
        sender.begin(fromRos.request, number).u32(id).f64(time).raw(request).end();
      },
      status(status) {
        // With the definitions, so that requests can be decoded from the first on.
        const numbers = status.ready
          ? { request: typeNumber(`${offer.type}_Request`), response: typeNumber(`${offer.type}_Response`) }
          : {};
        sender.json(fromRos.status, id, { ...status, ...numbers } satisfies RosServiceStatus);
      },
    };
  }

  const decoder = openFrames((type, id, payload) => {
    try {
      take(type, id, payload);
    } catch (error) {
      if (error instanceof ProtocolError) throw error;
      const { code, message } = faultOf(error);
      log.error({ err: error }, 'a frame of a host could not be handled');
      sender.json(fromRos.fault, id, { code, message });
    }
  });
  socket.on('data', (chunk: Buffer) => {
    try {
      decoder.push(chunk);
    } catch (error) {
      log.error({ err: error }, 'a host sent what is no frame');
      socket.destroy();
    }
  });
  socket.on('error', () => {});
  socket.once('close', () => {
    for (const one of open.values()) one.close();
    for (const controller of running.values()) controller.abort();
    for (const answer of answers.values()) {
      answer.fail({ code: 'HostUnavailable', message: 'the host of the function ended before it answered' });
    }
  });
  sender.json(fromRos.ready, 0, ready);
}
