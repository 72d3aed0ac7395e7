import { expectEqual, type Attempt } from '../site.ts';

/** A PUT and a GET through the gateway. */
export const attempt: Attempt = async ({ url, headers = {} }) => {
  const sent = { x: 1.5, y: 2 };
  const put = await fetch(`${url}/examples/robots/r1`, {
    method: 'PUT',
    headers,
    body: JSON.stringify(sent),
  });
  expectEqual(put.status, 201);
  const got = await fetch(`${url}/examples/robots/r1`, { headers });
  const answer = (await got.json()) as typeof sent;
  expectEqual(answer.x, sent.x);
  return { trigger: 'http', sent: `PUT, GET /examples/robots/r1 ${JSON.stringify(sent)}`, answer };
};
