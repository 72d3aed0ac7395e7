/** What to do about an error: the CLI's own words beside the code that the rest of Atoll gives. */
import { AtollError, errorCodes, type Code } from '../runtime/errors.ts';
import { exitCodes, type ExitCode } from './command.ts';
import { Failure } from './failure.ts';
import { paint } from './output.ts';
import { systemProblem } from './system-problem.ts';

/** Codes beside those of the runtime are the CLI's own. */
export const advice: Readonly<Record<string, string>> = {
  NoSite: 'Start one with "faas up", or name its folder with --site or $FAAS_SITE.',
  SiteNotRunning: 'Start it with "faas up" in the folder that holds it, then try again.',
  SiteNotReachable: 'See whether "faas up" still runs, and what it printed last.',
  FunctionNotFound: 'See "faas list"; another namespace is chosen with -n.',
  FunctionNotReady: 'See why with "faas describe NAME".',
  NoPackage: 'Build and upload its code with "faas deploy".',
  NoManifest: 'Make one with "faas init NAME", or name it with -f.',
  NoHandlerFile:
    'spec.handler is <file without extension>.<export>, the file relative to the folder deployed.',
  BuildFailed: 'Nothing was uploaded; the site is as it was.',
  'Runtime.HandlerNotFound': 'Export the function that spec.handler names, or change spec.handler.',
  'Runtime.MalformedHandlerName':
    'Write spec.handler as <file without extension>.<export>, such as index.handler.',
  'Runtime.ImportModuleError':
    'A module that is not bundled must be in the package: declare it in package.json and install it before deploying.',
  'Runtime.OutOfMemory': 'Raise spec.memory, or hold less in memory.',
  'Runtime.InitTimeout': 'Do less when the module is imported; connect inside the handler.',
  'Sandbox.Timedout': 'Raise spec.timeoutSeconds, or do less in one invocation.',
  StreamNotFound: 'Create the stream (for example "nats stream add"); the trigger starts by itself then.',
  TooManyRequests: 'Try again later, or raise spec.concurrency or spec.processes.',
  PackageDigestMismatch: 'The object was changed or cut short: run "faas deploy" again.',
  PackageNotFound: 'Upload it again with "faas deploy".',
  PackageForbidden:
    'Look at the S3 credentials: those that "faas up" was started with; in a cluster the Secret that the chart\'s s3.credentialsSecret names.',
  PackageUnavailable: 'See whether the package store runs; it is tried again by itself.',
  NatsUnavailable: 'See whether the NATS server runs; the connection is tried again by itself.',
  MqttUnavailable: 'See whether the MQTT broker runs; the connection is tried again by itself.',
  Unschedulable:
    'Ask for less (spec.memory, spec.processes, spec.pod.resources), change spec.placement, or add a node; the pod is tried again by itself.',
  ImagePullBackOff:
    'Load Atoll\'s image on the nodes ("faas install" names it); where a registry of yours has it, name its Secret in spec.pod.imagePullSecrets.',
  QuotaExceeded:
    'Ask for less (spec.memory, spec.processes, spec.replicas), or have the quota raised ("kubectl describe quota"); the pod is tried again by itself.',
  PodRefused: 'Change what the message names, in the Function or in the policy of the cluster.',
  PodFailed: 'See "kubectl describe pod" for what the node says, and "faas logs NAME".',
  CrashLoopBackOff: 'See "faas logs NAME".',
  NameTaken: 'Remove the object that the message names, or give the Function another name.',
  ClusterUnavailable:
    'See whether the API server of the kubeconfig\'s context answers ("kubectl cluster-info").',
  RobotAway: 'See "faas robots"; on the robot itself "faas logs" works at any time.',
  Conflict: 'Someone else changed the object meanwhile: read it again and repeat the change.',
  Unauthorized: 'Give the key with $FAAS_KEY as id.secret.',
};

/** The advice for a code: the CLI's own, else nothing (the runtime's text says what it means). */
export const adviceFor = (code: string): string | undefined => advice[code];

/** Prints what went wrong and what to do; returns the exit code. */
export async function reportFailure(error: unknown): Promise<ExitCode> {
  const { message, code, exitCode, help } = explain(error);
  const label = paint('red', 'error', process.stderr);
  process.stderr.write(`${label}: ${code === undefined ? '' : `${code}: `}${message}\n`);
  if (help !== undefined) process.stderr.write(`${help}\n`);
  return exitCode;
}

interface Explanation {
  readonly message: string;
  readonly code?: string;
  readonly exitCode: ExitCode;
  readonly help?: string | undefined;
}

export function explain(error: unknown): Explanation {
  if (error instanceof Failure) {
    const help = error.advice ?? (error.code === undefined ? undefined : adviceFor(error.code));
    return {
      message: error.message,
      exitCode: error.exitCode,
      help,
      ...(error.code && { code: error.code }),
    };
  }
  if (error instanceof AtollError) {
    return {
      message: error.message,
      code: error.code,
      exitCode: exitCodeOf(error.code),
      help: adviceFor(error.code),
    };
  }
  const system = systemProblem(error);
  if (system !== undefined) return { message: system.message, exitCode: exitCodes.site, help: system.advice };
  // Not foreseen: the stack is what a report of it needs.
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { message: text, exitCode: exitCodes.site };
}

/** Load errors and faults of a handler are the function's; wrong input is the caller's; the rest is the site's. */
export function exitCodeOf(code: Code): ExitCode {
  if (code.startsWith('Runtime.') || code.startsWith('Sandbox.')) {
    return errorCodes[code].whose === 'yours' ? exitCodes.functionFailed : exitCodes.site;
  }
  if (code === 'InvalidRequest') return exitCodes.usage;
  return exitCodes.site;
}
