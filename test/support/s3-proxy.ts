/** In front of a real S3 server: what a bad network, a bad proxy or a bad server does to its answers. */
import { createServer, request as ask } from 'node:http';
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { closeLater } from './closing.ts';
import type { Closing } from './closing.ts';

export interface RealAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Instead of passing the real answer on. `real` asks the server, once at most. */
export type Misbehaviour = (exchange: {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  real(): Promise<RealAnswer>;
}) => Promise<void>;

export interface S3Proxy {
  readonly endpoint: string;
  /** From now on; undefined: as the server does. */
  misbehave(how: Misbehaviour | undefined): void;
  /** `GET /bucket/key` of all that came since the last call. */
  seen(): string[];
}

/** Signatures cover the Host, which is passed on as it came. */
export async function startS3Proxy(target: string, options: { closing?: Closing } = {}): Promise<S3Proxy> {
  let how: Misbehaviour | undefined;
  let seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(`${request.method} ${request.url}`);
    const real = (): Promise<RealAnswer> => realAnswer(target, request);
    void (how ?? passOn)({ request, response, real }).catch(() => response.destroy());
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  closeLater(async () => {
    server.closeAllConnections();
    server.close();
  }, options.closing);
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    misbehave(next) {
      how = next;
    },
    seen() {
      const all = seen;
      seen = [];
      return all;
    },
  };
}

const passOn: Misbehaviour = async ({ response, real }) => {
  const { status, headers, body } = await real();
  response.writeHead(status, headers).end(body);
};

function realAnswer(target: string, from: IncomingMessage): Promise<RealAnswer> {
  return new Promise((resolve, reject) => {
    const { method, headers, url = '/' } = from;
    const request = ask(new URL(url, target), { method, headers, agent: false }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('error', reject);
      answer.on('end', () =>
        resolve({ status: answer.statusCode ?? 502, headers: answer.headers, body: Buffer.concat(chunks) }),
      );
    });
    request.on('error', reject);
    from.pipe(request);
  });
}
