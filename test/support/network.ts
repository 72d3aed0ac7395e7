/**
 * A network namespace with two ways into it, of which one can be cut. The addresses are of RFC 2544's range for tests, and
 * nothing leaves the machine.
 */
import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { closeLater, type Closing } from './closing.ts';
import type { Place } from './place.ts';

export interface Network {
  /** `host` always answers; `siteHost` only while it is not cut. */
  readonly place: Place & { readonly siteHost: string };
  /** Our own address at the end of the way that can be cut, as who is inside reaches us. */
  readonly outsideHost: string;
  cut(how?: Cut): void;
  heal(): void;
  /** Of one TCP connection, by its port inside, packets of both directions are dropped for good. */
  cutPort(port: number): void;
  /** SIGKILL to all that runs in it, until nothing does: what a robot's power switch is to its programs. */
  kill(): Promise<void>;
}

/**
 * `silence`: what is sent vanishes in both directions, and nobody is told. `link`: the interface inside is down; its kernel
 * refuses what is to be sent there (ENETUNREACH), and nothing comes from outside.
 */
export type Cut = 'silence' | 'link';

interface Way {
  readonly outside: string;
  readonly inside: string;
  readonly outsideAddress: string;
  readonly insideAddress: string;
}

/** Nobody has it, so a frame that is sent to it is dropped by whoever gets it (packet type "other host"). */
const nobody = '02:00:00:00:00:01';

/** Why there can be none here, or undefined when there can. In CI this throws instead. */
export function missingNetwork(): string | undefined {
  try {
    const name = `atoll-${process.pid}-${randomInt(1e6)}`;
    ip('netns', 'add', name);
    ip('netns', 'del', name);
    return undefined;
  } catch (error) {
    const reason = `network namespaces need root and the program "ip" (Debian: iproute2): ${String(error)}`;
    if (process.env['CI'] === 'true') throw new Error(reason, { cause: error });
    process.stderr.write(`Skipped: ${reason}\n`);
    return reason;
  }
}

export function startNetwork(options: { closing?: Closing | undefined } = {}): Network {
  // Interface names have 15 characters at most, so few that a test beside this one may have the same.
  let id: number;
  do id = randomInt(0, 2 ** 13);
  while (existsSync(`/sys/class/net/at${id}o0`));
  const name = `atoll-${process.pid}-${id}`;
  ip('netns', 'add', name);
  // With the namespace go the interfaces in it, and with them their other ends.
  closeLater(async () => void ip('netns', 'del', name), options.closing);
  ip('-n', name, 'link', 'set', 'lo', 'up');
  const [test, site] = [openWay(name, id, 0), openWay(name, id, 1)];
  connectWay(name, test);
  connectWay(name, site);
  return {
    place: {
      host: test.insideAddress,
      siteHost: site.insideAddress,
      enter: ({ command, args }) => ({
        command: 'nsenter',
        args: [`--net=/run/netns/${name}`, command, ...args],
      }),
    },
    outsideHost: site.outsideAddress,
    cut(how = 'silence') {
      if (how === 'link') {
        ip('-n', name, 'link', 'set', site.inside, 'down');
        return;
      }
      neighbour([], site.outside, site.insideAddress, nobody);
      neighbour(['-n', name], site.inside, site.outsideAddress, nobody);
    },
    heal() {
      ip('-n', name, 'link', 'set', site.inside, 'up');
      // An interface that went down has forgotten them.
      connectWay(name, site);
    },
    cutPort(port) {
      const rules = [`output tcp sport ${port}`, `input tcp dport ${port}`].map((text) => text.split(' '));
      inside(name, 'nft', 'add', 'table', 'inet', 'cut');
      for (const [hook = '', ...match] of rules) {
        const chain = `{ type filter hook ${hook} priority 0; }`;
        inside(name, 'nft', 'add', 'chain', 'inet', 'cut', hook, chain);
        inside(name, 'nft', 'add', 'rule', 'inet', 'cut', hook, ...match, 'drop');
      }
    },
    async kill() {
      for (;;) {
        const pids = ip('netns', 'pids', name).split('\n').filter(Boolean).map(Number);
        if (pids.length === 0) return;
        for (const pid of pids) kill(pid);
        await pause(20);
      }
    },
  };
}

function openWay(namespace: string, id: number, which: 0 | 1): Way {
  const number = (id * 2 + which) * 4;
  const address = (last: number): string =>
    `198.${18 + (number >> 16)}.${(number >> 8) & 255}.${(number & 255) + last}`;
  const way: Way = {
    outside: `at${id}o${which}`,
    inside: `at${id}i${which}`,
    outsideAddress: address(1),
    insideAddress: address(2),
  };
  ip('link', 'add', way.outside, 'type', 'veth', 'peer', 'name', way.inside, 'netns', namespace);
  ip('address', 'add', `${way.outsideAddress}/30`, 'dev', way.outside);
  ip('link', 'set', way.outside, 'up');
  ip('-n', namespace, 'address', 'add', `${way.insideAddress}/30`, 'dev', way.inside);
  ip('-n', namespace, 'link', 'set', way.inside, 'up');
  return way;
}

/** Addresses of hardware are told by hand: a question for them that nobody answers would be an error, not a silence. */
function connectWay(namespace: string, way: Way): void {
  const hardware = (within: string[], device: string): string => {
    const [link] = JSON.parse(ip(...within, '-json', 'link', 'show', device)) as [{ address: string }];
    return link.address;
  };
  neighbour([], way.outside, way.insideAddress, hardware(['-n', namespace], way.inside));
  neighbour(['-n', namespace], way.inside, way.outsideAddress, hardware([], way.outside));
}

function neighbour(within: string[], device: string, address: string, hardware: string): void {
  ip(...within, 'neighbour', 'replace', address, 'lladdr', hardware, 'dev', device, 'nud', 'permanent');
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    // It ended since it was listed.
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

const ip = (...args: string[]): string => run('ip', args);
const inside = (namespace: string, command: string, ...args: string[]): string =>
  run('ip', ['netns', 'exec', namespace, command, ...args]);

function run(command: string, args: string[]): string {
  return execFileSync(command, args, {
    encoding: 'utf8',
    env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  });
}
