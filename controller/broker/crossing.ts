/** What a robot's link to its hub lets through, as permissions of the hub's users (CONTRACTS 1). Pure. */

/** The robot's stream, and the hub's that sources those of all robots. */
export const telemetryStream = 'TELEMETRY';
/** On the hub: who may call itself by a robot's id now. */
export const claimBucket = 'ATOLL_ROBOTS';

/** As nats-server writes them: `publish` is from the robot to the hub. */
export interface Permissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/** Where the hub's source of that robot's stream is delivered to: of its own, so that no robot can feed another's. */
export const sourceDeliveries = (robot: string): string => `$JS.S.${robot}`;

export const keptSubjects = (robot: string): string => `robots.${robot}.kept.>`;

export function linkPermissions(robot: string, hub: string): Permissions {
  // MQTT's `#` also stands for the level above it.
  const both = [`robots.${robot}.>`, `$aws.things.${robot}`, `$aws.things.${robot}.>`];
  return {
    publish: [
      ...both,
      // Answers to the hub's requests: its clients' and, for the source, its server's own.
      `_INBOX.${hub}.>`,
      '$JSC.R.*',
      `${sourceDeliveries(robot)}.>`,
    ],
    subscribe: [
      ...both,
      `_INBOX.${robot}.>`,
      `$JS.${robot}.API.>`,
      // By this the hub tells the source how far it has come. The second form is of servers to come.
      `$JS.FC.${telemetryStream}.>`,
      `$JS.FC.${robot}.>`,
    ],
  };
}

export const claimSubject = (robot: string): string => `$KV.${claimBucket}.${robot}`;
/** Where the robot writes it: servers let nothing of $KV over a link but this form, which names the domain. */
export const claimEntry = (robot: string, hub: string): string => `$JS.${hub}.API.${claimSubject(robot)}`;
/** A request there is answered with the claim that is stored. */
export const claimQuestion = (robot: string, hub: string): string =>
  `$JS.${hub}.API.DIRECT.GET.KV_${claimBucket}.${claimSubject(robot)}`;

/** The claim goes over a link of its own, which is open before the other one may be. */
export function claimPermissions(robot: string, hub: string): Permissions {
  return {
    publish: [claimEntry(robot, hub), claimQuestion(robot, hub)],
    subscribe: [`_INBOX.${robot}.>`],
  };
}

/** What programs of a robot or a hub that are not ours must keep their hands off. */
export const reservedSubjects: readonly string[] = [
  'atoll.>',
  '$KV.ATOLL_STATE.>',
  `$KV.${claimBucket}.>`,
  ...['ATOLL_INBOX', 'ATOLL_DEAD', 'KV_ATOLL_STATE', `KV_${claimBucket}`, telemetryStream].flatMap((stream) =>
    ['CREATE', 'UPDATE', 'DELETE', 'PURGE'].map((verb) => `$JS.API.STREAM.${verb}.${stream}`),
  ),
];
