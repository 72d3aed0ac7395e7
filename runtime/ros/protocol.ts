/**
 * Frames between the hosts of a machine and its ROS process, on a unix socket: those of runtime/invoker/protocol.ts with
 * types of their own. `id` names a subscription, a service or a call of the host that sent it, a request of the ROS process.
 */
import { FrameDecoder, FrameWriter, type FrameReader } from '../invoker/protocol.ts';

export {
  FrameDecoder,
  FrameWriter,
  jsonObject,
  ProtocolError,
  writeJson,
  type FrameReader,
} from '../invoker/protocol.ts';

/** Of one message, request or response: it has to fit into a frame, and into one of a handler process. */
export const maxMessageBytes = 15 * 1024 * 1024;

/** From a host. */
export const fromHost = {
  /** JSON: topics. */
  subscribe: 1,
  /** u32: so many messages more may come. */
  request: 2,
  /** u32: the subscription or service; the id is the call's that waits for it. */
  end: 3,
  /** JSON: service, type, failure. */
  serve: 4,
  /** CDR; the id is the request's. */
  respond: 5,
  /** JSON: code, message; the id is the request's. */
  fail: 6,
  /** service, type, f64 ms, CDR. */
  call: 7,
  /** The call is not waited for any more. */
  cancel: 8,
  /** topic, type, CDR. */
  publish: 9,
  /** A type. */
  define: 10,
} as const;

/** From the ROS process. */
export const fromRos = {
  /** JSON: what it is, or why it is none. First, once. */
  ready: 21,
  /** u32 number of a type that comes with messages or requests, its name, its definition. */
  type: 22,
  /** u32 entry, topic, u32 type, f64 ms, CDR; the id is the subscription's. */
  message: 23,
  /** JSON: RosSubscriptionStatus or RosServiceStatus. */
  status: 24,
  /** u32 service, f64 ms, CDR. */
  request: 25,
  /** What a call waited for. */
  result: 26,
  /** JSON: code, message. */
  fault: 27,
} as const;

export interface ReadyFrame {
  /** `/robot1/atoll` */
  readonly node?: string;
  readonly namespace?: string;
  readonly distro?: string;
  /** It cannot work: RosNotInstalled. */
  readonly problem?: { readonly code: string; readonly message: string };
}

/** The end of a socket that packs all frames of a tick into one write. */
export class FrameSender {
  readonly #writer = new FrameWriter();
  readonly #send: (parts: Uint8Array[]) => void;
  #scheduled = false;

  constructor(send: (parts: Uint8Array[]) => void) {
    this.#send = send;
  }

  begin(type: number, id: number): FrameWriter {
    if (!this.#scheduled) {
      this.#scheduled = true;
      process.nextTick(() => {
        this.#scheduled = false;
        this.#send(this.#writer.take());
      });
    }
    return this.#writer.begin(type, id);
  }

  json(type: number, id: number, value: unknown): void {
    this.begin(type, id).rawText(JSON.stringify(value)).end();
  }
}

export function openFrames(onFrame: (type: number, id: number, payload: FrameReader) => void): FrameDecoder {
  return new FrameDecoder(onFrame);
}
