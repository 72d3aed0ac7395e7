import { Writable } from 'node:stream';
import { usualPorts } from '../../controller/broker/nats-server.ts';
import { programsFile } from '../../controller/broker/passwords.ts';
import type { RosOptions } from '../../controller/backends/ros-process.ts';
import { openSiteFolder } from '../../controller/stores/site.ts';
import { openLog, type Log, type LogRecord } from '../../runtime/log.ts';
import { defineCommand, exitCodes } from '../command.ts';
import { usageError } from '../failure.ts';
import { fields, note, paint, print } from '../output.ts';
import { startProgress } from '../progress.ts';
import { onStop } from '../signals.ts';
import { printedConfig, roleOf } from '../site-role.ts';
import { defaultPort, packagesText, startSite, type RunningSite } from '../start-site.ts';
import { version } from '../version.ts';
import { readable } from './logs.ts';

const tlsOptions = <S extends 'nats' | 'mqtt'>(server: S, scheme: string) =>
  ({
    [`${server}-ca`]: {
      type: 'string',
      value: 'FILE',
      describe: `With ${scheme}: whose certificates count (PEM); else those that Node knows`,
    },
    [`${server}-cert`]: {
      type: 'string',
      value: 'FILE',
      describe: `With ${scheme}: our own certificate (PEM)`,
    },
    [`${server}-key`]: { type: 'string', value: 'FILE', describe: 'Its key (PEM), mode 0600' },
  }) as Record<`${S}-${'ca' | 'cert' | 'key'}`, { type: 'string'; value: string; describe: string }>;

export const command = defineCommand({
  namespaced: false,
  positionals: {},
  options: {
    dir: {
      type: 'string',
      value: 'DIR',
      describe: "Where the site's state lives; else --site, else ./.atoll",
    },
    nats: {
      type: 'string',
      value: 'URL',
      describe: 'A NATS server that runs already; else an own one is started',
    },
    mqtt: {
      type: 'string',
      value: 'URL',
      describe: "An MQTT broker; else the own NATS server's MQTT listener",
    },
    'nats-creds': {
      type: 'string',
      value: 'FILE',
      describe: "With --nats: the user's JWT and seed, as nsc writes them, mode 0600",
    },
    ...tlsOptions('nats', 'tls://'),
    ...tlsOptions('mqtt', 'mqtts://'),
    s3: {
      type: 'string',
      value: 'URL',
      describe:
        'Where packages go, http://host:port/bucket, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; else into a folder',
    },
    ros: {
      type: 'boolean',
      default: false,
      describe:
        'Joins ROS 2 also while no function has a ros trigger; ROS comes from the environment (source it first)',
    },
    'ros-domain-id': {
      type: 'number',
      value: 'N',
      describe: 'ROS_DOMAIN_ID of the site; else that of the environment, else 0',
    },
    'ros-namespace': {
      type: 'string',
      value: 'NAME',
      describe: 'Such as /robot1: of our node, and of topics and services without a slash first',
    },
    port: {
      type: 'number',
      value: 'N',
      default: defaultPort,
      describe: 'The port; the next free one if it is taken',
    },
    host: {
      type: 'string',
      value: 'ADDRESS',
      default: '127.0.0.1',
      describe: 'The address; --keys is needed off loopback',
    },
    keys: {
      type: 'string',
      value: 'FILE',
      describe: 'Who may call: one {"id": …, "secret": …} a line, mode 0600',
    },
    websocket: { type: 'boolean', default: false, describe: 'The own NATS server listens for browsers, too' },
    control: {
      type: 'boolean',
      default: false,
      describe: 'The hub of robots: their links come in at --host, see "faas robot"',
    },
    robot: { type: 'string', value: 'ID', describe: 'A robot of a hub: with --hub and --robot-file' },
    hub: {
      type: 'string',
      value: 'URL',
      describe: 'With --robot: tls://HOST, or wss://HOST where only HTTPS gets through',
    },
    'robot-file': {
      type: 'string',
      value: 'FILE',
      describe: 'With --robot: what "faas robot add" wrote on the hub, mode 0600',
    },
    'leaf-port': {
      type: 'number',
      value: 'N',
      default: usualPorts.leaf,
      describe: 'With --control: the port of the links of robots',
    },
    'websocket-port': {
      type: 'number',
      value: 'N',
      default: usualPorts.websocket,
      describe: 'With --control --websocket: the port for links and browsers by WebSocket',
    },
    'telemetry-size': {
      type: 'string',
      value: 'SIZE',
      describe:
        'With --control: what the hub keeps of all robots together, such as 500Mi; then the oldest goes. 10Gi, or a half, a quarter, … of it on a small disk',
    },
    'tls-cert': {
      type: 'string',
      value: 'FILE',
      describe: 'With --control: the certificate that robots are shown (PEM)',
    },
    'tls-key': { type: 'string', value: 'FILE', describe: 'Its key (PEM), mode 0600' },
    insecure: {
      type: 'boolean',
      default: false,
      describe: 'With --control or --robot: links without TLS off loopback',
    },
    'print-config': {
      type: 'boolean',
      default: false,
      describe:
        'With --control or --robot: print the configuration for a nats-server that runs elsewhere, and end',
    },
  },
  description:
    'Runs until it is told to stop (Ctrl-C, SIGTERM): then it takes nothing new, lets what runs end, and stops what it started. A second signal makes it hurry. Started again with the same folder it brings every function back. Certificates, keys and credentials stay in their files, are read again at each connect, and must be such that others cannot read them.',
  examples: [
    ['up', 'A site in ./.atoll with everything it needs'],
    ['up --dir /var/lib/atoll --port 9000', 'With its state somewhere else'],
    ['up --nats nats://robot7:4222 --mqtt mqtt://robot7:1883', 'With brokers that run already'],
    [
      'up --nats tls://hub:4222 --nats-ca ca.pem --nats-creds robot7.creds',
      'With a NATS server that asks for both',
    ],
    ['up --s3 http://127.0.0.1:9000/packages', 'With packages in an S3 bucket'],
    ['up --host 0.0.0.0 --keys keys', 'For other machines, which need a key'],
    [
      'up --control --host 0.0.0.0 --keys keys --tls-cert hub.crt --tls-key hub.key',
      'The hub of a site with robots',
    ],
    ['up --ros-namespace /robot1', 'On a machine with ROS 2, in the namespace of its robot'],
    ['up --robot robot1 --hub tls://hub --robot-file robot1.json', 'On the robot'],
  ],
  async run({ dir, site, output, port, ...options }) {
    const natsFiles = {
      creds: options.natsCreds,
      ca: options.natsCa,
      cert: options.natsCert,
      key: options.natsKey,
    };
    const mqttFiles = { ca: options.mqttCa, cert: options.mqttCert, key: options.mqttKey };
    const nats = addressOf('nats', options.nats, natsFiles);
    const mqtt = addressOf('mqtt', options.mqtt, mqttFiles);
    const ros = rosOf(options);
    const role = await roleOf(options);
    const folder = dir ?? site ?? '.atoll';
    if (role !== undefined && nats !== undefined) {
      throw usageError(
        '--control and --robot run a nats-server of their own, and --nats names another',
        'Configure that one by what --print-config prints.',
      );
    }
    if (options.printConfig) {
      if (role === undefined) throw usageError('--print-config goes with --control or --robot');
      return void print(await printedConfig(role, await openSiteFolder(folder), options.websocket));
    }
    // An address on the command line may hold a password, and others can read that line.
    process.title = 'faas up';
    const log = terminalLog(output === 'json');
    const progress = startProgress('starting');
    const stopped = Promise.withResolvers<void>();
    let running: RunningSite | undefined;
    onStop((count) => {
      if (count === 1) return stopped.resolve();
      void Promise.resolve(running?.hurry()).finally(() => process.exit(exitCodes.ok));
    });
    try {
      running = await startSite({
        ...options,
        nats,
        mqtt,
        natsFiles,
        mqttFiles,
        ros,
        port,
        dir: folder,
        role,
        log,
        onStep: (text) => progress.update(text),
      });
    } finally {
      progress.stop();
    }
    if (output === 'json') print(JSON.stringify(running.info));
    else print(await welcome(running));
    await stopped.promise;
    if (output !== 'json') note('stopping: what runs may end; again to hurry');
    // That connections end is what was asked for.
    log.level = 'error';
    await running.stop();
  },
});

