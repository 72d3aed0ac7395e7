"""ROS messages as JSON and back, without loss: what a test in another language can read and write.

64-bit integers are numbers of any size, as JSON allows; bytes are {"$base64": "..."}; what JSON has no word for is
{"$float": "NaN" | "Infinity" | "-Infinity"}.
"""

import array
import base64
import importlib
import math

import numpy
from rosidl_parser.definition import AbstractNestedType, BasicType, NamespacedType


def interface(name):
    """The class of "std_msgs/msg/String" or "std_srvs/srv/Trigger"."""
    package, kind, interface_name = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), interface_name)


def to_plain(value):
    if hasattr(value, "get_fields_and_field_types"):
        return {name: to_plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (bytes, bytearray)):
        return {"$base64": base64.b64encode(value).decode()}
    if isinstance(value, array.array) and value.typecode == "B":
        return to_plain(value.tobytes())
    if isinstance(value, numpy.ndarray) and value.dtype == numpy.uint8:
        return to_plain(value.tobytes())
    if isinstance(value, (array.array, numpy.ndarray)):
        return [to_plain(element) for element in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [to_plain(element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    return value


def to_message(cls, values):
    """A message of that class; fields that are not named keep their defaults."""
    message = cls()
    types = dict(zip(cls.get_fields_and_field_types(), cls.SLOT_TYPES))
    for name, value in values.items():
        if name not in types:
            raise ValueError(f"{cls.__name__} has no field {name!r}; it has {', '.join(types)}")
        setattr(message, name, _field(types[name], value))
    return message


def _field(slot, value):
    if isinstance(slot, NamespacedType):
        cls = getattr(importlib.import_module(".".join(slot.namespaces)), slot.name)
        return to_message(cls, value)
    if isinstance(slot, AbstractNestedType):
        element = slot.value_type
        if isinstance(value, dict) and "$base64" in value:
            data = base64.b64decode(value["$base64"])
            if isinstance(element, BasicType) and element.typename == "octet":
                return [bytes([byte]) for byte in data]
            return array.array("B", data)
        return [_field(element, one) for one in value]
    if isinstance(slot, BasicType):
        if slot.typename == "octet":
            return bytes([value])
        if slot.typename in ("float", "double"):
            return float(value["$float"]) if isinstance(value, dict) else float(value)
        if slot.typename == "boolean":
            return bool(value)
    return value
