import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';
import { ProcessError, startProcess } from './process.ts';
import type { RunningProcess } from './process.ts';

/** What every real server can be told, whatever it serves. */
export interface Server {
  /** Of the process that runs now; another one after a restart. */
  readonly pid: number;
  readonly running: boolean;
  /** What the present process wrote. */
  output(): string;
  /** Ends it in its own time, kills it when that is over. What it stored in a temporary folder goes with the test. */
  stop(): Promise<void>;
  /** Sends the signal and waits for the end; SIGKILL is a crash. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** Stops it if it runs, then starts it with the same ports and the same stored state. */
  restart(): Promise<void>;
  /** Freezes it, and resolves when it stands still: connections stay open and nothing answers. */
  pause(): Promise<void>;
  resume(): void;
}

/** How one kind of server is started; P holds its ports. */
export interface ServerKind<P> {
  readonly name: string;
  /** Free ports, new ones at every call save those that the caller of the server fixed. */
  choosePorts(): Promise<P>;
  /** Writes what the server reads and gives its command. */
  prepare(ports: P): Promise<{ command: string; args: string[]; env?: Record<string, string | undefined> }>;
  /** Resolves when the server answers its clients. */
  ready(process: RunningProcess, ports: P): Promise<void>;
}

const portAttempts = 5;
const addressInUse = /address (is )?already in use|port is already|specified port/i;

/** Starts a server whose end is registered before anyone waits for its beginning. */
export async function startServer<P>(
  kind: ServerKind<P>,
  options: { closing?: Closing | undefined } = {},
): Promise<Server & { readonly ports: P }> {
  let current: RunningProcess | undefined;
  const stop = async (): Promise<void> => void (await current?.stop());
  closeLater(stop, options.closing);

  const start = async (ports: P): Promise<void> => {
    const { command, args, env } = await kind.prepare(ports);
    current = await startProcess(command, args, {
      name: kind.name,
      ...(env === undefined ? {} : { env }),
      // The server is registered as a whole: a process that a later test restarts must not end with that test.
      closing: () => {},
    });
    await kind.ready(current, ports);
  };

  const startOnFreePorts = async (): Promise<P> => {
    for (let attempt = 1; ; attempt++) {
      const ports = await kind.choosePorts();
      try {
        await start(ports);
        return ports;
      } catch (error) {
        // Between finding a port and binding it another process may take it.
        const lostRace = error instanceof ProcessError && addressInUse.test(error.output);
        if (!lostRace || attempt === portAttempts) throw error;
      }
    }
  };
  const ports = await startOnFreePorts();

  const now = (): RunningProcess => current as RunningProcess;
  return {
    ports,
    get pid() {
      return now().pid;
    },
    get running() {
      return now().running;
    },
    output: () => now().output(),
    stop,
    kill: async (signal) => void (await now().kill(signal)),
    restart: async () => {
      await stop();
      await start(ports);
    },
    pause: () => now().pause(),
    resume: () => now().signal('SIGCONT'),
  };
}

/** Adds to a server what its clients need to know. Unlike a spread it keeps getters: a pid changes with a restart. */
export function withFacts<S extends Server, F>(server: S, facts: F): S & F {
  return Object.defineProperties(server, Object.getOwnPropertyDescriptors(facts)) as S & F;
}
