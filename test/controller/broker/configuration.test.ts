import { expect, test } from 'vitest';
import {
  brokerConfig,
  type BrokerConfig,
  type BrokerRole,
} from '../../../controller/broker/configuration.ts';

const passwords = { system: 'p-system', atoll: 'p-atoll', programs: 'p-programs', claim: 'p-claim' };
const base: BrokerConfig = {
  serverName: 'hub-1',
  site: 'hub',
  store: '/srv/nats',
  ports: { nats: 4222, mqtt: 1883, websocket: 9222, leaf: 7422 },
};
const control: BrokerRole = {
  kind: 'control',
  listen: '10.0.0.1',
  tls: { certificate: '/srv/hub.crt', key: '/srv/hub.key' },
  robots: [{ robot: 'robot1', link: 'ULINK', claim: 'UCLAIM' }],
  passwords,
};
const robot: BrokerRole = {
  kind: 'robot',
  hub: { url: 'tls://hub:7422', ca: '/srv/ca.pem' },
  seeds: { link: 'SULINK', claim: 'SUCLAIM' },
  linked: true,
  passwords,
};
const of = (role: BrokerRole, more: Partial<BrokerConfig> = {}): string =>
  brokerConfig({ ...base, ...more, role });
/** The lines of one block, without it. */
const blockOf = (config: string, name: string): string =>
  new RegExp(`^${name} [{]\n([^]*?)^[}]`, 'm').exec(config)?.[1] ?? '';

test.each<[string, BrokerRole]>([
  ['alone', { kind: 'alone' }],
  ['control', control],
  ['robot', robot],
])('%s: the domain is the name of the site, NATS and MQTT are on loopback', (_, role) => {
  const config = of(role, { site: 'reef' });
  expect(blockOf(config, 'jetstream')).toContain('domain: "reef"');
  expect(config).toMatch(/^host: "127\.0\.0\.1"$/m);
  expect(blockOf(config, 'mqtt')).toContain('host: "127.0.0.1"');
});

test.each<[string, BrokerRole]>([
  ['control', control],
  ['robot', robot],
])('%s: nobody is let in without a password or a key', (_, role) => {
  const config = of(role);
  expect(config).toContain('system_account: SYSTEM');
  expect(config).not.toContain('no_auth_user');
  for (const line of blockOf(config, 'accounts')
    .split('\n')
    .filter((text) => text.includes('user:'))) {
    expect(line).toContain('password:');
  }
});

test('alone: there are no accounts and no links', () => {
  expect(of({ kind: 'alone' }, { ports: { nats: 1, mqtt: 2 } })).not.toMatch(/accounts|leafnodes|websocket/);
});

test('control: robots come in over TLS, are told no other address, and keys open links only', () => {
  const config = of(control);
  const leaf = blockOf(config, 'leafnodes');
  expect(leaf).toContain('host: "10.0.0.1"');
  expect(leaf).toContain('no_advertise: true');
  expect(leaf).toContain('cert_file: "/srv/hub.crt"');
  expect(blockOf(config, 'websocket')).toContain('host: "10.0.0.1"');
  expect(blockOf(config, 'websocket')).not.toContain('no_tls');
  for (const line of config.split('\n').filter((text) => text.includes('nkey:'))) {
    expect(line).toContain('allowed_connection_types: ["LEAFNODE", "LEAFNODE_WS"]');
    expect(line).toMatch(/permissions: \{ publish: \["[^>]*robot1[^]*subscribe: \[/);
  }
});

test('robot: the link is there only while the id is claimed; the one for the claim always', () => {
  const linked = of(robot);
  expect(linked).toContain('nkey: SULINK');
  expect(linked).toContain('nkey: SUCLAIM');
  expect(linked).toContain('ca_file: "/srv/ca.pem"');
  expect(linked).toContain('ignore_discovered_servers: true');
  // In one that is away for days each failure would be a line of its log.
  expect(linked).toContain('reconnect_error_reports: 300');
  const unlinked = of({ ...robot, linked: false });
  expect(unlinked).not.toContain('SULINK');
  expect(unlinked).toContain('nkey: SUCLAIM');
});

test('robot: what it listens on is for the robot alone, and it writes through when told', () => {
  const config = of(robot, { syncInterval: 'always' });
  expect(blockOf(config, 'websocket')).toContain('host: "127.0.0.1"');
  expect(config).not.toContain('10.0.0.1');
  expect(blockOf(config, 'jetstream')).toContain('sync_interval: "always"');
});

test('text of a user cannot end a value', () => {
  const config = of({ ...robot, hub: { url: 'tls://hub:7422"\nport: 1' } });
  expect(config).toContain('urls: ["tls://hub:7422\\"\\nport: 1"]');
});
