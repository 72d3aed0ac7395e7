import { readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { hubUrl, readRobotFile } from '../../../controller/broker/robot-file.ts';
import { openRobots, robotUsers } from '../../../controller/broker/robots.ts';
import { temporaryFolder } from '../../support/folder.ts';

test('the hub keeps public keys only, for the owner alone', async () => {
  const dir = await temporaryFolder();
  const secrets = await openRobots(dir).add('robot1');
  expect(secrets.link).toMatch(/^SU/);
  const file = join(dir, 'robots', 'robot1.json');
  const text = await readFile(file, 'utf8');
  expect(text).toMatch(/"link": "U/);
  expect(text).not.toContain(secrets.link);
  expect(text).not.toContain(secrets.claim);
  expect((await stat(file)).mode & 0o777).toBe(0o600);
});

test.each([
  '',
  'Robot1',
  '1robot',
  'robot-',
  'robot.1',
  'robot 1',
  '*',
  '>',
  'a'.repeat(53),
  'hub',
  'local',
  '../x',
])('no robot is called %j', async (id) => {
  const robots = openRobots(await temporaryFolder());
  await expect(robots.add(id)).rejects.toMatchObject({ code: 'InvalidRequest' });
});

test('an id is given once, and one that is not there is neither rotated nor removed', async () => {
  const robots = openRobots(await temporaryFolder());
  await robots.add('robot1');
  await expect(robots.add('robot1')).rejects.toThrow(/"robot1" already/);
  await expect(robots.rotate('robot2')).rejects.toThrow(/no robot "robot2"; there are: robot1/);
  await expect(robots.remove('robot2')).rejects.toThrow(/robot1/);
  await robots.remove('robot1');
  expect(await robots.list()).toEqual([]);
});

test('keys that were replaced open the link until their time is over, and never more than two pairs do', async () => {
  let now = Date.parse('2026-11-28T12:00:00Z');
  const robots = openRobots(await temporaryFolder(), () => now);
  const valid = async (): Promise<number> => robotUsers(await robots.list(), now).length;
  await robots.add('robot1');
  await robots.rotate('robot1', 60_000);
  expect(await valid()).toBe(2);
  await robots.rotate('robot1', 60_000);
  expect(await valid()).toBe(2);
  now += 60_000;
  expect(await valid()).toBe(1);
  await robots.rotate('robot1', 0);
  expect(await valid()).toBe(1);
});

test('a change by another process is told', async () => {
  const dir = await temporaryFolder();
  const told = Promise.withResolvers<void>();
  const stop = openRobots(dir).watch(() => told.resolve());
  await openRobots(dir).add('robot1');
  await told.promise;
  stop();
});

test('keys whose file for the robot cannot be written are not taken over, and those before stay good', async () => {
  const robots = openRobots(await temporaryFolder());
  const full = (): Promise<void> => Promise.reject(new Error('ENOSPC'));
  await expect(robots.add('robot1', full)).rejects.toThrow('ENOSPC');
  await robots.add('robot1');
  const before = await robots.list();
  // The second try was what took away the keys that the robot has.
  for (let tries = 0; tries < 2; tries += 1) {
    await expect(robots.rotate('robot1', 60_000, full)).rejects.toThrow('ENOSPC');
    expect(await robots.list()).toEqual(before);
  }
  let carried: unknown;
  const secrets = await robots.rotate('robot1', 60_000, (given) => {
    carried = given;
    return Promise.resolve();
  });
  expect(carried).toEqual(secrets);
  expect(robotUsers(await robots.list(), Date.now())).toHaveLength(2);
});

test('a damaged file is named, and nothing else in the folder counts', async () => {
  const dir = await temporaryFolder();
  const robots = openRobots(dir);
  await robots.add('robot1');
  await writeFile(join(dir, 'robots', 'notes.txt'), 'x');
  expect((await robots.list()).map(({ id }) => id)).toEqual(['robot1']);
  await writeFile(join(dir, 'robots', 'robot1.json'), '{"keys"');
  await expect(robots.list()).rejects.toThrow(/robot1\.json is damaged/);
  expect(await readdir(join(dir, 'robots'))).toContain('robot1.json');
});

test.each([
  ['tls://hub', 'tls://hub:7422'],
  ['tls://hub:443', 'tls://hub:443'],
  ['nats://10.0.0.1', 'nats-leaf://10.0.0.1:7422'],
  ['wss://hub', 'wss://hub:9443'],
  ['wss://hub:443', 'wss://hub:443'],
  ['wss://hub/nats/', 'wss://hub:9443/nats'],
  ['ws://[::1]:80', 'ws://[::1]:80'],
])('--hub %s leads to %s', (given, url) => {
  expect(hubUrl(given, { leaf: 7422, websocket: 9443 })).toBe(url);
});

test.each(['hub', 'http://hub', 'tls://', 'tls://user:pass@hub', ''])('--hub %j is refused', (given) => {
  expect(() => hubUrl(given, { leaf: 7422 })).toThrow(/--hub/);
});

test('a file that others may read, or that was damaged, is refused without quoting it', async () => {
  const dir = await temporaryFolder();
  const secrets = await openRobots(dir).add('robot1');
  const file = join(dir, 'carried.json');
  const content = { ...secrets, hub: 'hub', ports: { leaf: 1 } };
  await writeFile(file, JSON.stringify(content), { mode: 0o644 });
  await expect(readRobotFile(file)).rejects.toThrow(/chmod 600/);
  const private_ = join(dir, 'private.json');
  await writeFile(private_, JSON.stringify(content), { mode: 0o600 });
  expect(await readRobotFile(private_)).toEqual(content);
  await writeFile(private_, JSON.stringify({ ...content, link: 'SUCHASECRET' }), { mode: 0o600 });
  await expect(readRobotFile(private_)).rejects.toThrow(/^(?!.*SUCHASECRET).*damaged/);
  await writeFile(private_, 'null', { mode: 0o600 });
  await expect(readRobotFile(private_)).rejects.toMatchObject({ code: 'InvalidRequest' });
  await writeFile(private_, '{"link": "SUCHASECRET', { mode: 0o600 });
  await expect(readRobotFile(private_)).rejects.toThrow(/^(?!.*SUCHASECRET).*no JSON/);
});
