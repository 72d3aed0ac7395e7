/** Names in a broker that more than one program must know: they carry the function's namespace and name. */

export const inboxStream = 'ATOLL_INBOX';
export const deadStream = 'ATOLL_DEAD';
export const stateBucket = 'ATOLL_STATE';

export interface Target {
  readonly namespace: string;
  readonly name: string;
}

/** On the inbox: one for all triggers of a function. */
export const inboxConsumer = ({ namespace, name }: Target): string => `${namespace}_${name}`;
/** On a user's stream. */
export const triggerConsumer = ({ namespace, name }: Target, trigger: string): string =>
  `${namespace}_${name}_${trigger}`;
