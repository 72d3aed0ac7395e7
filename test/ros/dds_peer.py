"""A peer that is no ROS: Eclipse Cyclone DDS, which shares no code with the DDS of rclpy and rclnodejs.

It publishes and subscribes topics as the design pages of ROS 2 say how those look in DDS: topic /scan is "rt/scan", type
sensor_msgs/msg/LaserScan is "sensor_msgs::msg::dds_::LaserScan_". Types are made of the text of the interfaces.
No services: what tells an answer's request is a detail of each DDS that Cyclone's Python cannot set.
"""

import base64
import math
import os
import queue
import sys

from cyclonedds.core import Policy, Qos
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.idl import make_idl_struct, types
from cyclonedds.idl.annotations import final
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration
from rosidl_adapter.parser import parse_message_file

import lines

# On loopback alone and without multicast, as ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST has it.
CONFIGURATION = """<CycloneDDS><Domain Id="any">
  <General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces><AllowMulticast>false</AllowMulticast></General>
  <Discovery>
    <Peers><Peer address="127.0.0.1"/></Peers>
    <ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
  </Discovery>
</Domain></CycloneDDS>"""

PRIMITIVES = {
    "bool": bool,
    "byte": types.uint8,
    "char": types.uint8,
    "float32": types.float32,
    "float64": types.float64,
    "string": str,
    **{f"{sign}int{bits}": getattr(types, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
BYTES = ("byte", "char", "uint8")
made = {}


class Structure:
    """A message as IDL, with what its fields are."""

    def __init__(self, package, name):
        share = [f"{prefix}/share/{package}/msg/{name}.msg" for prefix in os.environ["AMENT_PREFIX_PATH"].split(":")]
        file = next((path for path in share if os.path.exists(path)), None)
        if file is None:
            raise ValueError(f"{package}/msg/{name} is not in AMENT_PREFIX_PATH")
        self.fields = parse_message_file(package, file).fields
        members = {field.name: self.member(field.type) for field in self.fields}
        if not members:
            members = {"structure_needs_at_least_one_member": types.uint8}
        self.cls = final(make_idl_struct(f"{name}_", f"{package}::msg::dds_::{name}_", members))

    @staticmethod
    def member(kind):
        one = PRIMITIVES[kind.type] if kind.pkg_name is None else structure(kind.pkg_name, kind.type).cls
        if not kind.is_array:
            return one
        return types.array[one, kind.array_size] if fixed(kind) else types.sequence[one]

    def instance(self, values):
        unknown = set(values) - {field.name for field in self.fields}
        if unknown:
            raise ValueError(f"{self.cls.__name__} has no field {', '.join(sorted(unknown))}")
        given = {field.name: sent(field.type, values.get(field.name)) for field in self.fields}
        return self.cls(**(given or {"structure_needs_at_least_one_member": 0}))

    def plain(self, sample):
        return {field.name: received(field.type, getattr(sample, field.name)) for field in self.fields}


def structure(package, name):
    if (package, name) not in made:
        made[package, name] = Structure(package, name)
    return made[package, name]


def fixed(kind):
    return kind.array_size is not None and not kind.is_upper_bound


def default(kind):
    if kind.pkg_name is not None:
        return structure(kind.pkg_name, kind.type).instance({})
    return {"bool": False, "string": "", "float32": 0.0, "float64": 0.0}.get(kind.type, 0)


def sent(kind, value):
    """Of a JSON value what Cyclone takes; nothing is what ROS has as default of the type."""
    if kind.is_array:
        if value is None:
            return [default(kind) for _ in range(kind.array_size)] if fixed(kind) else []
        if isinstance(value, dict):
            return list(base64.b64decode(value["$base64"]))
        return [single(kind, one) for one in value]
    return default(kind) if value is None else single(kind, value)


def single(kind, value):
    if kind.pkg_name is not None:
        return structure(kind.pkg_name, kind.type).instance(value)
    if kind.type in ("float32", "float64"):
        return float(value["$float"]) if isinstance(value, dict) else float(value)
    return value


def received(kind, value):
    if not kind.is_array:
        return told(kind, value)
    if kind.type in BYTES:
        return {"$base64": base64.b64encode(bytes(value)).decode()}
    return [told(kind, one) for one in value]


def told(kind, value):
    if kind.pkg_name is not None:
        return structure(kind.pkg_name, kind.type).plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value


def quality(wanted):
    wanted = wanted or {}
    reliable = wanted.get("reliability", "reliable") == "reliable"
    lasting = wanted.get("durability", "volatile") == "transient_local"
    return Qos(
        Policy.Reliability.Reliable(duration(seconds=1)) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if lasting else Policy.Durability.Volatile,
        Policy.History.KeepLast(wanted.get("depth", 10)),
    )


number = int(os.environ["ROS_DOMAIN_ID"])
domain = Domain(number, CONFIGURATION)
participant = DomainParticipant(number)
topics, writers, readers = {}, {}, {}
looking = []


def topic_of(line):
    key = line["topic"]
    if key not in topics:
        package, _, name = line["type"].split("/")
        kind = structure(package, name)
        topics[key] = (Topic(participant, f"rt{key}", kind.cls), kind)
    return topics[key]


def advertise(line):
    topic, kind = topic_of(line)
    writers[line["topic"]] = (DataWriter(participant, topic, qos=quality(line.get("qos"))), kind)


def publish(line):
    writer, kind = writers[line["topic"]]
    writer.write(kind.instance(line["message"]))


def matched(line):
    looking.append(line)
    return lines.LATER


def subscribe(line):
    topic, kind = topic_of(line)
    readers[line["topic"]] = (DataReader(participant, topic, qos=quality(line.get("qos"))), kind)


def unsubscribe(line):
    del readers[line["topic"]]


operations = {do.__name__: do for do in (advertise, publish, matched, subscribe, unsubscribe)}
waiting = queue.SimpleQueue()
lines.heard(waiting.put, lambda: waiting.put(None))
lines.say({"event": "ready", "node": "cyclonedds", "pid": os.getpid()})
while True:
    try:
        line = waiting.get(timeout=0.01)
        if line is None:
            break
        lines.answer(line, operations)
    except queue.Empty:
        pass
    for name, (reader, kind) in readers.items():
        for sample in reader.take(100):
            # Not a message, but the end of one that publishes.
            if isinstance(sample, kind.cls):
                lines.say({"event": "message", "topic": name, "message": kind.plain(sample)})
    for line in [*looking]:
        subscriptions = len(writers[line["topic"]][0].get_matched_subscriptions())
        if subscriptions >= line["count"]:
            looking.remove(line)
            lines.say({"id": line["id"], "value": subscriptions})
sys.exit(0)
