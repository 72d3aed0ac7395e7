/** ROS 2 for robots that are simulated: the one that the project's tests use. Real robots have their own. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';

const installer = join(import.meta.dirname, '..', '..', 'tools', 'install.ts');

/** The program that runs a command in ROS's environment, which is installed when it is not there. */
export async function installRos(): Promise<string> {
  const child = spawn(process.execPath, [installer, 'ros'], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const [code] = (await once(child, 'close')) as [number | null];
  const path = /^ros (.+)$/m.exec(output)?.[1];
  if (code !== 0 || path === undefined) {
    throw new Error('the robots are simulated with ROS 2, which could not be installed: see above why');
  }
  return path;
}

export interface Domain {
  readonly id: number;
  close(): void;
}

/** Above it a domain's UDP ports reach into those that the kernel gives to whoever asks for any. */
const lastDomain = 101;
const firstPort = 7400;
const portsOfDomain = 250;

/**
 * Of its own for each robot, as if each had a network of its own. Held by a TCP port for as long as this process runs:
 * DDS itself uses UDP only.
 */
export async function takeDomain(): Promise<Domain> {
  const begin = process.pid % lastDomain;
  for (let tried = 0; tried < lastDomain; tried += 1) {
    const id = 1 + ((begin + tried) % lastDomain);
    const server = createServer().unref();
    const held = await new Promise<boolean>((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(firstPort + portsOfDomain * id, '127.0.0.1', () => resolve(true));
    });
    if (held) return { id, close: () => void server.close() };
  }
  throw new Error(`all ${lastDomain} ROS domains of this machine are in use`);
}

/** `logs`: a folder for what ROS itself logs. */
export const rosEnvironment = (domain: Domain, logs: string): NodeJS.ProcessEnv => ({
  ...process.env,
  ROS_DOMAIN_ID: String(domain.id),
  ROS_AUTOMATIC_DISCOVERY_RANGE: 'LOCALHOST',
  // Through shared memory a process that was killed leaves files in /dev/shm that nobody removes.
  FASTDDS_BUILTIN_TRANSPORTS: 'UDPv4',
  ROS_LOG_DIR: logs,
  PYTHONDONTWRITEBYTECODE: '1',
  // Of another ROS, when one is set up where this runs.
  PYTHONPATH: undefined,
});
