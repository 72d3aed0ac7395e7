/** What processes have used, as /proc tells it. */
import { readdirSync, readFileSync } from 'node:fs';

/** Whole processes are counted in ticks of 10 ms (proc(5)), threads in nanoseconds (schedstat). */
const ticksPerSecond = 100;

/** The process and all its descendants, as they are now. */
export function treeOf(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const parent = Number(statOf(Number(entry))[1]);
    const known = children.get(parent);
    if (known) known.push(Number(entry));
    else children.set(parent, [Number(entry)]);
  }
  const tree = [root];
  // A loop over a list that grows while it is walked: children of children.
  for (const pid of tree) tree.push(...(children.get(pid) ?? []));
  return tree;
}

/** CPU seconds, user and system, that each process of these trees has used so far. */
export function cpuOf(roots: readonly number[]): Map<number, number> {
  return new Map(roots.flatMap(treeOf).map((pid) => [pid, cpuSeconds(pid)]));
}

function cpuSeconds(pid: number): number {
  try {
    let nanoseconds = 0;
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      nanoseconds += Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(' ')[0]);
    }
    if (nanoseconds > 0) return nanoseconds / 1e9;
  } catch {
    // No schedstat in this kernel, or a thread that has just ended.
  }
  const stat = statOf(pid);
  return (Number(stat[11] ?? 0) + Number(stat[12] ?? 0)) / ticksPerSecond;
}

/** CPU seconds of the whole machine, idle ones left out; of what else runs on its host nothing is known. */
export function machineCpuSeconds(): number {
  const [user, nice, system, , , irq, softirq] = read('/proc/stat').split(/\s+/).slice(1, 9).map(Number);
  return ((user ?? 0) + (nice ?? 0) + (system ?? 0) + (irq ?? 0) + (softirq ?? 0)) / ticksPerSecond;
}

/** Memory of these processes in bytes, what they share with others divided among all that share it. */
export function pssBytes(pids: readonly number[]): number {
  let bytes = 0;
  for (const pid of pids) {
    const [, kibibytes] = /^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`)) ?? [];
    bytes += Number(kibibytes ?? 0) * 1024;
  }
  return bytes;
}

export function commandLineOf(pid: number): string {
  return read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
}

/** The fields after the name: 1 = parent, 11 = user time, 12 = system time. */
function statOf(pid: number): string[] {
  const stat = read(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** Empty for what is gone. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
