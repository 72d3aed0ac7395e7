/** (Function, what runs, now) → its status. Pure: the same input gives the same status, so writing it twice is nothing. */
import type { Condition, FunctionObject, FunctionStatus, TriggerStatus } from '../../crds/function.ts';
import type { HostFunctionStatus } from '../../runtime/config.ts';
import { errorCodes, type ErrorCode } from '../../runtime/errors.ts';
import type { Observation } from '../backends/backend.ts';
import type { RouteConflict } from './routes.ts';

const historyLength = 10;
/** CONTRACTS 2: lastError as a whole stays within 1 KiB; code and time need their share. */
const messageBytes = 800;

/** What a host says while it still works on it; everything else that is not ready is a failure. */
export const underWay = new Set(['Pending', 'Updating', 'Fetching', 'Starting', 'Connecting', 'NotOpened']);

export interface StatusInput {
  readonly object: FunctionObject;
  /** Undefined: the backend runs nothing of that key. */
  readonly observation: Observation | undefined;
  /** Of this Function's triggers only. */
  readonly conflicts?: readonly RouteConflict[];
  /** ms since the epoch. */
  readonly now: number;
}

interface Verdict {
  readonly status: Condition['status'];
  readonly reason: string;
  readonly message: string;
}

/**
 * Ready only when package, handler and all triggers of exactly this generation are. While a new package fails
 * and the old one still answers: Ready=False with the new one's reason, Available=True, Progressing=False.
 */
export function statusOf({ object, observation, conflicts = [], now }: StatusInput): FunctionStatus {
  const previous = object.status ?? {};
  const { generation } = object.metadata;
  const time = new Date(now).toISOString();
  const hosts = observation?.hosts ?? [];
  const current = hosts.filter((host) => host.generation === generation);
  const waiting = whatKeepsItWaiting(object, observation, current);

  const packageReady = waiting ?? worst(current, (host) => host.package, 'the package is in place');
  const handlerReady = waiting ?? worst(current, (host) => host.handler, 'the handler is ready');
  const triggers = triggersOf(object, hosts, conflicts);
  const triggersReady = waiting ?? triggersVerdict(triggers);
  const rolledOut = waiting ?? rollout(observation);
  const available = availability(hosts);
  const failing = [packageReady, handlerReady, triggersReady, rolledOut].find(
    ({ status }) => status !== 'True',
  );
  const ready: Verdict = failing
    ? { ...failing, status: 'False' }
    : { status: 'True', reason: 'Ready', message: 'package, handler and triggers are ready' };
  const ignored = observation?.ignored ?? [];
  const told =
    ignored.length === 0
      ? ready
      : { ...ready, message: `${ready.message}; ignored here: ${ignored.join(', ')}` };

  const condition = (type: Condition['type'], verdict: Verdict): Condition => {
    const before = previous.conditions?.find((one) => one.type === type);
    return {
      type,
      status: verdict.status,
      reason: verdict.reason,
      message: cut(verdict.message),
      observedGeneration: generation,
      lastTransitionTime: before?.status === verdict.status ? before.lastTransitionTime : time,
    };
  };
  const packageSha256 = answering(hosts, current);
  const history = historyOf(previous.history, packageSha256, time);
  const lastError = errorOf(failing, previous, time);
  return {
    observedGeneration: generation,
    replicas: observation?.replicas ?? 0,
    readyReplicas: observation?.readyReplicas ?? 0,
    ...(observation?.selector !== undefined && { selector: observation.selector }),
    ...(packageSha256 !== undefined && { packageSha256 }),
    ...(history.length > 0 && { history }),
    conditions: [
      condition('Ready', told),
      condition('PackageReady', packageReady),
      condition('TriggersReady', triggersReady),
      condition('Available', available),
      condition('Progressing', progress(failing)),
    ],
    triggers,
    ...(lastError && { lastError }),
  };
}

/**
 * The status of a Function whose stored form cannot be read: what runs goes on running, so only Ready says so.
 */
export function statusOfUnreadable(
  previous: FunctionStatus,
  problem: { reason: string; message: string },
  now: number,
): FunctionStatus {
  const time = new Date(now).toISOString();
  const failing: Verdict = { status: 'False', ...problem };
  const before = previous.conditions?.find((one) => one.type === 'Ready');
  const ready: Condition = {
    type: 'Ready',
    status: 'False',
    reason: problem.reason,
    message: cut(problem.message),
    observedGeneration: previous.observedGeneration ?? 0,
    lastTransitionTime: before?.status === 'False' ? before.lastTransitionTime : time,
  };
  const lastError = errorOf(failing, previous, time);
  const others = (previous.conditions ?? []).filter(({ type }) => type !== 'Ready');
  return { ...previous, conditions: [ready, ...others], ...(lastError && { lastError }) };
}

/** Why no host can speak of this generation yet; undefined when one does. */
function whatKeepsItWaiting(
  { metadata, spec }: FunctionObject,
  observation: Observation | undefined,
  current: readonly HostFunctionStatus[],
): Verdict | undefined {
  if (!spec.package) return { status: 'False', reason: 'NoPackage', message: errorCodes.NoPackage.text };
  if (observation?.problem) return { status: 'False', ...observation.problem };
  if (spec.replicas === 0 && !spec.scaling) {
    return { status: 'False', reason: 'ScaledToZero', message: 'spec.replicas is 0: nothing is to run' };
  }
  if (spec.scaling && observation?.rollout?.wanted === 0) {
    return { status: 'False', reason: 'ScaledToZero', message: 'the autoscaler lets nothing run now' };
  }
  if (current.length > 0) return undefined;
  const old = observation?.hosts[0];
  return old
    ? {
        status: 'Unknown',
        reason: 'Updating',
        message: `the host still runs generation ${old.generation}, ${metadata.generation} is to follow`,
      }
    : { status: 'Unknown', reason: 'Pending', message: 'no host has told about it yet' };
}

