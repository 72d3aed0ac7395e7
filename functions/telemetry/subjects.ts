/** From topics of ROS to subjects of NATS. Pure. */
import type { Settings } from './settings.ts';

/** `*` stands for anything within a level, `**` for any number of levels. */
export function matches(pattern: string, topic: string): boolean {
  return expression(pattern).test(topic);
}

const expressions = new Map<string, RegExp>();

function expression(pattern: string): RegExp {
  let found = expressions.get(pattern);
  if (found === undefined) {
    const source = pattern.replaceAll(/\/\*\*|\*/g, (star) => (star === '*' ? '[^/]*' : '(?:/[^/]+)*'));
    found = new RegExp(`^${source}$`);
    expressions.set(pattern, found);
  }
  return found;
}

/** `/camera/image` is `camera.image`: names of ROS have no dots, so no two topics share a subject. */
export function subjectOf(
  topic: string,
  { namespace, subjects }: Pick<Settings, 'namespace' | 'subjects'>,
): string {
  // Not every object that YAML makes has only own properties.
  if (Object.hasOwn(subjects, topic)) return subjects[topic]!;
  const inside =
    namespace !== '' && topic.startsWith(`${namespace}/`) ? topic.slice(namespace.length) : topic;
  return inside.slice(1).replaceAll('/', '.');
}

/** No topic of ROS has such a name, so that none can be written over. */
export const schemaSubject = (robot: string, hash: string): string =>
  `robots.${robot}.kept.ros-schemas.${hash}`;
