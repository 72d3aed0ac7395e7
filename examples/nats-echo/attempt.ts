import { expectEqual, type Attempt } from '../site.ts';

/** A NATS request, answered by the handler. */
export const attempt: Attempt = async ({ nats }) => {
  const sent = { text: 'hello' };
  const reply = await nats.request('examples.echo', JSON.stringify(sent), { timeout: 10_000 });
  const answer = reply.json<{ echo: string }>();
  expectEqual(answer.echo, sent.text);
  return { trigger: 'nats', sent: `request examples.echo ${JSON.stringify(sent)}`, answer };
};
