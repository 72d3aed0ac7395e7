/** The servers a site leans on: whether they answer, and whether they are what it needs. */
import { jetstreamManager, type JetStreamManager, type StreamInfo } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import type { MqttSettings, NatsSettings, S3Settings } from '../../runtime/config.ts';
import { connectionWithin, openNats } from '../../runtime/clients/nats.ts';
import { openMqttLink, type MqttState } from '../../runtime/clients/mqtt.ts';
import { openS3 } from '../../runtime/clients/s3.ts';
import { deadStream } from '../../runtime/dead-letters.ts';
import { AtollError, faultOf } from '../../runtime/errors.ts';
import { inboxMaxEventBytes, inboxStream } from '../../runtime/inbox.ts';
import { openLog } from '../../runtime/log.ts';
import { adviceFor } from '../advice.ts';
import { bytesText, checksOf, type Check } from './check.ts';

/** Longer than a server on the same site takes, shorter than the patience of whoever waits. */
const answerMs = 4_000;
/** A trigger that has used up so much of its share is close to being refused. */
const nearlyFull = 0.9;
/** S3 takes a signature for 15 minutes, our own doors for 5. */
const skew = { warnMs: 60_000, refusedMs: 5 * 60_000 };

const silent = () => openLog({ level: 'silent' });

export async function natsChecks(settings: NatsSettings, site: string): Promise<Check[]> {
  const { ok, warning, problem } = checksOf('nats');
  const link = openNats(settings, { name: 'faas doctor', site, log: silent() });
  try {
    const nc = await connectionWithin(link, answerMs);
    if (nc === undefined) return [problem(link.state.message, adviceFor('NatsUnavailable'))];
    const rtt = await nc.rtt();
    const { version = 'unknown', max_payload: maxPayload = 0 } = nc.info ?? {};
    const seen = `nats-server ${version} at ${settings.url}, ${rtt} ms away, messages up to ${bytesText(maxPayload)}`;
    const checks = [
      maxPayload < inboxMaxEventBytes
        ? warning(seen, 'Bigger events are refused; set max_payload: 8MB in its configuration.')
        : ok(seen),
    ];
    return [...checks, ...(await jetstreamChecks(nc, site))];
  } catch (error) {
    return [problem(faultOf(error).message, adviceFor('NatsUnavailable'))];
  } finally {
    await link.close();
  }
}

async function jetstreamChecks(nc: NatsConnection, site: string): Promise<Check[]> {
  const { ok, warning, problem } = checksOf('jetstream');
  const advice =
    'Enable JetStream in the NATS server (jetstream { store_dir: … }): mqtt, schedule and jetstream triggers, asynchronous invokes and dead letters need it.';
  let manager: JetStreamManager;
  try {
    manager = await jetstreamManager(nc, { checkAPI: false, timeout: answerMs });
    const { storage, limits, domain } = await manager.getAccountInfo();
    const most = limits.max_storage;
    const seen = `domain ${domain ?? 'none'}, ${bytesText(storage)} stored${most > 0 ? ` of ${bytesText(most)}` : ''}`;
    const full = most > 0 && storage > most * nearlyFull;
    return [
      full ? warning(seen, 'Raise the limit of the account, or purge streams.') : ok(seen),
      ...(await Promise.all([inboxStream, deadStream].map((name) => streamCheck(manager, name, site)))),
    ];
  } catch (error) {
    return [problem(`not to be had from this NATS server: ${faultOf(error).message}`, advice)];
  }
}

async function streamCheck(manager: JetStreamManager, name: string, site: string): Promise<Check> {
  const { ok, problem } = checksOf(name);
  let info: StreamInfo;
  try {
    info = await manager.streams.info(name, { subjects_filter: '>' });
  } catch (error) {
    if (/stream not found/i.test(faultOf(error).message))
      return ok('not there yet: it is made when it is needed');
    return problem(faultOf(error).message, 'See what the NATS server logs about this stream.');
  }
  const { messages, bytes, subjects = {} } = info.state;
  const share = info.config.max_msgs_per_subject;
  const isDead = name === deadStream;
  const count = `${messages} ${isDead ? 'dead letters' : 'events wait'}, ${bytesText(bytes)}`;
  const ours = Object.entries(subjects).filter(([subject]) => subject.startsWith(`atoll.${site}.`));
  const full = ours.filter(([, used]) => share > 0 && used >= share * nearlyFull);
  if (full.length > 0) {
    const which = full
      .map(([subject, used]) => `${subject.split('.').slice(3).join('/')} has ${used}`)
      .join(', ');
    return problem(
      `${count}; ${which} of ${share} allowed`,
      isDead
        ? 'Redrive or purge them (faas dead): when the share is used up, failing events wait at their source.'
        : 'The function is too slow for what comes, or not ready: see "faas describe"; beyond that events are refused.',
    );
  }
  return ok(isDead && messages > 0 ? `${count}: see "faas dead list"` : count);
}

export async function mqttCheck(settings: MqttSettings): Promise<Check> {
  const { ok, problem } = checksOf('mqtt');
  const link = openMqttLink(settings, {
    clientId: `faas-doctor-${process.pid}`,
    session: 'clean',
    log: silent(),
  });
  try {
    const state = await new Promise<MqttState>((resolve) => {
      link.onState(resolve);
      setTimeout(() => resolve(link.state), answerMs).unref();
    });
    if (state.connected) return ok(state.message);
    const why = state.reason === 'Connecting' ? `${settings.url} does not answer` : state.message;
    return problem(why, adviceFor('MqttUnavailable'));
  } finally {
    await link.close();
  }
}

export async function s3Checks(settings: S3Settings): Promise<Check[]> {
  const { ok, problem } = checksOf('s3');
  const place = `${settings.endpoint}/${settings.bucket}`;
  const skewed = await skewCheck(settings.endpoint);
  try {
    const client = await openS3(settings);
    try {
      await client.probe(`packages/faas-doctor-${process.pid}`);
    } finally {
      client.close();
    }
    return [ok(`${place} can be read and written`), ...skewed];
  } catch (error) {
    const code = error instanceof AtollError ? error.code : 'PackageUnavailable';
    const advice =
      code === 'PackageNotFound'
        ? 'Make the bucket, or name another one with "faas up --s3".'
        : adviceFor(code);
    return [problem(faultOf(error).message, advice), ...skewed];
  }
}

/** By the Date of any answer of the server. */
async function skewCheck(endpoint: string): Promise<Check[]> {
  const { ok, warning, problem } = checksOf('s3 clock');
  try {
    const before = Date.now();
    const answer = await fetch(endpoint, {
      method: 'HEAD',
      signal: AbortSignal.timeout(answerMs),
      redirect: 'manual',
    });
    const theirs = Date.parse(answer.headers.get('date') ?? '');
    if (Number.isNaN(theirs)) return [];
    // The header counts whole seconds.
    const off = Math.round((theirs - (before + Date.now()) / 2) / 1000);
    const seen = `${Math.abs(off)} s ${off < 0 ? 'behind' : 'ahead of'} this machine`;
    const advice = 'Set both clocks right (timedatectl, chronyd): signatures go by them.';
    if (Math.abs(off) * 1000 >= skew.refusedMs) return [problem(seen, advice)];
    return [Math.abs(off) * 1000 >= skew.warnMs ? warning(seen, advice) : ok(seen)];
  } catch {
    // That it does not answer is told by the other check.
    return [];
  }
}