const lastDomain = 232;

function rosOf(given: { ros: boolean; rosDomainId?: number; rosNamespace?: string }): RosOptions {
  const { rosDomainId: domainId, rosNamespace: namespace } = given;
  if (domainId !== undefined && !(Number.isInteger(domainId) && domainId >= 0 && domainId <= lastDomain)) {
    throw usageError(`--ros-domain-id must be an integer from 0 to ${lastDomain}, not ${domainId}`);
  }
  if (namespace !== undefined && !/^(\/|(\/[A-Za-z_][A-Za-z0-9_]*)+)$/.test(namespace)) {
    throw usageError(
      `--ros-namespace must begin with "/" and have letters, digits and "_" between slashes, such as /robot1, not "${namespace}"`,
    );
  }
  return { always: given.ros, domainId, namespace };
}

/** Other users can read a command line, and nobody else the environment. */
function addressOf(
  server: 'nats' | 'mqtt',
  given: string | undefined,
  files: Readonly<Record<string, string | undefined>>,
): string | undefined {
  const variable = `FAAS_${server.toUpperCase()}`;
  const address = given ?? (process.env[variable] || undefined);
  const [file] = Object.entries(files).find(([, path]) => path !== undefined) ?? [];
  if (address === undefined && file !== undefined) {
    throw usageError(`--${server}-${file} goes with --${server} or $${variable}, and there is neither`);
  }
  return address;
}

/** On a terminal what an operator reads, on stderr; as JSON lines where a program reads. */
export function terminalLog(json: boolean): Log {
  if (json) return openLog({ destination: process.stderr });
  const lines = new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString('utf8').split('\n'))
        if (line !== '') note(readable(JSON.parse(line) as LogRecord));
      done();
    },
  });
  return openLog({ destination: lines, level: 'info' });
}

async function welcome({ info, paths, store }: RunningSite): Promise<string> {
  const functions = (await store.list()).map(({ metadata }) => metadata.name);
  return [
    `${paint('bold', `Atoll ${version()}`)}: site ${info.site} in ${paths.dir}`,
    '',
    fields([
      ['gateway', info.url],
      ['nats', info.nats.url],
      ...(info.mqtt === undefined ? [] : [['mqtt', info.mqtt.url] as const]),
      ...(info.websocket === undefined ? [] : [['websocket', info.websocket.url] as const]),
      ...(info.leaf === undefined ? [] : [['robots', info.leaf.url] as const]),
      ...(info.site === 'local' ? [] : [['programs', programsFile(paths)] as const]),
      ['packages', packagesText(info, paths)],
      ['functions', functions.length === 0 ? 'none yet' : functions.join(', ')],
    ]),
    '',
    'Try, in another terminal:',
    ...(functions.length === 0
      ? ['  faas init hello', '  faas deploy hello', `  faas invoke hello -d '{"name":"reef"}'`]
      : ['  faas list', `  faas describe ${functions[0]}`, `  faas invoke ${functions[0]} -d '{}'`]),
    `  curl ${info.url}/metrics`,
    '',
    'Ctrl-C stops it.',
  ].join('\n');
}
