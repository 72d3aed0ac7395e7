/** Commands from the hub: which are allowed, when one is too old, and what became of it. */
import { ros, type Context } from 'atoll';
import { encode, typed, type RosMessage } from 'atoll/telemetry';
import type { Definitions } from './definitions.ts';
import type { CommandSettings, Settings } from './settings.ts';

export type CommandAnswer =
  | { readonly ok: true; readonly command: string; readonly response?: unknown }
  | { readonly ok: false; readonly command: string; readonly code: Refusal; readonly message: string };

export type Refusal =
  /** There is no such command, or it is another robot's. */
  | 'UnknownCommand'
  /** It was sent longer ago than its `ttl`, or so far in the future that the clocks cannot be right. */
  | 'Expired'
  /** The header Atoll-Time is no time. */
  | 'InvalidTime'
  /** The payload is not of the command's type. */
  | 'InvalidCommand'
  /** The function was killed at it: it may have been carried out, and is not carried out again. */
  | 'Interrupted'
  /** ROS could not carry it out. */
  | 'Failed';

/** Never rejects: what is tried again later is no command any more. */
export function openCommands(
  settings: Settings,
  definitions: Definitions,
  now: () => number = Date.now,
): (payload: unknown, context: Context) => Promise<CommandAnswer> {
  return async (payload, context) => {
    const { subject, time, attempt, headers } = context.trigger;
    const [, robot, , ...rest] = subject.split('.');
    const name = rest.join('.');
    const command = settings.commands.find((one) => one.name === name);
    const refuse = (code: Refusal, message: string): CommandAnswer => ({
      ok: false,
      command: name,
      code,
      message,
    });

    if (robot !== settings.robot) {
      return refuse('UnknownCommand', `${subject} is for ${robot}, and this is ${settings.robot}`);
    }
    if (command === undefined) {
      const allowed = settings.commands.map((one) => one.name).join(', ') || 'none';
      return refuse('UnknownCommand', `there is no command "${name}" here; allowed: ${allowed}`);
    }
    if (attempt > 1) return refuse('Interrupted', 'it was begun once: it may have been carried out');
    const sentMs = sentTime(headers['Atoll-Time'], time);
    if (sentMs === undefined) {
      const given = JSON.stringify(headers['Atoll-Time']);
      return refuse(
        'InvalidTime',
        `the header Atoll-Time is ${given}; it must be milliseconds since the epoch`,
      );
    }
    const expired = expiry(now() - sentMs, command);
    if (expired !== undefined) return refuse('Expired', expired);

    let message: RosMessage;
    try {
      const type = 'service' in command.to ? `${command.type}_Request` : command.type;
      // An empty payload is a message of defaults.
      message = typed(await definitions.of(type), payload ?? {});
    } catch (error) {
      return refuse('InvalidCommand', (error as Error).message);
    }
    try {
      if ('topic' in command.to) {
        await ros.publish(command.to.topic, command.type, message);
        return { ok: true, command: name };
      }
      const timeoutMs = Math.min(command.timeoutMs, context.getRemainingTimeInMillis() - 100);
      const response = await ros.call<RosMessage>(command.to.service, command.type, message, { timeoutMs });
      return { ok: true, command: name, response: asJson(response) };
    } catch (error) {
      return refuse('Failed', (error as Error).message);
    }
  };
}

/** By the sender's clock where it says so, else when this robot got it. undefined: what it says is no time. */
function sentTime(header: string | undefined, receivedMs: number): number | undefined {
  if (header === undefined) return receivedMs;
  return /^\d{1,15}$/.test(header) ? Number(header) : undefined;
}

/** In words, where it is not to be carried out any more. */
function expiry(ageMs: number, { ttlMs }: CommandSettings): string | undefined {
  if (ageMs > ttlMs) return `it was sent ${ageMs} ms ago, by this robot's clock, and is good for ${ttlMs} ms`;
  if (ageMs < -ttlMs) {
    return `it was sent ${-ageMs} ms in the future, by this robot's clock: the clocks differ by more than its ${ttlMs} ms`;
  }
  return undefined;
}

/** 64-bit integers, NaN and bytes as JSON has them. */
const asJson = (message: RosMessage): unknown => JSON.parse(Buffer.from(encode(message, 'json')).toString());
