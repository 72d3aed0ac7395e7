/** Every kind of trigger. A missing kind does not compile. */
import type { TriggerKind } from '../../crds/function.ts';
import { openHttp } from './http.ts';
import { openJetStream } from './jetstream.ts';
import { openMqtt } from './mqtt.ts';
import { openNats } from './nats.ts';
import { openRos } from './ros.ts';
import { openSchedule } from './schedule.ts';
import type { OpenTrigger } from './trigger.ts';

export const triggers: { [K in TriggerKind]: OpenTrigger<K> } = {
  nats: openNats,
  jetstream: openJetStream,
  mqtt: openMqtt,
  ros: openRos,
  http: openHttp,
  schedule: openSchedule,
};
