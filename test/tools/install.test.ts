import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { InstallError, findTool, toolPath, tools } from '../../tools/install.ts';
import type { ToolName } from '../../tools/install.ts';
import { sourceHash } from '../../tools/go.ts';
import { isAcceptable, parseVersion } from '../../tools/tools.ts';
import { temporaryFolder } from '../support/folder.ts';
import { startProcess } from '../support/process.ts';
import type { RunningProcess } from '../support/process.ts';

const installer = join(import.meta.dirname, '../../tools/install.ts');

describe('the version of a program on PATH', () => {
  const answers: [ToolName, string, string | undefined, boolean][] = [
    ['nats-server', 'nats-server: v2.15.2\n', '2.15.2', true],
    ['nats-server', 'nats-server: v2.15.0-RC.1\n', '2.15.0', true],
    ['nats-server', 'nats-server: v2.9.10\n', '2.9.10', false],
    ['nats-server', 'nats-server: v3.0.0\n', '3.0.0', true],
    ['nats-server', 'command not found', undefined, false],
    ['minio', 'minio version RELEASE.2025-09-07T16-13-09Z (commit-id=0)', '2025-09-07', true],
    ['minio', 'minio version RELEASE.2024-12-18T13-15-44Z (commit-id=0)', '2024-12-18', false],
    ['minio', 'minio version DEVELOPMENT.GOGET (commit-id=DEVELOPMENT.GOGET)', undefined, false],
    ['versitygw', 'Version  : v1.8.0\nBuild    : 0\n', '1.8.0', true],
    ['versitygw', 'Version  : git\nBuild    : norev\n', undefined, false],
    ['awscli', 'aws-cli/2.31.0 Python/3.13.7 Linux/6.1', '2.31.0', true],
    [
      'mosquitto',
      'mosquitto version 2.0.11\n\nmosquitto is an MQTT v5.0/v3.1.1/v3.1 broker.',
      '2.0.11',
      true,
    ],
    ['mosquitto', 'mosquitto version 1.6.9\n', '1.6.9', false],
    ['mosquitto_sub', 'mosquitto_sub version 2.0.11 running on libmosquitto 2.0.11.', '2.0.11', true],
  ];

  test.each(answers)(
    '%s that answers %j has version %s, acceptable: %s',
    (name, answer, version, acceptable) => {
      expect(parseVersion(tools[name], answer)).toBe(version);
      if (version !== undefined) expect(isAcceptable(tools[name], version)).toBe(acceptable);
    },
  );

  test('a program that is new enough is taken, though it comes after an older one, which is passed over', async () => {
    const machine = await emptyMachine();
    const [old, recent] = [join(machine.folder, 'old'), join(machine.folder, 'recent')];
    await program(join(old, 'nats-server'), 'echo nats-server: v2.9.10');
    await program(join(recent, 'nats-server'), 'echo nats-server: v2.16.0');
    const env = { ...machine.env, PATH: `${old}:${recent}` };

    expect(await toolPath('nats-server', { env, log: machine.log })).toBe(join(recent, 'nats-server'));
    expect(machine.said).toEqual([
      `nats-server: ${join(old, 'nats-server')} is 2.9.10, older than 2.15.0: passed over`,
    ]);
  });

  test('an older nats-server alone on PATH is passed over, and a new one is installed', async () => {
    const machine = await emptyMachine();
    await program(join(machine.bin, 'nats-server'), 'echo nats-server: v2.9.10');
    await machine.withGo();

    const path = await toolPath('nats-server', machine);
    expect(path).toBe(join(machine.cache, 'nats-server/2.15.2/bin/nats-server'));
    const complaints = machine.said.filter((line) =>
      line.includes('is 2.9.10, older than 2.15.0: passed over'),
    );
    expect(complaints).toHaveLength(1);
  });
});

