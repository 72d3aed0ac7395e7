"""What nodes of rclpy have in common that are told by JSON lines (lines.py) what to do."""

import collections
import os
import sys

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

import lines


def qos(wanted):
    """{"reliability": "reliable" | "best_effort", "durability": "volatile" | "transient_local", "depth": 10}"""
    wanted = wanted or {}
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=wanted.get("depth", 10),
        reliability=ReliabilityPolicy[wanted.get("reliability", "reliable").upper()],
        durability=DurabilityPolicy[wanted.get("durability", "volatile").upper()],
    )


def run(node, operations):
    """Spins until stdin ends or a signal comes. `operations`: name -> function of the line."""
    waiting = collections.deque()

    def work():
        while waiting:
            lines.answer(waiting.popleft(), operations)

    guard = node.create_guard_condition(work)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def take(line):
        waiting.append(line)
        guard.trigger()

    lines.heard(take, rclpy.try_shutdown)
    lines.say({"event": "ready", "node": node.get_fully_qualified_name(), "pid": os.getpid()})
    try:
        executor.spin()
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    sys.stdout.flush()
    # Fast DDS takes seconds to say goodbye to peers that are gone, and nothing here is left to save.
    os._exit(0)
