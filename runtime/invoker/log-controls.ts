/** Lambda's controls of a function's log, as its environment says them: format, level of the handler, level of ours. */
import type { LogRecord } from '../log.ts';

export type Level = LogRecord['level'];

export const levels: readonly Level[] = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];

export interface LogControls {
  /** `JSON`: a line that is a JSON object becomes the fields of its record. `Text`: it stays a message. */
  readonly format: 'JSON' | 'Text';
  /** The least of what the handler logs: AWS_LAMBDA_LOG_LEVEL. */
  readonly level: Level;
  /** The least of what is ours, reports included: ATOLL_SYSTEM_LOG_LEVEL, Lambda's SystemLogLevel. */
  readonly systemLevel: 'DEBUG' | 'INFO' | 'WARN';
}

/** As Lambda: with JSON what is below INFO is left out unless asked for, with Text nothing is. Unknown values say nothing. */
export function logControls(env: Readonly<Record<string, string | undefined>>): LogControls {
  const format = env['AWS_LAMBDA_LOG_FORMAT']?.toUpperCase() === 'TEXT' ? 'Text' : 'JSON';
  const system = levelOf(env['ATOLL_SYSTEM_LOG_LEVEL']);
  return {
    format,
    level: levelOf(env['AWS_LAMBDA_LOG_LEVEL']) ?? (format === 'JSON' ? 'INFO' : 'TRACE'),
    systemLevel: system === 'DEBUG' || system === 'WARN' ? system : 'INFO',
  };
}

export const isBelow = (level: Level, least: Level): boolean => levels.indexOf(level) < levels.indexOf(least);

function levelOf(text: string | undefined): Level | undefined {
  return levels.find((level) => level === text?.toUpperCase());
}
