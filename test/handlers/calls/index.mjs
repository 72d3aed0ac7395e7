import { kv, mqtt, nats, ros } from 'atoll';

const early = await nats.publish('too.early').catch(({ code }) => code);

const told = (error) => ({
  code: error.code,
  name: error.name,
  message: error.message,
  retryable: error.retryable,
});

export const handler = async (event, context) => {
  if (event.early) return early;
  if (event.publish) await nats.publish(event.publish, event.data, event.options);
  if (event.fails) return nats.publish(event.fails).catch(told);
  if (event.request) return (await nats.request(event.request, event.data, event.options)).json();
  if (event.large) return nats.publish('large', Buffer.alloc(event.large, 'x')).catch(told);
  if (event.unawaited) void nats.publish(event.unawaited);
  if (event.unawaitedMany) for (let n = 0; n < event.unawaitedMany; n++) void nats.publish('many', { n });
  if (event.later) setTimeout(() => void nats.publish('much.later'), event.later);
  if (event.untilAborted) {
    const asked = nats.request('never');
    const error = await asked.catch((reason) => reason);
    const same = error === context.signal.reason;
    if (event.tells) console.log(`${error.message}: ${same}`);
    return { message: error.message, same };
  }
  if (event.flood) {
    const settled = await Promise.allSettled(
      Array.from({ length: event.flood }, () => nats.publish('flood', 'x'.repeat(event.bytes ?? 1))),
    );
    const failed = settled.filter(({ status }) => status === 'rejected').map(({ reason }) => reason.code);
    return { done: settled.length - failed.length, failed: failed.length, code: failed[0] };
  }
  if (event.every) {
    await mqtt.publish('a/b', { n: 1 }, { qos: 2, retain: true });
    const bucket = kv('settings');
    const revision = await bucket.put('speed', 3);
    await bucket.update('speed', '4', revision);
    await bucket.create('name', new Uint8Array([1, 2]));
    await bucket.delete('name', { revision: 9 });
    const entry = await bucket.get('speed');
    await ros.publish('/cmd_vel', 'geometry_msgs/msg/Twist', {
      linear: { x: 1n },
      ranges: new Float32Array([1.5, NaN]),
    });
    const answer = await ros.call('/reset', 'std_srvs/srv/Trigger', {}, { timeoutMs: 5 });
    const definition = await ros.definition('std_msgs/msg/String');
    await ros.topics();
    const { key, revision: seen } = entry;
    return {
      key,
      seen,
      text: entry.string(),
      missing: (await bucket.get('nothing')) === undefined,
      answer,
      definition,
    };
  }
  return 'ok';
};