/** Ready only when no replica of before is left: it would answer as of before. */
function rollout(observation: Observation | undefined): Verdict {
  const { updated, wanted, old } = observation?.rollout ?? { updated: 0, wanted: 0, old: 0 };
  if (updated >= wanted && old === 0)
    return { status: 'True', reason: 'Ready', message: 'all replicas run it' };
  const leaving = old === 0 ? '' : `, ${old} of before are to go`;
  return {
    status: 'False',
    reason: 'Updating',
    message: `${updated} of ${wanted} replicas run it${leaving}`,
  };
}

/** Ready when all hosts are; else the first that is not, and rather a failure than one still at work. */
function worst(
  hosts: readonly HostFunctionStatus[],
  part: (host: HostFunctionStatus) => { ready: boolean; reason: string; message: string },
  fine: string,
): Verdict {
  const notReady = hosts.map(part).filter(({ ready }) => !ready);
  const one = notReady.find(({ reason }) => !underWay.has(reason)) ?? notReady[0];
  if (!one) return { status: 'True', reason: 'Ready', message: fine };
  return { status: 'False', reason: one.reason, message: one.message };
}

function triggersOf(
  { metadata, spec }: FunctionObject,
  hosts: readonly HostFunctionStatus[],
  conflicts: readonly RouteConflict[],
): TriggerStatus[] {
  return spec.triggers.map(({ name }) => {
    const conflict = conflicts.find(({ trigger }) => trigger === name);
    if (conflict) return { name, ready: false, reason: 'RouteTaken', message: cut(conflict.message) };
    const told = hosts.flatMap((host) => {
      const one = host.triggers.find((trigger) => trigger.name === name);
      return one ? [{ ...one, current: host.generation === metadata.generation }] : [];
    });
    const one = told.find(({ ready }) => !ready) ?? told.find(({ current }) => current) ?? told[0];
    if (!one) return { name, ready: false, reason: 'Pending', message: 'no host has told about it yet' };
    return { name, ready: one.ready, reason: one.reason, message: cut(one.message) };
  });
}

function triggersVerdict(triggers: readonly TriggerStatus[]): Verdict {
  const notReady = triggers.filter(({ ready }) => !ready);
  const one = notReady.find(({ reason }) => !underWay.has(reason)) ?? notReady[0];
  if (one) return { status: 'False', reason: one.reason, message: `trigger "${one.name}": ${one.message}` };
  if (triggers.length === 0) {
    return { status: 'True', reason: 'NoTriggers', message: 'no triggers: it runs when it is invoked' };
  }
  return { status: 'True', reason: 'Ready', message: 'all triggers are ready' };
}

function availability(hosts: readonly HostFunctionStatus[]): Verdict {
  if (hosts.some(({ packageSha256 }) => packageSha256 !== undefined)) {
    return { status: 'True', reason: 'Answering', message: 'a package answers' };
  }
  return { status: 'False', reason: 'NothingAnswers', message: 'no package answers now; Ready says why' };
}

/** False: done, or nothing will come of it until somebody changes something. */
function progress(failing: Verdict | undefined): Verdict {
  if (!failing) return { status: 'False', reason: 'Done', message: 'what is declared runs' };
  const { reason, message } = failing;
  const code: ErrorCode | undefined = Object.hasOwn(errorCodes, reason)
    ? errorCodes[reason as keyof typeof errorCodes]
    : undefined;
  const recovers = underWay.has(reason) || (code?.whose === 'ours' && code.retryable);
  return { status: recovers ? 'True' : 'False', reason, message };
}

/** The digest that answers now: rather the current generation's, while hosts differ. */
function answering(
  hosts: readonly HostFunctionStatus[],
  current: readonly HostFunctionStatus[],
): string | undefined {
  return [...current, ...hosts].find(({ packageSha256 }) => packageSha256 !== undefined)?.packageSha256;
}

function historyOf(
  before: FunctionStatus['history'] = [],
  packageSha256: string | undefined,
  time: string,
): NonNullable<FunctionStatus['history']> {
  if (packageSha256 === undefined || before.at(-1)?.packageSha256 === packageSha256) return before;
  return [...before, { packageSha256, time }].slice(-historyLength);
}

function errorOf(
  failing: Verdict | undefined,
  previous: FunctionStatus,
  time: string,
): FunctionStatus['lastError'] {
  if (!failing) return undefined;
  // The next try is under way: what the last one failed with still is why it is not ready.
  if (underWay.has(failing.reason)) return previous.lastError;
  const error = { code: failing.reason, message: cut(failing.message) };
  const before = previous.lastError;
  const same = before?.code === error.code && before.message === error.message;
  return { ...error, time: same ? before.time : time };
}

function cut(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= messageBytes) return text;
  return `${bytes
    .subarray(0, messageBytes)
    .toString('utf8')
    .replace(/\uFFFD+$/, '')}…`;
}
