/** Names of topics and services, and the patterns that stand for several of them. */

/** Absolute names stay; others are below the site's namespace, as ROS resolves them. */
export function resolveName(name: string, namespace: string): string {
  if (name.startsWith('/')) return name;
  return `${namespace === '/' ? '' : namespace}/${name}`;
}

export const isPattern = (match: string): boolean => match.includes('*');

/** `*` is what one level holds, or a part of it; `**` any number of levels, also none. */
export function patternOf(match: string): RegExp {
  const levels = match.split('/').slice(1);
  const source = levels.map((level) =>
    level === '**' ? '(/[^/]+)*' : `/${level.replaceAll('*', level === '*' ? '[^/]+' : '[^/]*')}`,
  );
  return new RegExp(`^${source.join('')}$`);
}

/** As ROS's own tools hide them: a level that begins with "_". */
export const isHidden = (name: string): boolean => name.includes('/_');