describe('an installation', () => {
  test('keeps the program and throws away all that it was built with', async () => {
    const machine = await emptyMachine();
    await machine.withGo('mkdir -p "$GOMODCACHE/module"; echo "$GOMODCACHE" "$GOCACHE" "$GOFLAGS" > "$SEEN"');
    const path = await toolPath('nats-server', machine);

    expect(await run(path, machine)).toBe('nats-server: v2.15.2\n');
    const [modules = '', build = '', ...flags] = (await readFile(machine.env.SEEN, 'utf8')).trim().split(' ');
    expect(flags).toEqual(['-mod=mod', '-modcacherw']);
    expect([modules, build].filter((folder) => existsSync(folder))).toEqual([]);
    await expectNothingHalf(machine);
    expect(machine.said).toEqual([
      'nats-server 2.15.2: building it with Go; this usually takes about 45 s',
      expect.stringMatching(/^nats-server: ready after \d+ s$/),
    ]);
  });

  test('of a program of our own gives it its names, and a change of its source makes another one', async () => {
    const machine = await emptyMachine();
    await program(
      join(machine.bin, 'go'),
      'pwd > "$SEEN"; echo "$@" >> "$SEEN"',
      'while [ "$1" != -o ]; do shift; done; mkdir -p "${2%/*}"',
      `printf '#!/bin/sh\\necho "\${0##*/} $*"\\n' > "$2"; chmod 755 "$2"`,
    );
    const path = await toolPath('kubernetes', machine);

    const source = join(installer, '../kubernetes');
    expect(path).toMatch(/\/kubernetes\/1\.37\.2-[0-9a-f]{12}\/bin\/kubernetes$/);
    expect(path).toContain(sourceHash(tools.kubernetes));
    expect(sourceHash({ ...tools.kubernetes, links: [] })).not.toBe(sourceHash(tools.kubernetes));
    const [folder, args] = (await readFile(machine.env.SEEN, 'utf8')).split('\n');
    expect(folder).toBe(source);
    expect(args).toContain('-X k8s.io/component-base/version.gitVersion=v1.37.2');
    expect(await run(join(path, '../kubectl'), machine)).toBe('kubectl --version\n');
    await expectNothingHalf(machine);
  });

  test('of files out of modules keeps those and a program that prints them', async () => {
    const machine = await emptyMachine();
    const { files, binary } = tools.definitions;
    const lines = Object.values(files).map(({ module, version, path }) => {
      const file = `$GOMODCACHE/${module}@v${version}/${path}`;
      return `mkdir -p "${dirname(file)}"; echo "${path}" > "${file}"`;
    });
    await program(join(machine.bin, 'go'), 'echo "$@" > "$SEEN"', ...lines);
    const path = await toolPath('definitions', machine);
    expect(path).toMatch(/\/definitions\/1\.0\.0-[0-9a-f]{12}\/bin\/atoll-definitions$/);
    expect(await readFile(machine.env.SEEN, 'utf8')).toMatch(/^mod download (\S+@v\d+\.\d+\.\d+ ?){3}$/m);
    expect(await run(path, machine)).toBe(`${binary} 1.0.0\n`);
    for (const [name, file] of Object.entries(files)) {
      expect(await readFile(join(path, '../../share', name), 'utf8')).toBe(`${file.path}\n`);
    }
    await expectNothingHalf(machine);
  });

  test('is made once when two processes need the tool at the same time, and both get it', async () => {
    const machine = await emptyMachine();
    // It builds until the other one was seen to wait: one that is late would find the tool and need no installing.
    const waited = join(machine.folder, 'waited');
    await machine.withGo(`until [ -e '${waited}' ]; do sleep 0.05; done`);
    const both = await Promise.all([startInstaller(machine), startInstaller(machine)]);
    await Promise.race(both.map((process) => process.line(/process \d+ is installing it, waiting for that/)));
    await writeFile(waited, '');
    for (const installing of both) expect(await installing.exited).toEqual({ code: 0, signal: null });

    expect(await machine.builds()).toBe(1);
    const path = join(machine.cache, 'nats-server/2.15.2/bin/nats-server');
    expect(both.map((process) => process.stdout())).toEqual([
      `nats-server ${path}\n`,
      `nats-server ${path}\n`,
    ]);
    await expectNothingHalf(machine);
  });

  test('that fails leaves nothing and says the command, its last words and what to do', async () => {
    const machine = await emptyMachine();
    await machine.withGo('echo "module lookup disabled" >&2; exit 1');
    const failure = toolPath('nats-server', machine);
    await expect(failure).rejects.toBeInstanceOf(InstallError);
    await expect(failure).rejects.toThrow(
      /nats-server 2\.15\.2 could not be installed: .*exit code 1[^]*CGO_ENABLED=0 .*go install .*nats-server\/v2@v2\.15\.2[^]*module lookup disabled[^]*What to do: /,
    );
    await expectNothingHalf(machine);
    expect(existsSync(join(machine.cache, 'nats-server'))).toBe(false);
  });

  test('of a program that does not start puts nothing into the cache', async () => {
    const machine = await emptyMachine();
    await machine.withGo('mkdir -p "$GOBIN"; echo broken > "$GOBIN/nats-server"; exit 0');
    await expect(toolPath('nats-server', machine)).rejects.toThrow('could not be installed');
    expect(await findTool('nats-server', machine)).toBeUndefined();
  });

  test('without Go says that Go is missing', async () => {
    const machine = await emptyMachine();
    await expect(toolPath('nats-server', machine)).rejects.toThrow(
      /there is no "go" on PATH\.\nWhat to do: install Go, or put a nats-server of 2\.15\.0 or later on PATH/,
    );
  });

  test('that is interrupted ends at once and leaves nothing', async () => {
    const machine = await emptyMachine();
    await machine.withGo('exec sleep 1000');
    const installing = await startInstaller(machine);
    await installing.until('Go ran', async () => (await machine.builds()) || undefined);
    process.kill(installing.pid, 'SIGTERM');
    expect(await installing.exited).toEqual({ code: 143, signal: null });
    expect(installing.stderr()).toContain('nothing was left half installed');
    await expectNothingHalf(machine);
  });

  test('whose process was killed is taken over by the next, which clears away what it left', async () => {
    const machine = await emptyMachine();
    await machine.withGo('exec sleep 1000');
    const killed = await startInstaller(machine);
    await killed.until('Go ran', async () => (await machine.builds()) || undefined);
    await killed.kill('SIGKILL');
    expect(await readdir(join(machine.cache, '.installing'))).toHaveLength(1);

    await machine.withGo();
    expect(await toolPath('nats-server', machine)).toContain(machine.cache);
    await expectNothingHalf(machine);
  });

  test.runIf(process.platform === 'linux' && process.arch === 'x64')(
    'of ROS says what the machine lacks, and how to get it',
    async () => {
      const machine = await emptyMachine();
      await expect(toolPath('ros', machine)).rejects.toThrow(
        /there is no "python3" on PATH\.\nWhat to do: install it .*apt-get install .*g\+\+ make cmake/,
      );
      for (const name of ['c++', 'make', 'cmake', 'npm']) await program(join(machine.bin, name), 'exit 1');
      await program(join(machine.bin, 'python3'), 'echo "False /nowhere"');
      await expect(toolPath('ros', machine)).rejects.toThrow(
        /its wheels need Python 3\.11 or later, and .* is older\.\nWhat to do: put a later python3 first on PATH/,
      );
      await program(join(machine.bin, 'python3'), 'echo "True /nowhere"');
      await expect(toolPath('ros', machine)).rejects.toThrow(
        /\/nowhere\/Python\.h is not there\.\nWhat to do: .*apt-get install .*python3-dev/,
      );
      await expectNothingHalf(machine);
    },
  );

  test('of a Python program goes into an environment of its own, of hash-checked wheels, and works where it was moved', async () => {
    const machine = await emptyMachine();
    await program(
      join(machine.bin, 'python3'),
      'if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python3"; exit; fi',
      'if [ "$2" = pip ]; then echo "$@" > "$SEEN"; exit; fi',
      'if [ "$*" = "-E -m awscli --version" ]; then echo aws-cli/1.46.2; exit; fi',
      'exit 1',
    );
    const path = await toolPath('awscli', machine);
    expect(path).toBe(join(machine.cache, 'awscli/1.46.2/bin/aws'));
    expect(await run(path, machine)).toBe('aws-cli/1.46.2\n');
    expect(await readFile(machine.env.SEEN, 'utf8')).toMatch(
      /--only-binary :all: --require-hashes -r .*awscli\.txt/,
    );
  });
});

