/** Where a server listens that is not to listen on loopback: a network namespace that a test made. */
export interface Place {
  /** Its address as tests reach it. */
  readonly host: string;
  /** Its address as the site under test reaches it, over a way of its own. */
  readonly siteHost?: string;
  /** The command that runs a command there. */
  enter(launch: { command: string; args: string[] }): { command: string; args: string[] };
}
