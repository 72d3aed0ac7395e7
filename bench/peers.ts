/**
 * How does Atoll compare with what a user would take instead? The same echo behind HTTP in @google-cloud/functions-framework,
 * faas-js-runtime and serverless-offline; none of them isolates the handler from the server. They are installed into
 * bench/peers at the first run, 300 MB.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { freePort } from '../test/support/ports.ts';
import { bench } from './frame/bench.ts';
import { httpLoad } from './frame/http-load.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const count = scaled(4_000, { least: 50 });
const connections = 32;
const body = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 }, tags: ['a', 'b'] });
const folder = join(import.meta.dirname, 'peers');
/** serverless takes its time on a busy machine. */
const startTimeoutMs = 60_000;

if (!existsSync(join(folder, 'node_modules'))) {
  // No package of these needs its install script, and ours is not to run any.
  const { status } = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
    cwd: folder,
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}

await bench(async ({ nats: startNats, site: startSite, deploy, closing }) => {
  const server = await startNats();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'echo', 'echo', {
    concurrency: 64,
    triggers: [{ name: 'echo', http: { path: '/echo', methods: ['POST'] } }],
  });

  async function peer(program: string, args: (port: number) => Promise<string[]>, path: string) {
    const port = await freePort();
    const child = spawn(
      process.execPath,
      [join(folder, 'node_modules', '.bin', program), ...(await args(port))],
      {
        cwd: folder,
        stdio: 'ignore',
        // serverless asks the network otherwise.
        env: {
          ...process.env,
          SLS_TELEMETRY_DISABLED: '1',
          SLS_NOTIFICATIONS_MODE: 'off',
          NODE_ENV: 'production',
        },
      },
    );
    closing(async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await once(child, 'exit');
    });
    return { port, path, pid: child.pid ?? 0 };
  }

  async function contender(
    name: string,
    { port, path, pid }: { port: number; path: string; pid: number },
  ): Promise<Contender> {
    const load = await opened(port, path);
    return {
      name,
      pids: () => [pid],
      round: async () => ({ events: count, seconds: await load.run(count) }),
    };
  }

  /** Connections to it once it answers. */
  async function opened(port: number, path: string) {
    for (const deadline = Date.now() + startTimeoutMs; ;) {
      try {
        const load = httpLoad({ host: '127.0.0.1', port }, { connections, path, body });
        await load.run(1);
        return load;
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await pause(200);
      }
    }
  }

  const framework = async (port: number): Promise<string[]> => [
    '--target=functionsFramework',
    '--source=echo.cjs',
    `--port=${port}`,
  ];
  await report(
    await compare({
      name: 'peers',
      text: `HTTP requests, ${count} each round, ${connections} connections, one request at a time on each.`,
      event: 'request',
      contenders: [
        await contender('functions-framework', await peer('functions-framework', framework, '/')),
        await contender('an identical copy', await peer('functions-framework', framework, '/')),
        await contender(
          'faas-js-runtime',
          await peer('faas-js-runtime', async (port) => ['echo.cjs', '--port', String(port)], '/'),
        ),
        await contender(
          'serverless-offline',
          await peer(
            'serverless',
            async (port) => ['offline', '--httpPort', String(port), '--lambdaPort', String(await freePort())],
            '/echo',
          ),
        ),
        await contender('Atoll, an http trigger', {
          port: Number(new URL(site.info.url).port),
          path: '/echo',
          pid: site.info.pid,
        }),
      ],
    }),
  );
});
