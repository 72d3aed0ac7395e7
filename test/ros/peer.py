"""A ROS 2 node in Python that a test makes publish, subscribe, serve and call. Usage: peer.py [NAME [NAMESPACE]]"""

import base64
import sys

import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future

import lines
import nodes
from messages import interface, to_message, to_plain

rclpy.init()
node = rclpy.create_node(
    sys.argv[1] if len(sys.argv) > 1 else "peer",
    namespace=sys.argv[2] if len(sys.argv) > 2 else None,
)
publishers, subscriptions, services, clients, timers = {}, {}, {}, {}, {}
requests, parameter_clients = {}, {}


def advertise(line):
    key = line["topic"]
    if key not in publishers:
        cls = interface(line["type"])
        publishers[key] = (node.create_publisher(cls, key, nodes.qos(line.get("qos"))), cls)
    return publishers[key][0].topic_name


def publish(line):
    publisher, cls = publishers[line["topic"]]
    raw = line.get("raw")
    publisher.publish(base64.b64decode(raw) if raw is not None else to_message(cls, line["message"]))


def burst(line):
    """Publishes `count` messages, `hz` a second, each with the next number in `field`; answers after the last."""
    publisher, cls = publishers[line["topic"]]
    first, count, field = line.get("first", 0), line["count"], line["field"]
    message = to_message(cls, line.get("message", {}))
    published = 0

    def tick():
        nonlocal published
        setattr(message, field, first + published)
        publisher.publish(message)
        published += 1
        if published == count:
            node.destroy_timer(timers.pop(line["id"]))
            lines.say({"id": line["id"], "value": published})

    timers[line["id"]] = node.create_timer(1 / line["hz"], tick)
    return lines.LATER


def withdraw(line):
    publisher, _ = publishers.pop(line["topic"])
    node.destroy_publisher(publisher)


def matched(line):
    """Answers once that many subscriptions have found the publisher."""
    publisher, _ = publishers[line["topic"]]

    def look():
        if publisher.get_subscription_count() >= line["count"]:
            node.destroy_timer(timers.pop(line["id"]))
            lines.say({"id": line["id"], "value": publisher.get_subscription_count()})

    timers[line["id"]] = node.create_timer(0.01, look)
    return lines.LATER


def subscribe(line):
    topic, raw = line["topic"], line.get("raw", False)

    def heard(message):
        value = {"$base64": base64.b64encode(message).decode()} if raw else to_plain(message)
        lines.say({"event": "message", "topic": topic, "message": value})

    cls = interface(line["type"])
    subscriptions[topic] = node.create_subscription(cls, topic, heard, nodes.qos(line.get("qos")), raw=raw)


def unsubscribe(line):
    node.destroy_subscription(subscriptions.pop(line["topic"]))


def serve(line):
    """Each request is told and waits for {"op": "respond"}: meanwhile others are taken."""
    name, cls = line["service"], interface(line["type"])

    async def asked(request, response):
        number = len(requests) + 1
        future = Future()
        requests[number] = (future, type(response))
        lines.say({"event": "request", "service": name, "request": number, "message": to_plain(request)})
        return await future

    # Of the usual group one callback runs at a time, and a request that waits would hold up all others.
    services[name] = node.create_service(cls, name, asked, callback_group=ReentrantCallbackGroup())


def respond(line):
    future, cls = requests[line["request"]]
    future.set_result(to_message(cls, line["message"]))


def call(line):
    """Waits for the service, then for its answer; how long is for who asked to say."""
    key, cls = (line["service"], line["type"]), interface(line["type"])
    if key not in clients:
        clients[key] = node.create_client(cls, line["service"])
    client = clients[key]
    request = to_message(cls.Request, line["message"])
    return answer_of(line, client.service_is_ready, lambda: client.call_async(request))


def parameters(line):
    """Asks another node for its parameters by the client of rclpy, which is what the program `ros2 param` does."""
    key = line["node"]
    if key not in parameter_clients:
        parameter_clients[key] = AsyncParameterClient(node, key)
    client = parameter_clients[key]
    names = line.get("names", [])
    values = [Parameter(name, value=value) for name, value in line.get("values", {}).items()]
    ask = {
        "list": lambda: client.list_parameters(),
        "get": lambda: client.get_parameters(names),
        "types": lambda: client.get_parameter_types(names),
        "describe": lambda: client.describe_parameters(names),
        "set": lambda: client.set_parameters(values),
        "setAtomically": lambda: client.set_parameters_atomically(values),
    }[line["ask"]]
    return answer_of(line, client.services_are_ready, ask)


def answer_of(line, is_ready, ask):
    def answered(future):
        if future.exception() is not None:
            lines.say({"id": line["id"], "error": str(future.exception())})
        else:
            lines.say({"id": line["id"], "value": to_plain(future.result())})

    def look():
        if is_ready():
            node.destroy_timer(timers.pop(line["id"]))
            ask().add_done_callback(answered)

    timers[line["id"]] = node.create_timer(0.01, look)
    return lines.LATER


def graph(_line):
    return {
        "nodes": [f"{namespace.rstrip('/')}/{name}" for name, namespace in node.get_node_names_and_namespaces()],
        "topics": dict(node.get_topic_names_and_types()),
        "services": dict(node.get_service_names_and_types()),
    }


def publishers_of(line):
    return [
        {
            "node": f"{info.node_namespace.rstrip('/')}/{info.node_name}",
            "type": info.topic_type,
            "reliability": info.qos_profile.reliability.name.lower(),
            "durability": info.qos_profile.durability.name.lower(),
        }
        for info in node.get_publishers_info_by_topic(line["topic"])
    ]


operations = (
    advertise,
    publish,
    burst,
    withdraw,
    matched,
    subscribe,
    unsubscribe,
    serve,
    respond,
    call,
    parameters,
    graph,
    publishers_of,
)
nodes.run(node, {operation.__name__: operation for operation in operations})
