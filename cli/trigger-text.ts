import { sourceOf, type TriggerSpec } from '../crds/function.ts';

/** Where a trigger's events come from, on one line. `url`: the gateway's, for http triggers. */
export function triggerText(trigger: TriggerSpec, url?: string): string {
  const { kind, source } = sourceOf(trigger);
  switch (kind) {
    case 'nats':
      return source.subject;
    case 'jetstream':
      return source.subject === undefined ? source.stream : `${source.stream} ${source.subject}`;
    case 'mqtt':
      return `${source.topic} (QoS ${source.qos})`;
    case 'ros':
      return source.service ?? source.topic ?? source.topics?.map(({ match }) => match).join(', ') ?? '';
    case 'http': {
      const methods = source.methods?.join(',') ?? 'ANY';
      return `${methods} ${url ?? ''}${source.path}${source.pathType === 'Prefix' ? '…' : ''}`;
    }
    case 'schedule':
      return source.every === undefined
        ? `${source.cron}${source.timeZone === undefined ? '' : ` ${source.timeZone}`}`
        : `every ${source.every}`;
  }
}
