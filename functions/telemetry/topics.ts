/** What is known of each topic that came: its settings, its filter, its order, its numbers. */
import type { Schema } from 'atoll/telemetry';
import { openCounter, type Counter } from './counters.ts';
import { missingField } from './condition.ts';
import { openFilter, type Filter } from './filter.ts';
import { openLine, type Line } from './line.ts';
import type { Settings, TopicSettings } from './settings.ts';
import { matches, subjectOf } from './subjects.ts';
import { openWindow, type Window } from './window.ts';

/** A site with more topics than this makes new names without end. */
const maxTopics = 10_000;
/** Of one topic, that failed and come again; those that are given up in the end never say so. */
const maxPassages = 1_000;

export interface Topic {
  readonly name: string;
  /** undefined: nobody asked for it. */
  readonly settings: TopicSettings | undefined;
  /** After `robots.<robot>.<lane>.` */
  readonly subject: string;
  readonly counter: Counter;
  readonly line: Line;
  readonly window: Window;
  filter: Filter;
  /** Of the message before; another one begins the filter anew. */
  type: string;
  /** What of the settings the type does not have; by the hash of its definition. */
  readonly checked: Map<string, string | undefined>;
  /** Of the event of this id: the same when it comes again. */
  passage(id: string): Passage;
  /** It will not come again. */
  end(id: string): void;
  nextSequence(): number;
}

export interface Passage {
  isCounted: boolean;
  /** Given once it has passed the filter. */
  sequence: number | undefined;
}

export interface Topics {
  of(name: string, type: string): Topic;
  all(): Iterable<Topic>;
}

export function openTopics(settings: Settings): Topics {
  const topics = new Map<string, Topic>();
  return {
    all: () => topics.values(),
    of(name, type) {
      let topic = topics.get(name);
      if (topic === undefined) {
        if (topics.size >= maxTopics)
          throw new Error(`${name}: more than ${maxTopics} topics came; deny some`);
        topic = openTopic(name, type, settings);
        topics.set(name, topic);
      } else if (topic.type !== type) {
        topic.type = type;
        if (topic.settings !== undefined) topic.filter = openFilter(topic.settings);
      }
      return topic;
    },
  };
}

/** The first entry that takes it, where it is allowed and not denied. */
export function settingsOf(name: string, { topics, allow, deny }: Settings): TopicSettings | undefined {
  if (deny.some((pattern) => matches(pattern, name)) || !allow.some((pattern) => matches(pattern, name))) {
    return undefined;
  }
  const found = topics.find(({ ros }) => matches(ros, name));
  return found?.enabled === true ? found : undefined;
}

function openTopic(name: string, type: string, settings: Settings): Topic {
  const own = settingsOf(name, settings);
  const passages = new Map<string, Passage>();
  let last = 0;
  return {
    name,
    settings: own,
    subject: subjectOf(name, settings),
    counter: openCounter(),
    line: openLine(),
    window: openWindow(),
    filter: openFilter(own ?? nothing),
    type,
    checked: new Map(),
    passage(id) {
      let passage = passages.get(id);
      if (passage === undefined) {
        if (passages.size >= maxPassages) passages.delete(passages.keys().next().value!);
        passage = { isCounted: false, sequence: undefined };
        passages.set(id, passage);
      }
      return passage;
    },
    end: (id) => void passages.delete(id),
    nextSequence: () => (last += 1),
  };
}

const nothing = {
  maxHz: undefined,
  everyNth: 1,
  onChange: [],
  condition: [],
  atLeastEveryMs: undefined,
} as unknown as TopicSettings;

/** What the settings name and the type does not have, in words. */
export function misfit({ fields, onChange, condition }: TopicSettings, schema: Schema): string | undefined {
  const named = [
    ...(fields ?? []).map((path) => ['fields', path] as const),
    ...onChange.map(({ path }) => ['onChange', path] as const),
    ...condition.map(({ path }) => ['condition', path] as const),
  ];
  for (const [setting, path] of named) {
    const instead = missingField(schema, path);
    if (instead !== undefined) return `${setting}: ${schema.type} has no ${printed(path)}: ${instead}`;
  }
  return undefined;
}

export const printed = (path: readonly (string | number)[]): string =>
  path.map((step, at) => (typeof step === 'number' ? `[${step}]` : at === 0 ? step : `.${step}`)).join('');
