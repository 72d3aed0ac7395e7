/** What commands print: results on stdout, everything said about them on stderr. */
import { styleText } from 'node:util';

export type Format = 'json' | 'yaml' | 'wide' | undefined;
type Style = Parameters<typeof styleText>[0];

/** Coloured only where the stream is a terminal; NO_COLOR and FORCE_COLOR are heeded. */
export const paint = (style: Style, text: string, stream: NodeJS.WriteStream = process.stdout): string =>
  styleText(style, text, { stream });

export function print(text: string): void {
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

export function note(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** As data, for programs: JSON with two spaces, or YAML. */
export async function printData(value: unknown, format: 'json' | 'yaml'): Promise<void> {
  if (format === 'json') return print(JSON.stringify(value, null, 2));
  const { stringify } = await import('yaml');
  print(stringify(value, { lineWidth: 0 }));
}

/** Columns as kubectl's: as wide as their widest cell, three spaces apart, nothing after the last. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  return [header, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join('   ')
        .trimEnd(),
    )
    .join('\n');
}

/** `Name:  value` lines, values under one another; nested lines are indented by who gives them. */
export function fields(entries: readonly (readonly [string, string])[]): string {
  const width = Math.max(...entries.map(([name]) => name.length)) + 1;
  return entries.map(([name, value]) => `${`${name}:`.padEnd(width)}  ${value}`.trimEnd()).join('\n');
}

/** A span of time as kubectl's AGE: 45s, 3m20s, 15m, 4h5m, 2d3h, 12d. */
export function age(spanMs: number): string {
  const seconds = Math.max(0, Math.floor(spanMs / 1000));
  if (seconds < 120) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 10) return withRest(minutes, 'm', seconds % 60, 's');
  if (minutes < 180) return `${minutes}m`;
  const hours = Math.floor(minutes / 60);
  if (hours < 8) return withRest(hours, 'h', minutes % 60, 'm');
  if (hours < 48) return `${hours}h`;
  const days = Math.floor(hours / 24);
  return days < 8 ? withRest(days, 'd', hours % 24, 'h') : `${days}d`;
}

const withRest = (count: number, unit: string, rest: number, restUnit: string): string =>
  rest === 0 ? `${count}${unit}` : `${count}${unit}${rest}${restUnit}`;

/** Milliseconds of a span such as 500ms, 30s, 5m, 2h, 1d; undefined when it is none. */
export function spanMs(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text);
  if (match === null) return undefined;
  const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
  return Number(match[1]) * units[match[2] as keyof typeof units];
}

export const shortDigest = (sha256: string | undefined): string => sha256?.slice(0, 12) ?? '<none>';
