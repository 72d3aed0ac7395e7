/** The status stream of a host: what it is now, then each change, as long as the host lives. */
import { request } from 'node:http';
import type { HostStatusLine } from '../../runtime/config.ts';

/** A line is one function's status: sixteen triggers with a message each. */
const maxLineBytes = 1024 * 1024;

/** How often an idle connection is asked below HTTP whether its other end is there: a node may vanish without a word. */
const keepAliveMs = 5_000;

/**
 * `address` is `unix:/path` or `http://host:port`. Resolves when the host has answered; from then on it listens to
 * signals. Rejects when it cannot be reached. `onEnd` is called once, when a stream that was open is over, for
 * whatever reason.
 */
export function followHostStatus(
  address: string,
  listeners: { onLine: (line: HostStatusLine) => void; onEnd: () => void },
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const path = '/status?watch=true';
    const asked = address.startsWith('unix:')
      ? request({ socketPath: address.slice('unix:'.length), path, signal, agent: false })
      : request(`${address}${path}`, { signal, agent: false });
    asked.setSocketKeepAlive(true, keepAliveMs);
    asked.once('error', reject);
    asked.once('response', (response) => {
      if (response.statusCode !== 200) {
        response.resume();
        return reject(new Error(`the host answered /status with ${response.statusCode}`));
      }
      resolve();
      let held = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => {
        const lines = (held + chunk).split('\n');
        held = lines.pop() ?? '';
        if (held.length > maxLineBytes) return response.destroy(new Error('a status line has no end'));
        for (const line of lines) if (line !== '') listeners.onLine(JSON.parse(line) as HostStatusLine);
      });
      // 'error' is followed by 'close', and so is a clean end.
      response.on('error', () => {});
      response.once('close', listeners.onEnd);
    });
    asked.end();
  });
}