test('every Python package that a tool needs is pinned by version and hash', async () => {
  for (const tool of Object.values(tools)) {
    if (tool.kind !== 'pypi' && tool.kind !== 'ros') continue;
    const [main, ...files] =
      tool.kind === 'pypi'
        ? [
            'package' in tool ? tool.package : tool.module,
            tool.requirements,
            ...('sources' in tool ? [tool.sources] : []),
          ]
        : ['ros-rclpy', `${tool.folder}/requirements.txt`, `${tool.folder}/sources.txt`];
    const texts = await Promise.all(files.map((file) => readFile(join(installer, '..', file), 'utf8')));
    const text = texts.join('\n');
    const packages = text
      .replaceAll('\\\n', ' ')
      .split('\n')
      .filter((line) => /^\w/.test(line));
    // PEP 503: a package's name may be written with either.
    const name = main.replaceAll('_', '[-_]');
    expect(packages).toContainEqual(expect.stringMatching(`^${name}==${tool.version} `));
    for (const line of packages) expect(line).toMatch(/^[\w.-]+==\S+ +--hash=sha256:[0-9a-f]{64}/);
  }
});

test('every npm package that ROS needs is pinned by version and hash', async () => {
  const folder = join(installer, '..', tools.ros.folder);
  const { dependencies } = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const lock = JSON.parse(await readFile(join(folder, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version?: string; integrity?: string }>;
  };
  const { '': own, ...locked } = lock.packages;
  expect(own).toMatchObject({ dependencies });
  for (const [name, version] of Object.entries(dependencies)) {
    expect(locked[`node_modules/${name}`]).toMatchObject({ version });
  }
  for (const one of Object.values(locked)) expect(one.integrity).toMatch(/^sha512-/);
});

describe('the command', () => {
  test('lists every tool and installs nothing', async () => {
    const machine = await emptyMachine();
    const listing = await startInstaller(machine, '--list', 'nats-server', 'minio');
    expect(await listing.exited).toEqual({ code: 0, signal: null });
    expect(listing.stdout()).toMatch(
      /nats-server 2\.15\.2 \(go\)[^]*not installed\nminio [^]*not installed\n$/,
    );
    expect(existsSync(machine.cache)).toBe(false);
  });

  test('refuses a tool it does not know and names those it knows', async () => {
    const refused = await startInstaller(await emptyMachine(), 'nats');
    expect(await refused.exited).toEqual({ code: 2, signal: null });
    expect(refused.stderr()).toMatch(/There is no tool "nats"\. Known are: nats-server, versitygw, /);
  });
});

/** A machine whose PATH has nothing but what a test puts there, and an empty tool cache. */
async function emptyMachine() {
  const folder = await temporaryFolder();
  const [bin, cache, buildsFile] = [join(folder, 'bin'), join(folder, 'cache'), join(folder, 'builds')];
  const said: string[] = [];
  return {
    folder,
    bin,
    cache,
    said,
    log: (line: string) => void said.push(line),
    env: { PATH: bin, ATOLL_TOOLS: cache, HOME: folder, SEEN: join(folder, 'seen') },
    /** A `go` that counts its runs, does `first`, and then "builds" a nats-server. */
    withGo: (first = '') =>
      program(
        join(bin, 'go'),
        `echo build >> '${buildsFile}'`,
        first,
        'mkdir -p "$GOBIN"',
        `printf '#!/bin/sh\\necho nats-server: v2.15.2\\n' > "$GOBIN/nats-server"`,
        'chmod 755 "$GOBIN/nats-server"',
      ),
    builds: async () =>
      existsSync(buildsFile) ? (await readFile(buildsFile, 'utf8')).trim().split('\n').length : 0,
  };
}

type Machine = Awaited<ReturnType<typeof emptyMachine>>;

async function program(path: string, ...lines: string[]): Promise<void> {
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, ['#!/bin/sh', 'PATH=/usr/bin:/bin', ...lines, ''].join('\n'));
  await chmod(path, 0o755);
}

async function run(path: string, machine: Machine): Promise<string> {
  const running = await startProcess(path, ['--version'], { env: { ...machine.env, PATH: '/usr/bin:/bin' } });
  await running.exited;
  return running.stdout();
}

function startInstaller(machine: Machine, ...args: string[]): Promise<RunningProcess> {
  const words = args.length > 0 ? args : ['nats-server'];
  return startProcess(process.execPath, [installer, ...words], { name: 'install', env: machine.env });
}

async function expectNothingHalf(machine: Machine): Promise<void> {
  expect(await readdir(join(machine.cache, '.installing'))).toEqual([]);
  expect(await readdir(join(machine.cache, '.locks'))).toEqual([]);
}
