/** What the gateway hangs on every request. */
import type { FastifyInstance } from 'fastify';
import { readBody } from './body.ts';
import type { Match } from './routes.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Absent: an http trigger, or nothing. */
    door?: 'open' | 'control' | 'package';
    /** Label in the gateway's metrics. */
    route?: string;
  }
  interface FastifyRequest {
    /** Reads it, once, however often it is asked for; rejects with AtollError TooLarge. */
    wholeBody(limit: number): Promise<Buffer>;
    /** The body, if somebody has asked for it. */
    takenBody?: Promise<Buffer>;
    /** Aborted when the client went away before its answer was out, and when the gateway stops for good. */
    gone: AbortSignal;
    /** Which http trigger it is for; absent on our own doors. */
    match?: Match;
    /** The key that opened the door, where one was asked for. */
    keyId?: string;
    /** Whose Kubernetes token opened it, where one did. */
    user?: string;
  }
}

export function decorateRequests(app: FastifyInstance): void {
  app.decorateRequest('wholeBody', function (limit) {
    return (this.takenBody ??= readBody(this.raw, limit));
  });
  // Bodies are left on the wire: doors look at them when a signature covers them, the proxy passes them on.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', (_request, _payload, done) => done(null));
  app.addHook('onRequest', (request, reply, done) => {
    // Fastify refuses a Content-Type it cannot read, before anybody asked for the body; request.raw still has it.
    request.headers = { 'content-type': undefined };
    const gone = new AbortController();
    request.gone = gone.signal;
    reply.raw.once('close', () => {
      if (!reply.raw.writableFinished) gone.abort();
    });
    done();
  });
}
