import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { list } from 'tar';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildImage } from '../../images/build.ts';
import { runConfig, sbomPath } from '../../images/contents.ts';
import { linkedBy, type Arch } from '../../images/elf.ts';
import { openLayout, sha256, type Layout } from './layout.ts';

const run = promisify(execFile);
const root = resolve(import.meta.dirname, '../..');
const arch = process.arch as Arch;

let folder: string;
let built: Awaited<ReturnType<typeof buildImage>>;
let layout: Layout;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'atoll-image-'));
  // Compressing takes ten seconds and is one function of Node's; what is compressed is what is looked at here.
  built = await buildImage({ platforms: [{ arch, sysroot: '/' }], compress: false });
  const archive = join(folder, 'atoll.oci.tar');
  await writeFile(archive, built.bytes);
  layout = await openLayout(archive, join(folder, 'layout'));
}, 120_000);
afterAll(() => rm(folder, { recursive: true, force: true }));

test('the image has the same bytes when it is built again, from another folder, in another time zone', async () => {
  const out = join(folder, 'again.oci.tar');
  await run(process.execPath, [join(root, 'images/build.ts'), '--no-compress', '--out', out], {
    cwd: folder,
    env: { PATH: '/usr/bin:/bin', TZ: 'Asia/Tokyo', LC_ALL: 'C' },
  });
  expect(sha256(await readFile(out))).toBe(sha256(built.bytes));
}, 120_000);

test('the archive is a valid OCI layout: every blob is what its descriptor says, and none is left over', async () => {
  expect(JSON.parse(await readFile(join(folder, 'layout/oci-layout'), 'utf8'))).toEqual({
    imageLayoutVersion: '1.0.0',
  });
  const { index, platforms, manifest, config } = await layout.manifest();
  expect(index.manifests).toHaveLength(1);
  expect(index.manifests[0]).toMatchObject({
    mediaType: 'application/vnd.oci.image.index.v1+json',
    digest: built.digest,
    // In full, or no pod would find it under its short name.
    annotations: { 'io.containerd.image.name': `docker.io/library/${built.name}` },
  });
  expect(platforms.manifests[0]?.platform).toEqual({
    os: 'linux',
    architecture: arch === 'x64' ? 'amd64' : 'arm64',
  });
  const diffIds = await Promise.all(
    manifest.layers.map(async (layer) => `sha256:${sha256(await layout.blob(layer))}`),
  );
  expect(config.rootfs).toEqual({ type: 'layers', diff_ids: diffIds });
  const named = [index.manifests[0], platforms.manifests[0], manifest.config, ...manifest.layers].map(
    (one) => `blobs/sha256/${one?.digest.slice(7)}`,
  );
  const files: string[] = [];
  await list({
    file: join(folder, 'atoll.oci.tar'),
    onReadEntry: (entry) => void (entry.type === 'File' && files.push(entry.path)),
  });
  expect(files.sort()).toEqual([...named, 'index.json', 'oci-layout'].sort());
});

test('the image runs as nobody, says which version it is, and what it runs', async () => {
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };
  const { manifest, config } = await layout.manifest();
  expect(config.config.User).toBe('65532:65532');
  for (const labels of [config.config.Labels, manifest.annotations])
    expect(labels).toMatchObject({
      'org.opencontainers.image.title': 'atoll',
      'org.opencontainers.image.version': version,
    });
  expect(config.config.Cmd).toEqual(['node', 'runtime/main.js']);
});

test('the ordinary Dockerfile makes an image of the same user, folder, environment and command', async () => {
  const text = await readFile(join(root, 'images/Dockerfile'), 'utf8');
  const last = text.slice(text.lastIndexOf('\nFROM '));
  expect(last).toMatch(/^FROM scratch$/m);
  expect(last).toContain(`USER ${runConfig.User}\n`);
  expect(last).toContain(`WORKDIR ${runConfig.WorkingDir}\n`);
  for (const pair of runConfig.Env) expect(last).toContain(pair);
  expect(last).toContain(`CMD ${JSON.stringify(runConfig.Cmd).replaceAll(',', ', ')}\n`);
});

test('a library of another architecture is refused by name', async () => {
  const bytes = await readFile(process.execPath);
  const other = arch === 'x64' ? 'arm64' : 'x64';
  expect(() => linkedBy(bytes, other, 'bin/node')).toThrow(/bin\/node is for ELF machine \d+, not for /);
});

