/** Who runs the site, its gateway, and how its functions are. */
import type { Condition } from '../../crds/function.ts';
import type { SiteInfo } from '../../controller/stores/site.ts';
import { keyText, type Store } from '../../controller/stores/store.ts';
import { errorCodes, faultOf } from '../../runtime/errors.ts';
import { adviceFor, explain } from '../advice.ts';
import type { Gateway } from '../gateway.ts';
import { checksOf, type Check } from './check.ts';

const answerMs = 5_000;

export function runningCheck(info: SiteInfo | undefined, dir: string, ours: string): Check {
  const { ok, warning, problem } = checksOf('site');
  if (info === undefined) return problem(`${dir} does not run`, adviceFor('SiteNotRunning'));
  const seen = `"${info.site}" runs as process ${info.pid}, version ${info.version}`;
  if (info.version === ours) return ok(seen);
  return warning(`${seen}; this is ${ours}`, 'Start it again with this version, or use that one here.');
}

export async function gatewayCheck(gateway: Gateway, info: SiteInfo): Promise<Check> {
  const { ok, problem } = checksOf('gateway');
  try {
    const started = performance.now();
    const told = await gateway.site(AbortSignal.timeout(answerMs));
    const took = Math.round(performance.now() - started);
    if (told.pid === info.pid) return ok(`${info.url} answers in ${took} ms`);
    return problem(
      `${info.url} is answered by process ${told.pid}, not by ${info.pid}`,
      'Something else listens at that address: start the site again with another --port.',
    );
  } catch (error) {
    const timedOut = (error as Error).name === 'TimeoutError';
    const { message, help } = explain(error);
    return problem(
      timedOut ? `${info.url} does not answer within ${answerMs / 1000} s` : message,
      timedOut ? adviceFor('SiteNotReachable') : help,
    );
  }
}

/** One for each Function that can be read; the others are told by their files. */
export async function functionChecks(store: Store, gateway: Gateway | undefined): Promise<Check[]> {
  const checks: Check[] = [];
  for (const { metadata, spec, status } of await store.list()) {
    const { ok, problem, none } = checksOf(`function ${keyText(metadata)}`);
    const conditions = status?.conditions ?? [];
    const ready = conditions.find(({ type }) => type === 'Ready');
    if (gateway === undefined) {
      checks.push(
        none(ready === undefined ? 'never ran' : `when the site last ran: ${conditionText(ready)}`),
      );
      continue;
    }
    try {
      const live = await gateway.status(metadata, AbortSignal.timeout(answerMs));
      const now = live.conditions?.find(({ type }) => type === 'Ready');
      const broken = (live.triggers ?? []).filter((trigger) => !trigger.ready);
      if (live.problem) checks.push(refused(problem, live.problem.reason, live.problem.message));
      else if (now?.status !== 'True') {
        checks.push(refused(problem, now?.reason ?? 'Unknown', now?.message ?? 'no condition yet'));
      } else if (broken.length > 0) {
        for (const { name, reason, message } of broken) {
          checks.push(refused(problem, reason, `trigger ${name}: ${message}`));
        }
      } else checks.push(ok(`ready, ${spec.triggers.length} triggers`));
    } catch (error) {
      checks.push(problem(faultOf(error).message, adviceFor('SiteNotReachable')));
    }
  }
  return checks;
}

const conditionText = ({ status, reason, message }: Condition): string =>
  status === 'True' ? 'ready' : `${reason}: ${message}`;

type Teller = ReturnType<typeof checksOf>['problem'];

function refused(problem: Teller, reason: string, message: string): Check {
  const known = Object.hasOwn(errorCodes, reason) ? errorCodes[reason as keyof typeof errorCodes] : undefined;
  const advice = adviceFor(reason) ?? known?.text ?? 'See "faas describe" and "faas logs".';
  return problem(`${reason}: ${message}`, advice, { whose: known?.whose ?? 'yours' });
}
