/** What `faas doctor` found out about one part of a site. */
export interface Check {
  /** `node`, `nats`, `function default/hello`: the same word at each run. */
  readonly part: string;
  /** `none`: there is nothing to look at, such as the S3 of a site without one. */
  readonly state: 'ok' | 'warning' | 'problem' | 'none';
  /** What was seen: versions, addresses, numbers. Never a secret. */
  readonly message: string;
  /** What to do; at least for every problem. */
  readonly advice?: string;
  /** Whose it is: a function's own mistake is its author's, everything else the site's. */
  readonly whose?: 'yours' | 'ours';
}

type Told = Omit<Check, 'part' | 'state'>;

/** Checks of one part, as short as they are read. */
export function checksOf(part: string) {
  const of =
    (state: Check['state']) =>
    (message: string, advice?: string, more: Partial<Told> = {}): Check => ({
      part,
      state,
      message,
      ...(advice !== undefined && { advice }),
      ...more,
    });
  return { ok: of('ok'), warning: of('warning'), problem: of('problem'), none: of('none') };
}

/** 1.5 GiB, 20 MiB, 512 B. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let step = 0;
  for (; bytes >= 1024 && step < units.length - 1; step += 1) bytes /= 1024;
  return `${step === 0 || bytes >= 100 ? Math.round(bytes) : Number(bytes.toFixed(1))} ${units[step]}`;
}
