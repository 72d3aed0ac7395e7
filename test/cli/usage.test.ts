import { describe, expect, test } from 'vitest';
import { commandNames, commands } from '../../cli/commands/index.ts';
import { helpOf } from '../../cli/usage.ts';
import { faas } from './run.ts';

test('without a command the overview is printed on stderr and the exit code is 2', async () => {
  const { code, stdout, stderr } = await faas([]);
  expect(code).toBe(2);
  expect(stdout).toBe('');
  for (const name of commandNames) expect(stderr).toContain(name);
});

test('--help prints the overview on stdout', async () => {
  const { code, stdout } = await faas(['--help']);
  expect(code).toBe(0);
  for (const name of commandNames) expect(stdout).toContain(commands[name].summary);
});

test('--version and version print the version of the package', async () => {
  expect((await faas(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  expect((await faas(['version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  const { stdout } = await faas(['version', '-o', 'json']);
  expect(JSON.parse(stdout)).toMatchObject({ atoll: expect.any(String), node: process.version });
});

test('a mistyped command is answered with the one that was meant', async () => {
  const { code, stderr } = await faas(['lgos', 'hello']);
  expect(code).toBe(2);
  expect(stderr).toContain('unknown command "lgos"');
  expect(stderr).toContain('Did you mean "faas logs"?');
});

test('a mistyped option is answered with the one that was meant', async () => {
  const { code, stderr } = await faas(['invoke', 'hello', '--aysnc']);
  expect(code).toBe(2);
  expect(stderr).toContain('unknown option --aysnc');
  expect(stderr).toContain('Did you mean --async?');
});

test.each([
  ['a missing name', ['invoke']],
  ['one argument too many', ['get', 'one', 'two']],
  ['an option without its value', ['logs', 'hello', '--since']],
  ['an unknown format', ['list', '-o', 'xml']],
  ['an option given twice', ['list', '-n', 'a', '-n', 'b']],
  ['an unknown action', ['dead', 'bury', 'hello']],
  ['a span that is none', ['logs', 'hello', '--since', 'yesterday']],
  ['a limit of nothing', ['logs', 'hello', '--limit', '0']],
  ['a name that cannot be one', ['init', 'Not_A_Name']],
  ['an unknown template', ['init', 'x', '--template', 'cobol']],
  ['a timeout of nothing', ['invoke', 'hello', '--timeout', '0']],
  ['an event that is not JSON', ['invoke', 'hello', '-d', '{bad']],
])('%s is a usage error', async (_what, args) => {
  const { code, stdout, stderr } = await faas(args);
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  expect(stderr).toMatch(/^error: /);
});

test('where no site is found the exit code is 3 and the advice says how to start one', async () => {
  const { code, stderr } = await faas(['list'], { cwd: '/' });
  expect(code).toBe(3);
  expect(stderr).toContain('NoSite');
  expect(stderr).toContain('faas up');
});

describe.each(commandNames)('%s', (name) => {
  test('its help tells usage, options and examples', async () => {
    const command = await commands[name].load();
    const help = await helpOf(name, command);
    expect(help).toContain(`faas ${name}`);
    expect(help).toContain(commands[name].summary);
    for (const option of Object.keys(command.options)) expect(help).toContain(`--${option}`);
    for (const common of ['--site', '--namespace', '--output', '--help']) expect(help).toContain(common);
    expect(command.examples.length).toBeGreaterThan(0);
    for (const [line] of command.examples) {
      expect(line).toMatch(new RegExp(`^${name}\\b|\\| faas ${name}\\b`));
    }
  });
});

test('faas COMMAND --help prints that help', async () => {
  const { code, stdout } = await faas(['deploy', '--help']);
  expect(code).toBe(0);
  expect(stdout).toContain('faas deploy [DIR]');
  expect(stdout).toContain('Examples:');
});
