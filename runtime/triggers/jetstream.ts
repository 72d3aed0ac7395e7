/** A stream calls the function, each message until it is handled or dead-lettered (CONTRACTS 4.1). */
import type { TriggerSources } from '../../crds/function.ts';
import { openConsumer } from '../consumer.ts';
import { triggerConsumer } from '../names.ts';
import { recordOf } from './nats.ts';
import type { Trigger, TriggerContext } from './trigger.ts';

export function openJetStream(source: TriggerSources['jetstream'], context: TriggerContext): Trigger {
  const { stream, domain } = source;
  return openConsumer(
    {
      stream,
      consumer: triggerConsumer(context.function, context.name),
      domain,
      filter: source.subject,
      startAt: source.startAt,
      trigger: context.name,
      read: ({ subject, headers, data, sequence, time }) => ({
        event: {
          id: `${stream}:${sequence}`,
          trigger: context.name,
          kind: 'jetstream',
          subject,
          time,
          headers: headers ? recordOf(headers) : {},
          encoding: context.encoding,
          data,
          detail: { stream, sequence, ...(domain !== undefined && { domain }) },
        },
        attemptsId: `${stream}:${sequence}`,
      }),
    },
    context,
  );
}
