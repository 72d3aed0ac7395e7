/**
 * Where results of events nobody waits for go on: spec.onSuccess and spec.onFailure, in Lambda's envelope.
 * https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
 */
import { randomUUID } from 'node:crypto';
import { headers as natsHeaders } from '@nats-io/transport-node';
import type { DestinationSpec } from '../crds/function.ts';
import { openMqttLink, type MqttLink, type QoS } from './clients/mqtt.ts';
import type { NatsLink } from './clients/nats.ts';
import type { MqttSettings } from './config.ts';
import { AtollError, type Fault } from './errors.ts';
import type { DeadLetterReason, EventEncoding, Result, TriggerEvent } from './event.ts';
import { hopsHeader, hopsOf } from './lineage.ts';
import type { Log } from './log.ts';
import { lambdaError } from './triggers/invoke.ts';
import type { FunctionRef } from './triggers/trigger.ts';

/** What waits for the first connection to the MQTT broker. */
const connectWaitMs = 5_000;

export interface MqttPublisher {
  /**
   * QoS 1 by default: resolves when the broker has it. `hops` gets lost where the broker speaks MQTT 3.1.1 only. Rejects
   * with MqttUnavailable.
   */
  publish(
    topic: string,
    data: Uint8Array,
    hops: number,
    options?: { readonly qos?: QoS; readonly retain?: boolean },
  ): Promise<void>;
  close(): Promise<void>;
}

export interface DestinationParts {
  readonly nats?: NatsLink;
  readonly mqtt?: MqttPublisher;
}

/** One connection for all functions of a host, opened when the first one needs it. */
export function openMqttPublisher(
  settings: MqttSettings,
  options: { site: string; log: Log },
): MqttPublisher {
  let link: MqttLink | undefined;
  return {
    async publish(topic, data, hops, { qos = 1, retain = false } = {}) {
      link ??= openMqttLink(settings, {
        clientId: `atoll-${options.site}-destinations-${randomUUID()}`,
        session: 'clean',
        // MQTT 3.1.1 has no headers: a chain through it cannot be counted (CONTRACTS 4.15).
        version: 'newest',
        log: options.log,
      });
      if (!link.state.connected) await connected(link);
      await link.publish(topic, data, { qos, retain, userProperties: { [hopsHeader]: String(hops) } });
    },
    close: async () => link?.close(),
  };
}

/** Resolves at the next connection, or when waiting for it makes no sense any more. */
function connected(link: MqttLink): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      stop();
      clearTimeout(timer);
      resolve();
    };
    const timer = setTimeout(done, connectWaitMs);
    const stop = link.onState(({ connected: up }) => {
      if (up) done();
    });
  });
}

export type Ending =
  | { readonly condition: 'Success'; readonly result: Result | undefined }
  | { readonly condition: DeadLetterReason; readonly fault: Fault; readonly attempts: number };

/** Lambda's destination envelope. */
export function envelope(ref: FunctionRef, version: string, event: TriggerEvent, ending: Ending): unknown {
  const failed = ending.condition !== 'Success';
  return {
    version: '1.0',
    timestamp: new Date().toISOString(),
    requestContext: {
      requestId: event.id,
      functionArn: `arn:aws:lambda:us-east-1:000000000000:function:${ref.name}:${version}`,
      condition: ending.condition,
      approximateInvokeCount: ending.condition === 'Success' ? event.attempt : ending.attempts,
    },
    requestPayload: decoded(event.encoding, event.data),
    responseContext: {
      statusCode: 200,
      executedVersion: version,
      ...(failed && { functionError: 'Unhandled' }),
    },
    responsePayload: failed ? lambdaError(ending.fault) : resultValue(ending.result),
  };
}

/** Publishes; throws an AtollError where the broker is away. */
export async function send(
  destination: DestinationSpec,
  parts: DestinationParts,
  event: TriggerEvent,
  body: unknown,
): Promise<void> {
  const data = Buffer.from(JSON.stringify(body));
  const hops = hopsOf(event.headers) + 1;
  if (destination.nats) {
    const connection = parts.nats?.current();
    if (!connection)
      throw new AtollError('NatsUnavailable', `NATS is away: nothing sent to ${destination.nats.subject}`);
    const headers = natsHeaders();
    headers.set(hopsHeader, String(hops));
    connection.publish(destination.nats.subject, data, { headers });
    await connection.flush();
  }
  if (destination.mqtt) {
    if (!parts.mqtt)
      throw new AtollError('MqttUnavailable', `no MQTT broker: nothing sent to ${destination.mqtt.topic}`);
    await parts.mqtt.publish(destination.mqtt.topic, data, hops);
  }
}

function decoded(encoding: EventEncoding, data: Uint8Array): unknown {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  if (encoding === 'binary' || encoding === 'cdr') return bytes.toString('base64');
  const text = bytes.toString();
  if (encoding === 'text') return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function resultValue(result: Result | undefined): unknown {
  return result ? decoded(result.encoding, result.data) : null;
}
