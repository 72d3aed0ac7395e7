/**
 * Who holds a Kubernetes token and what that user may do: TokenReview and SubjectAccessReview, each remembered for a
 * moment. https://kubernetes.io/docs/reference/access-authn-authz/authorization/#checking-api-access
 */
import { createHash } from 'node:crypto';
import { AtollError } from '../runtime/errors.ts';
import type { Access } from './access.ts';

/** What RBAC takes away is gone after this. */
export const rememberedMs = 10_000;
/** Of each kind; who asks with ever new tokens must not fill the memory. */
const maxRemembered = 1_000;

/** As TokenReview gives it and SubjectAccessReview takes it. */
export interface User {
  readonly username: string;
  readonly uid?: string;
  readonly groups?: readonly string[];
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

/** POSTs JSON to the API server and gives the answer's body; rejects for everything but a success. */
export type Post = (path: string, body: object) => Promise<unknown>;

export interface Reviews {
  /**
   * Undefined: nobody's token, or none for that audience (by default the API server's own). Rejects with AtollError
   * ClusterUnavailable, as `may` does.
   */
  userOf(token: string, audience?: string): Promise<User | undefined>;
  may(user: User, access: Access): Promise<boolean>;
}

export function openReviews(send: Post, now: () => number = () => performance.now()): Reviews {
  const post: Post = (path, body) =>
    send(path, body).catch((error: unknown) => {
      throw new AtollError(
        'ClusterUnavailable',
        'who you are cannot be found out at the moment: the API server does not answer; try again, or use a key',
        { cause: error },
      );
    });
  const users = remembered<User | undefined>(now);
  const verdicts = remembered<boolean>(now);
  return {
    userOf(token, audience) {
      // Not the token itself: what is kept in memory should not open a door.
      const key = createHash('sha256')
        .update(`${audience ?? ''} ${token}`)
        .digest('base64');
      return users(key, async () => {
        const spec = { token, ...(audience !== undefined && { audiences: [audience] }) };
        const { status } = (await post('/apis/authentication.k8s.io/v1/tokenreviews', {
          apiVersion: 'authentication.k8s.io/v1',
          kind: 'TokenReview',
          spec,
        })) as { status?: { authenticated?: boolean; audiences?: string[]; user?: User } };
        const meant = audience === undefined || status?.audiences?.includes(audience) === true;
        return status?.authenticated === true && meant ? status.user : undefined;
      });
    },
    may(user, access) {
      const key = createHash('sha256')
        .update(JSON.stringify([user, access]))
        .digest('base64');
      return verdicts(key, async () => {
        const { username, uid, groups, extra } = user;
        const { status } = (await post('/apis/authorization.k8s.io/v1/subjectaccessreviews', {
          apiVersion: 'authorization.k8s.io/v1',
          kind: 'SubjectAccessReview',
          spec: {
            ...{ user: username, uid, groups, extra },
            ...('path' in access
              ? { nonResourceAttributes: access }
              : { resourceAttributes: { group: 'atoll.dev', ...access } }),
          },
        })) as { status?: { allowed?: boolean } };
        return status?.allowed === true;
      });
    },
  };
}

/** Answers are kept, failures to ask are not; who asks at the same time shares one question. */
function remembered<T>(now: () => number) {
  const known = new Map<string, { readonly until: number; readonly answer: Promise<T> }>();
  return (key: string, ask: () => Promise<T>): Promise<T> => {
    const before = known.get(key);
    if (before !== undefined && before.until > now()) return before.answer;
    known.delete(key);
    const answer = ask();
    const entry = { until: now() + rememberedMs, answer };
    known.set(key, entry);
    answer.catch(() => {
      if (known.get(key) === entry) known.delete(key);
    });
    // In the order in which they were asked: the first is the oldest.
    const [oldest] = known.keys();
    if (known.size > maxRemembered && oldest !== undefined) known.delete(oldest);
    return answer;
  };
}
