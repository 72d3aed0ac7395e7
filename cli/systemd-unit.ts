/** The unit by which systemd runs `faas up` from the boot on. Pure: where it goes and what it needs is decided elsewhere. */

export interface UnitOptions {
  /** Of the site, for people. */
  readonly title: string;
  readonly documentation: string;
  readonly user: string;
  /** The program and its arguments. */
  readonly command: readonly string[];
  /** The folder of the site: all that the service may write. */
  readonly dir: string;
  /** Searched first, for what `faas up` starts. */
  readonly path: readonly string[];
  /** It listens at an address that is there only once the network is. */
  readonly needsNetwork: boolean;
}

/** Functions that run may take that long to end; then everything is killed. */
const stopSeconds = 120;
const systemPath = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

export function systemdUnit(options: UnitOptions): string {
  const { title, documentation, user, command, dir, path, needsNetwork } = options;
  const network = needsNetwork ? 'network-online.target' : 'network.target';
  return `[Unit]
Description=${text(title)}
Documentation=${text(documentation)}
# A robot works without its hub, and does not wait for it.
After=${network}
${needsNetwork ? `Wants=${network}\n` : ''}RequiresMountsFor=${word(dir)}
# It is started again for ever, however often it ended.
StartLimitIntervalSec=0

[Service]
Type=exec
User=${text(user)}
ExecStart=${command.map(argument).join(' ')}
Restart=always
RestartSec=2
# faas up lets its functions end, in order; what is left after that is killed.
KillMode=mixed
TimeoutStopSec=${stopSeconds}
# A handler that the kernel ends for its memory is replaced; the others go on.
OOMPolicy=continue
LimitNOFILE=65536
UMask=0077
Environment=${word(`PATH=${[...path, ...systemPath].join(':')}`)}
# The environment of ROS, for one; may be missing.
EnvironmentFile=-${text(`${dir}/environment`)}

# All it may write is its folder. No W^X: JavaScript is compiled while it runs.
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths=${word(dir)}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`;
}

/** Specifiers begin with %; a line is a value. */
const text = (value: string): string => value.replaceAll('%', '%%').replace(/[\n\r]/g, ' ');
const word = (value: string): string => `"${text(value).replace(/["\\]/g, '\\$&')}"`;
/** Only in ExecStart variables are put in. */
const argument = (value: string): string =>
  /^[\w./:@=-]+$/.test(value) ? value : word(value).replaceAll('$', '$$$$');
