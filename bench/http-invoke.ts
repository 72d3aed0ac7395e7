/**
 * What does isolation cost an HTTP invocation? 32 connections against a bare node:http server with the handler inline:
 * at the host's own socket, and through the gateway by Lambda's Invoke.
 */
import { join } from 'node:path';
import { temporaryFolder } from '../test/support/folder.ts';
import { bench } from './frame/bench.ts';
import { httpLoad } from './frame/http-load.ts';
import { scaled } from './frame/options.ts';
import { report } from './frame/report.ts';
import { compare, type Contender } from './frame/rounds.ts';

const count = scaled(10_000, { least: 100 });
const connections = 32;
const body = JSON.stringify({ robot: 'r1', pose: { x: 1.25, y: -3.5, theta: 0.75 }, tags: ['a', 'b'] });

await bench(async ({ nats: startNats, site: startSite, deploy, baseline, closing }) => {
  const server = await startNats();
  const site = await startSite('--nats', server.url);
  await deploy(site, 'echo', 'echo', { concurrency: 64 });
  const folder = await temporaryFolder({ closing });

  async function contender(
    name: string,
    address: { path: string } | { host: string; port: number },
    path: string,
    pid: number,
  ): Promise<Contender> {
    const load = httpLoad(address, { connections, path, body });
    return {
      name,
      pids: () => [pid],
      round: async () => ({ events: count, seconds: await load.run(count) }),
    };
  }

  const bare = join(folder, 'bare.sock');
  const copy = join(folder, 'copy.sock');
  const bareServer = await baseline('http.ts', bare);
  const copyServer = await baseline('http.ts', copy);
  const text = `HTTP invocations, ${count} each round, ${connections} connections, one request at a time on each`;
  await report(
    await compare({
      name: 'http-invoke-host',
      text: `${text}; at the host, over its unix socket.`,
      event: 'request',
      contenders: [
        await contender('bare node:http', { path: bare }, '/', bareServer.pid),
        await contender('an identical copy', { path: copy }, '/', copyServer.pid),
        await contender(
          'Atoll, at the host',
          { path: join(site.dir, 'run', 'host.sock') },
          '/invoke/default/echo',
          site.info.pid,
        ),
      ],
    }),
  );

  const host = '127.0.0.1';
  const first = await baseline<{ port: number }>('http.ts');
  const second = await baseline<{ port: number }>('http.ts');
  await report(
    await compare({
      name: 'http-invoke-gateway',
      text: `${text}; through the gateway, over loopback.`,
      event: 'request',
      contenders: [
        await contender('bare node:http', { host, port: first.told.port }, '/', first.pid),
        await contender('an identical copy', { host, port: second.told.port }, '/', second.pid),
        await contender(
          'Atoll, through the gateway',
          { host, port: Number(new URL(site.info.url).port) },
          '/2015-03-31/functions/echo/invocations',
          site.info.pid,
        ),
      ],
    }),
  );
});
