import type { HttpEvent, HttpResult } from 'atoll';

/** State lives in the process: fine for an example, lost with it. */
const robots = new Map<string, unknown>();

/** A little REST API behind one path, in API Gateway's payload format 2.0. */
export const handler = async (event: HttpEvent): Promise<HttpResult> => {
  const id = event.rawPath.split('/')[3];
  const { method } = event.requestContext.http;
  if (id === undefined || id === '') return json(200, { robots: [...robots.keys()] });
  if (method === 'PUT') {
    robots.set(id, JSON.parse(event.body ?? 'null'));
    return json(201, { id });
  }
  return robots.has(id) ? json(200, robots.get(id)) : json(404, { message: `no robot ${id}` });
};

function json(statusCode: number, body: unknown): HttpResult {
  return { statusCode, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}
