import { mkdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Closing } from './closing.ts';
import { temporaryFolder } from './folder.ts';
import type { Place } from './place.ts';
import { freePort } from './ports.ts';
import { requireTool } from './requirement.ts';
import { startServer, withFacts } from './server.ts';
import type { Server } from './server.ts';

export interface MosquittoOptions {
  /** A free one by default. */
  port?: number;
  /** Kept at the end; by default a temporary folder. */
  storeDir?: string;
  /** Further lines for the configuration file, in mosquitto's own syntax. */
  config?: string;
  /** Loopback by default. */
  place?: Place;
  closing?: Closing;
}

export interface MosquittoServer extends Server {
  readonly url: string;
  readonly port: number;
  readonly storeDir: string;
}

/**
 * mosquitto that keeps all it accepted for absent subscribers, over a stop too. A crash loses what came since its last
 * autosave: `config: 'autosave_interval 1\nautosave_on_changes true'` has it save at every change.
 */
export async function startMosquitto(options: MosquittoOptions = {}): Promise<MosquittoServer> {
  const { place, closing } = options;
  const host = place?.host ?? '127.0.0.1';
  const command = await requireTool('mosquitto');
  const folder = await temporaryFolder({ closing });
  const storeDir = options.storeDir ?? join(folder, 'store');
  const configFile = join(folder, 'mosquitto.conf');
  await mkdir(storeDir, { recursive: true });

  const server = await startServer<number>(
    {
      name: 'mosquitto',
      choosePorts: async () => options.port ?? (await freePort()),
      prepare: async (port) => {
        const lines = [
          `listener ${port} ${place === undefined ? host : '0.0.0.0'}`,
          'allow_anonymous true',
          'persistence true',
          `persistence_location ${storeDir}/`,
          // Its default of 1,000 drops what it has already acknowledged.
          'max_queued_messages 0',
          'log_dest stderr',
          // Started by root it becomes the user "mosquitto", who may not write into our folder.
          ...(process.getuid?.() === 0 ? ['user root'] : []),
          options.config ?? '',
        ];
        await writeFile(configFile, lines.join('\n') + '\n');
        const launch = { command, args: ['-c', configFile] };
        return place?.enter(launch) ?? launch;
      },
      ready: async (process, port) => {
        await process.line(/mosquitto version .* running/);
        await process.until('it took a connection', () => accepts(host, port));
      },
    },
    { closing },
  );
  return withFacts(server, { url: `mqtt://${host}:${server.ports}`, port: server.ports, storeDir });
}

function accepts(host: string, port: number): Promise<true | undefined> {
  const { promise, resolve, reject } = Promise.withResolvers<true>();
  const socket = connect({ host, port });
  socket.once('error', reject);
  socket.once('connect', () => {
    socket.destroy();
    resolve(true);
  });
  return promise;
}