describe('unpacked', () => {
  let files: string;

  beforeAll(async () => {
    files = join(folder, 'root');
    await mkdir(files);
    const { manifest } = await layout.manifest();
    // Not with tar of npm, which changes links to absolute paths.
    for (const { digest } of manifest.layers) await run('tar', ['-xf', layout.pathOf(digest), '-C', files]);
  });

  test('only what is needed to run is there', async () => {
    expect(existsSync(join(files, 'atoll/runtime/main.js'))).toBe(true);
    const names = [
      'atoll/cli',
      'atoll/test',
      'atoll/node_modules/esbuild',
      'atoll/node_modules/vitest',
      'bin/sh',
    ];
    expect(names.filter((name) => existsSync(join(files, name)))).toEqual([]);
  });

  test('the bill of materials names every npm package and every library with its digest', async () => {
    const sbom = JSON.parse(await readFile(join(files, sbomPath), 'utf8'));
    expect(sbom).toMatchObject({ bomFormat: 'CycloneDX', specVersion: '1.6', version: 1 });
    expect(sbom.serialNumber).toMatch(
      /^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/,
    );
    expect(built.sboms[0]?.text).toBe(await readFile(join(files, sbomPath), 'utf8'));
    const purls: string[] = sbom.components.map(({ purl }: { purl?: string }) => purl ?? '');
    const lock = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8'));
    for (const name of [`node-linux-${arch}`, 'fastify', 'pino', 'undici'])
      expect(purls).toContain(`pkg:npm/${name}@${lock.packages[`node_modules/${name}`].version}`);
    const { stdout } = await run('find', [
      join(files, 'atoll'),
      '-name',
      'package.json',
      '-path',
      '*/node_modules/*',
    ]);
    const packages = stdout
      .trim()
      .split('\n')
      .map((file) => file.slice(join(files, 'atoll/').length, -'/package.json'.length))
      .filter((path) => /(^|\/)node_modules\/(@[^/]+\/)?[^/]+$/.test(path));
    const refs: string[] = sbom.components.map((one: { 'bom-ref': string }) => one['bom-ref'].split('#')[1]);
    expect(packages.filter((path) => !refs.includes(path))).toEqual([]);
    const loader = sbom.components.find(({ name }: { name: string }) => name.includes('/ld-linux-'));
    expect(loader.hashes[0].content).toBe(sha256(await readFile(join(files, loader.name))));
  });

  const notRoot = process.getuid?.() === 0 ? undefined : 'only root may change into another root folder';
  test.skipIf(notRoot)(
    'the host starts on a read-only root as nobody and runs functions of both Node versions',
    async () => {
      const inline = 'exports.handler = async () => [process.version, process.getuid(), process.arch]';
      const functions = ['nodejs24.x', 'nodejs22.x'].map((runtime, index) => ({
        namespace: 'default',
        name: `f${index}`,
        uid: `u${index}`,
        generation: 1,
        env: [],
        spec: {
          runtime,
          handler: 'index.handler',
          package: { inline },
          timeoutSeconds: 20,
          memory: '128Mi',
          concurrency: 1,
          processes: 1,
          spareProcesses: 0,
          replicas: 1,
          env: [],
          triggers: [],
          retry: { maxAttempts: 1, minBackoffMs: 1000, maxBackoffMs: 1000, maxAgeSeconds: 60 },
          recursion: 'Terminate',
        },
      }));
      const config = {
        site: 'local',
        listen: { host: '127.0.0.1', port: 0 },
        packages: { cache: '/tmp/cache' },
        functions,
      };
      await writeFile(join(files, 'etc/atoll/config.json'), JSON.stringify(config));
      const host = inRoot('node', '/atoll/runtime/main.js', '/etc/atoll/config.json');
      try {
        const address = await addressOf(host);
        await expect
          .poll(
            () =>
              fetch(`${address}/readyz`).then(
                ({ status }) => status,
                () => 0,
              ),
            { timeout: 30_000 },
          )
          .toBe(200);
        for (const [name, version] of [
          ['f0', /^v24\./],
          ['f1', /^v22\./],
        ] as const) {
          const answer = await fetch(`${address}/invoke/default/${name}`, { method: 'POST', body: '{}' });
          expect(await answer.json()).toEqual([expect.stringMatching(version), 65532, arch]);
        }
      } finally {
        host.kill('SIGKILL');
      }
    },
    60_000,
  );

  test.skipIf(notRoot)(
    'controller and gateway find everything that they import',
    async () => {
      const modules = ['/atoll/controller/start-replica.js', '/atoll/gateway/start-cluster.js'];
      const child = inRoot(
        'node',
        '-e',
        `Promise.all(${JSON.stringify(modules)}.map((file) => import(file)))`,
      );
      let output = '';
      child.stderr?.on('data', (text: Buffer) => (output += text.toString()));
      const code = await new Promise((done) => child.once('exit', done));
      expect({ code, output }).toEqual({ code: 0, output: '' });
    },
    60_000,
  );

  /** As a container would: own mounts and processes, the files read-only, a /tmp of its own, no capabilities. */
  function inRoot(program: string, ...args: string[]) {
    const script = [
      'mount --bind "$0" "$0"',
      'mount --rbind /dev "$0/dev"',
      'mount -t proc proc "$0/proc"',
      'mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"',
      'mount -o remount,bind,ro "$0"',
      'exec chroot --userspec=65532:65532 "$0" "$@"',
    ].join(' && ');
    const env = Object.fromEntries(runConfig.Env.map((pair) => pair.split('=') as [string, string]));
    return spawn(
      'unshare',
      [
        '--mount',
        '--pid',
        '--fork',
        '--kill-child=KILL',
        'env',
        '-i',
        `PATH=${process.env['PATH']}`,
        'sh',
        '-c',
        script,
        files,
      ].concat('/usr/local/bin/' + program, args),
      { env: { ...env, PATH: '/usr/sbin:/usr/bin:/sbin:/bin' }, stdio: ['ignore', 'pipe', 'pipe'] },
    );
  }

  async function addressOf(host: ReturnType<typeof inRoot>): Promise<string> {
    const lines: string[] = [];
    host.stderr?.on('data', (text: Buffer) => lines.push(text.toString()));
    for await (const line of createInterface({ input: host.stdout! })) {
      lines.push(line);
      const { address } = JSON.parse(line) as { address?: string };
      if (address !== undefined) return address;
    }
    throw new Error(`the host ended without listening:\n${lines.join('\n')}`);
  }
});
