/** One NATS connection of a process: opened also while the server is away, reconnecting for ever. */
import type { NatsConnection } from '@nats-io/transport-node';
import type { NatsSettings } from '../config.ts';
import type { Log } from '../log.ts';

export interface LinkState {
  readonly connected: boolean;
  /** Why not, with the server's address. */
  readonly message: string;
}

export interface NatsLink {
  /** Resolves with the first connection; rejects only after close(). The same object survives reconnects. */
  connection(): Promise<NatsConnection>;
  /** The connection when it is up at this moment. */
  current(): NatsConnection | undefined;
  readonly state: LinkState;
  /** Called at each change (not at once). Returns the way to stop listening. */
  onState(listener: (state: LinkState) => void): () => void;
  close(): Promise<void>;
}

export declare function openNats(
  settings: NatsSettings,
  options: { name: string; site: string; log: Log },
): NatsLink;
