/** Services that functions offer: each name is registered once, and the newest host that serves it gets the requests. */
import { faultOf } from '../errors.ts';
import type { RosServiceStatus } from '../clients/ros.ts';
import type { Log } from '../log.ts';
import type { Definitions } from './definitions.ts';
import { failureResponse, tellsFailure, type Failure } from './failure.ts';
import { codecOf, type MessageCodec } from './message.ts';
import { resolveName } from './names.ts';
import { maxMessageBytes } from './protocol.ts';
import type { Rclnodejs, RosNode, RosResponse } from './rclnodejs.ts';

/** A host that is started anew, or a trigger that is opened anew, comes back within this: callers go on seeing the service. */
const lingerMs = 10_000;

export interface Services {
  serve(offer: ServiceOffer): { close(): void };
  /** Answers all who still wait. */
  close(): void;
}

export interface ServiceOffer {
  readonly service: string;
  readonly type: string;
  readonly failure: Readonly<Record<string, string>>;
  /** Called with a request; exactly one of the answer's functions is to be called, once. */
  take(request: Buffer, time: number, answer: ServiceAnswer): void;
  status(status: RosServiceStatus): void;
}

export interface ServiceAnswer {
  respond(response: Buffer): void;
  fail(failure: Failure): void;
}

export interface ServiceParts {
  readonly rcl: Rclnodejs;
  readonly node: RosNode;
  readonly definitions: Definitions;
  readonly namespace: string;
  readonly log: Log;
}

interface Registered {
  readonly name: string;
  readonly type: string;
  readonly entity: unknown;
  /** The newest is the last. */
  readonly offers: ServiceOffer[];
  /** Of the last offer, for those who call while there is none. */
  failure: ServiceOffer['failure'];
  linger: NodeJS.Timeout | undefined;
}

const nobody: Failure = {
  code: 'HostUnavailable',
  message: 'no function answers this service at the moment; try again',
};

export function openServices(parts: ServiceParts): Services {
  const registered = new Map<string, Registered>();
  const waiting = new Set<() => void>();

  function register(name: string, offer: ServiceOffer): Registered {
    const { type } = offer;
    const request = codecOf(parts.definitions.text(`${type}_Request`), `${type}_Request`);
    const response = codecOf(parts.definitions.text(`${type}_Response`), `${type}_Response`);
    // Throws where the template does not fit, before anybody calls.
    tellsFailure(response.fields, offer.failure);
    const known = registered.get(name);
    if (known !== undefined && known.type !== type) {
      if (known.offers.length > 0) throw new TypeError(`${name} is offered as ${known.type} already`);
      remove(known);
    }
    const there = registered.get(name);
    if (there !== undefined) return there;
    const service: Registered = {
      name,
      type,
      entity: parts.node.createService(type, name, {}, (given, answer) =>
        take(service, { request, response }, given, answer),
      ),
      offers: [],
      failure: offer.failure,
      linger: undefined,
    };
    registered.set(name, service);
    return service;
  }

  /** rclnodejs never answers a request whose callback throws. */
  function take(
    service: Registered,
    codecs: { request: MessageCodec; response: MessageCodec },
    given: unknown,
    answer: RosResponse,
  ): void {
    const offer = service.offers.at(-1);
    const template = offer?.failure ?? service.failure;
    let answered = false;
    const send = (response: () => unknown): void => {
      if (answered) return;
      answered = true;
      waiting.delete(giveUp);
      try {
        answer.send(response());
      } catch (error) {
        parts.log.error({ err: error, service: service.name }, 'a response could not be sent');
      }
    };
    const fail = (failure: Failure): void => {
      if (answered) return;
      if (!tellsFailure(codecs.response.fields, template)) {
        parts.log.warn(
          { service: service.name, code: failure.code, error: failure.message },
          'a request failed, and its response has no field that could say so',
        );
      }
      send(() => complete(codecs.response, failureResponse(codecs.response.fields, template, failure)));
    };
    const giveUp = (): void => fail(nobody);
    if (offer === undefined) return fail(nobody);
    waiting.add(giveUp);
    try {
      const request = codecs.request.encode(given);
      if (request.length > maxMessageBytes) {
        return fail({
          code: 'TooLarge',
          message: `a request of ${request.length} bytes; ${maxMessageBytes} are allowed`,
        });
      }
      offer.take(request, Date.now(), {
        respond: (response) => send(() => codecs.response.decode(response)),
        fail,
      });
    } catch (error) {
      fail(faultOf(error));
    }
  }

  function remove(service: Registered): void {
    clearTimeout(service.linger);
    registered.delete(service.name);
    parts.node.destroyService(service.entity);
  }

  return {
    serve(offer) {
      const name = resolveName(offer.service, parts.namespace);
      let service: Registered;
      try {
        service = register(name, offer);
      } catch (error) {
        const { code, message } = serviceFault(error, offer.type);
        offer.status({ ready: false, code, message });
        return { close: () => {} };
      }
      clearTimeout(service.linger);
      service.offers.push(offer);
      service.failure = offer.failure;
      offer.status({ ready: true, code: 'Ready', message: `serves ${name} (${offer.type})` });
      return {
        close() {
          const at = service.offers.indexOf(offer);
          if (at >= 0) service.offers.splice(at, 1);
          if (service.offers.length > 0) return;
          service.linger = setTimeout(() => remove(service), lingerMs);
        },
      };
    },
    close() {
      for (const giveUp of waiting) giveUp();
      for (const service of registered.values()) remove(service);
    },
  };
}

/** With all fields: what is left out of a plain object, rclnodejs refuses. */
function complete(codec: MessageCodec, fields: Record<string, unknown>): Record<string, unknown> {
  return codec.decode(codec.encode(fields));
}

/** What keeps a service or a client of that type from being made. */
export function serviceFault(error: unknown, type: string): { code: string; message: string } {
  const fault = faultOf(error);
  if (fault.code === 'RosTypeNotFound') return fault;
  if (/does not exist|MESSAGE_NOT_FOUND/.test(`${fault.code} ${fault.message}`)) {
    const message = `${type}: rclnodejs was built before this type was there: with ROS sourced, run "npx generate-ros-messages" in the folder that rclnodejs is installed in`;
    return { code: 'RosTypeNotFound', message };
  }
  if (error instanceof TypeError) return { code: 'RosTypeMismatch', message: fault.message };
  return { code: 'SubscriptionRefused', message: `${type}: ${fault.message}` };
}
