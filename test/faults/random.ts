/** Random moments that can be had again: the seed is printed with every fault, and ATOLL_SEED gives it back. */
import { createHash, randomInt } from 'node:crypto';

export interface Random {
  readonly seed: number;
  /** At least `from`, less than `to`. */
  between(from: number, to: number): number;
  pick<T>(of: readonly T[]): T;
}

const given = process.env['ATOLL_SEED'];
const seed = given === undefined ? randomInt(2 ** 32 - 1) : Number(given);
if (!Number.isSafeInteger(seed)) throw new Error(`ATOLL_SEED: "${given}" is not a whole number`);

/** Each name has a sequence of its own, so one fault alone strikes as it did among the others. */
export function randomFor(name: string): Random {
  let counter = 0;
  const next = (): number => {
    const digest = createHash('sha256').update(`${seed} ${name} ${counter++}`).digest();
    return digest.readUInt32LE() / 2 ** 32;
  };
  return {
    seed,
    between: (from, to) => from + next() * (to - from),
    pick<T>(of: readonly T[]): T {
      if (of.length === 0) throw new Error('nothing to pick from');
      return of[Math.floor(next() * of.length)] as T;
    },
  };
}
