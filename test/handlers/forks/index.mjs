import { spawn } from 'node:child_process';
export const handler = async (event) => {
  const child = spawn('sleep', ['300'], { stdio: event.inherit ? 'inherit' : 'ignore' });
  child.unref();
  console.log(JSON.stringify({ pid: child.pid }));
  if (event.exit) process.exit(1);
  if (event.hang) await new Promise(() => {});
  return { pid: child.pid };
};
