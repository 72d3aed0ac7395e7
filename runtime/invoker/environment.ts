/** The whole environment of a handler process: Lambda's variables, the function's own, and nothing of the host's. */
import { logGroupOf } from './handler-context.ts';
import { logControls } from './log-controls.ts';

export const defaultRegion = 'us-east-1';

export interface EnvironmentFacts {
  readonly namespace: string;
  readonly name: string;
  readonly functionVersion: string;
  readonly runtime: string;
  readonly handler: string;
  readonly root: string;
  readonly memoryMiB: number;
  readonly concurrency: number;
  readonly logStream: string;
  /** spec.env, resolved. */
  readonly env: Readonly<Record<string, string>>;
}

/** What names the function cannot be overridden by spec.env; what only has a default can. */
export function handlerEnvironment(facts: EnvironmentFacts, host: NodeJS.ProcessEnv): Record<string, string> {
  const { format, level } = logControls(facts.env);
  const region = facts.env['AWS_REGION'] ?? facts.env['AWS_DEFAULT_REGION'] ?? defaultRegion;
  return {
    PATH: host['PATH'] ?? '/usr/local/bin:/usr/bin:/bin',
    HOME: '/tmp',
    LANG: host['LANG'] ?? 'C.UTF-8',
    TZ: 'UTC',
    AWS_REGION: region,
    AWS_DEFAULT_REGION: region,
    AWS_LAMBDA_LOG_FORMAT: format,
    // As Lambda: with Text there is no level, unless it is asked for.
    ...(format === 'JSON' && { AWS_LAMBDA_LOG_LEVEL: level }),
    ...facts.env,
    AWS_EXECUTION_ENV: `AWS_Lambda_${facts.runtime}`,
    AWS_LAMBDA_FUNCTION_NAME: facts.name,
    AWS_LAMBDA_FUNCTION_VERSION: facts.functionVersion,
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: String(facts.memoryMiB),
    AWS_LAMBDA_INITIALIZATION_TYPE: 'on-demand',
    AWS_LAMBDA_LOG_GROUP_NAME: logGroupOf(facts),
    AWS_LAMBDA_LOG_STREAM_NAME: facts.logStream,
    // Only with more than one: the AWS libraries take its mere presence as "several at a time".
    ...(facts.concurrency > 1 && { AWS_LAMBDA_MAX_CONCURRENCY: String(facts.concurrency) }),
    LAMBDA_TASK_ROOT: facts.root,
    LAMBDA_RUNTIME_DIR: facts.root,
    _HANDLER: facts.handler,
  };
}
