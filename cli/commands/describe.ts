import { sourceOf, type FunctionObject } from '../../crds/function.ts';
import { defineCommand } from '../command.ts';
import type { Gateway } from '../gateway.ts';
import { adviceFor } from '../advice.ts';
import { age, fields, paint, print, printData, shortDigest, table } from '../output.ts';
import { existing, openSite } from '../site.ts';
import { triggerText } from '../trigger-text.ts';
import type { Failure } from '../failure.ts';

export const command = defineCommand({
  positionals: {
    name: { type: 'string', describe: 'The function', required: true, completes: 'function' },
  },
  options: {},
  examples: [
    ['describe hello', 'Conditions, triggers with their connection, last error, dead letters'],
    ['describe hello -o json', 'The same as data'],
  ],
  async run({ site: dir, context, namespace, name, output }) {
    const site = await openSite({ site: dir, context });
    const object = await existing(site.store, { namespace, name });
    const { gateway } = site;
    const live = gateway === undefined ? undefined : await liveOf(gateway, object);
    if (output === 'json' || output === 'yaml') return printData({ ...object, live }, output);
    print(describe(object, live, site.url));
  },
});

/** Counting more would take longer than the answer is worth. */
const countedDeadLetters = 1000;

interface Live {
  readonly triggers?: readonly { name: string; ready: boolean; reason: string; message: string }[];
  readonly deadLetters?: number;
  /** Why the site could not be asked. */
  readonly problem?: string;
}

async function liveOf(gateway: Gateway, { metadata }: FunctionObject): Promise<Live> {
  try {
    const status = await gateway.status(metadata);
    // Without JetStream there are none to count.
    const deadLetters = await gateway.deadLetters(metadata, countedDeadLetters).catch(() => undefined);
    return {
      triggers: status.triggers ?? [],
      ...(deadLetters && { deadLetters: deadLetters.length }),
    };
  } catch (error) {
    return { problem: (error as Failure).message };
  }
}

function describe(object: FunctionObject, live: Live | undefined, url: string | undefined): string {
  const { metadata, spec, status = {} } = object;
  const now = Date.now();
  const sections = [
    fields([
      ['Name', metadata.name],
      ['Namespace', metadata.namespace],
      [
        'Created',
        `${metadata.creationTimestamp} (${age(now - Date.parse(metadata.creationTimestamp ?? ''))} ago)`,
      ],
      ['Generation', `${metadata.generation}, observed ${status.observedGeneration ?? 'none'}`],
      ['Runtime', `${spec.runtime}, handler ${spec.handler}`],
      [
        'Limits',
        `${spec.timeoutSeconds} s, ${spec.memory}, ${spec.processes} × ${spec.concurrency} at a time`,
      ],
      ['Retry', `${spec.retry.maxAttempts} attempts, for at most ${spec.retry.maxAgeSeconds} s`],
      ['Package', packageText(object)],
      ...(live?.deadLetters === undefined
        ? []
        : [['Dead letters', deadLettersText(metadata.name, live.deadLetters)] as const]),
      ...(live === undefined ? [['Site', 'does not run: this is what was last known'] as const] : []),
      ...(live?.problem === undefined ? [] : [['Site', live.problem] as const]),
    ]),
  ];
  const conditions = status.conditions ?? [];
  sections.push(
    `Conditions:\n${indent(
      conditions.length === 0
        ? 'none yet'
        : table(
            ['TYPE', 'STATUS', 'SINCE', 'REASON', 'MESSAGE'],
            conditions.map(({ type, status, lastTransitionTime, reason, message }) => [
              type,
              status,
              age(now - Date.parse(lastTransitionTime)),
              reason,
              message,
            ]),
          ),
    )}`,
  );
  sections.push(`Triggers:\n${indent(triggersText(object, live, url))}`);
  if (status.lastError !== undefined) {
    const { code, message, time } = status.lastError;
    const help = adviceFor(code);
    sections.push(
      `${paint('red', 'Last error')}: ${code}, ${age(now - Date.parse(time))} ago\n${indent(message)}${help === undefined ? '' : `\n${indent(help)}`}`,
    );
  }
  return sections.join('\n\n');
}

function packageText({ spec, status }: FunctionObject): string {
  const wanted = spec.package?.sha256;
  if (spec.package === undefined) return 'none: run "faas deploy"';
  if (spec.package.inline !== undefined) return 'inline';
  const answering = status?.packageSha256;
  const text = `${shortDigest(wanted)} from ${spec.package.uri}`;
  return answering === wanted ? text : `${text}; ${shortDigest(answering)} answers`;
}

const deadLettersText = (name: string, count: number): string =>
  count === 0
    ? '0'
    : `${count === countedDeadLetters ? `${count} or more` : count}: see "faas dead list ${name}"`;

function triggersText(
  { spec, status }: FunctionObject,
  live: Live | undefined,
  url: string | undefined,
): string {
  if (spec.triggers.length === 0) return 'none: it runs when it is invoked';
  const states = live?.triggers ?? status?.triggers ?? [];
  return table(
    ['NAME', 'KIND', 'SOURCE', 'READY', 'REASON', 'MESSAGE'],
    spec.triggers.map((trigger) => {
      const state = states.find(({ name }) => name === trigger.name);
      const ready = state === undefined ? 'Unknown' : state.ready ? 'True' : 'False';
      return [
        trigger.name,
        sourceOf(trigger).kind,
        triggerText(trigger, url),
        ready,
        state?.reason ?? '',
        state?.message ?? '',
      ];
    }),
  );
}

const indent = (text: string): string => text.replaceAll(/^/gm, '  ');
