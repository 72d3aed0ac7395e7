#!/usr/bin/env node
// Plain JavaScript that any Node from 18 on runs: it finds the Node this package pins and starts the CLI with it.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import module, { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The first version that runs TypeScript sources without a flag. */
const oldestNode = [22, 18];

// `npm install -g .` links the package: Node has resolved the link already, so this is the package's real folder.
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const node = pinnedNode() ?? runningNode();
if (node === undefined) {
  console.error(
    [
      `faas: Node ${process.versions.node} is too old, and the Node this package pins is not installed.`,
      `Looked for the package node-linux-${process.arch} beside ${root}.`,
      `Install it with "npm ci --include=optional" there, or put Node ${oldestNode.join('.')} or newer first in PATH.`,
    ].join('\n'),
  );
  process.exit(3);
}
const main = mainFile();
// What was compiled (and stripped of types) once need not be again: it halves the start. In a folder of the user's
// own, since whoever can write there decides what runs.
const compileCache = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'atoll', 'compiled');
if (node === process.execPath) {
  process.argv[1] = main;
  module.enableCompileCache?.(compileCache);
  await import(main);
} else {
  startWith(node);
}

function pinnedNode() {
  const require = createRequire(import.meta.url);
  try {
    const manifest = require.resolve(`node-linux-${process.arch}/package.json`);
    const path = join(dirname(manifest), 'bin', 'node');
    return existsSync(path) ? path : undefined;
  } catch {
    return undefined;
  }
}

function runningNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  const isNewEnough = major > oldestNode[0] || (major === oldestNode[0] && minor >= oldestNode[1]);
  return isNewEnough ? process.execPath : undefined;
}

function mainFile() {
  const sources = join(root, 'cli', 'main.ts');
  // Node strips no types under node_modules: there the built JavaScript runs.
  if (!root.split('/').includes('node_modules') && existsSync(sources)) return sources;
  const built = join(root, 'dist', 'cli', 'main.js');
  if (existsSync(built)) return built;
  console.error(`faas: ${built} is missing: build it with "npm run prepare" in ${root}.`);
  process.exit(3);
}

function startWith(path) {
  // The channel tells the CLI when this process is killed: it then stops as on SIGTERM instead of staying behind.
  const child = spawn(path, [main, ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { NODE_COMPILE_CACHE: compileCache, ...process.env },
  });
  child.channel?.unref();
  // A terminal signals both processes: the CLI counts signals of one kind that come together as one.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  child.on('error', (error) => {
    console.error(`faas: ${path} could not be started: ${error.message}`);
    process.exit(3);
  });
  child.on('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}
