/**
 * Names that belong to NATS or to Atoll itself. Patterns for JavaScript (with the u flag) and RE2, as in function.ts:
 * the rules of a Function and the host refuse the same.
 */

/** Subjects the servers and Atoll speak on. A function that hears its own acknowledgements never ends. */
export const internalSubject = '^(atoll|_INBOX|[$]JS|[$]SYS|[$]NRG|[$]MQTT|[$]KV[.]ATOLL_[^.]*)([.]|$)';

/** The same as topics to publish on: NATS' MQTT listener makes a subject of each. */
export const internalTopic = '^(atoll|_INBOX|[$]JS|[$]SYS|[$]NRG|[$]MQTT|[$]KV/ATOLL_[^/]*)(/|$)';

export const internalBucket = '^ATOLL_';

// NATS: tokens between dots. A `*` or `>` that is not a whole token is legal in NATS, but always a mistake.
export const subjectToken = '[^ \\t\\r\\n\\f.*>]+';
export const literalSubject = `^${subjectToken}([.]${subjectToken})*$`;

// MQTT 3.1.1 section 4.7. A level that is just "*" or ">" would be a wildcard in NATS' MQTT listener.
export const topicLevel = '([^/+#*>\\x00][^/+#\\x00]*|[*>][^/+#\\x00]+)?';
export const literalTopic = `^${topicLevel}(/${topicLevel})*$`;

/** As JetStream takes them. */
export const bucketName = '[A-Za-z0-9_-]+';
export const kvToken = '[A-Za-z0-9_=/-]+';
export const literalKey = `^${kvToken}([.]${kvToken})*$`;

/** A ROS name: absolute, private or relative. https://design.ros2.org/articles/topic_and_service_names.html */
export const rosToken = '[A-Za-z_][A-Za-z0-9_]*';
export const literalRosName = `^(~?/)?${rosToken}(/${rosToken})*$`;
