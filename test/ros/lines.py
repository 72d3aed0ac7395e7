"""A ROS node that is told what to do by JSON lines on stdin and tells what happens by JSON lines on stdout.

In:  {"id": 1, "op": "publish", ...}     Out: {"id": 1, "value": ...} or {"id": 1, "error": "..."}
                                         Out, unasked: {"event": "message", ...}
It ends with its stdin, so that it never outlives who started it.
"""

import collections
import json
import os
import sys
import threading

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

_writing = threading.Lock()


def say(line):
    text = json.dumps(line, allow_nan=False)
    with _writing:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def qos(wanted):
    """{"reliability": "reliable" | "best_effort", "durability": "volatile" | "transient_local", "depth": 10}"""
    wanted = wanted or {}
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=wanted.get("depth", 10),
        reliability=ReliabilityPolicy[wanted.get("reliability", "reliable").upper()],
        durability=DurabilityPolicy[wanted.get("durability", "volatile").upper()],
    )


def answer(line, do):
    """Does it and says how it went; `do` gives the value, or LATER when it answers by itself."""
    try:
        value = do(line)
    except Exception as error:  # whatever it is, who asked waits for it
        say({"id": line["id"], "error": f"{type(error).__name__}: {error}"})
        return
    if value is not LATER:
        say({"id": line["id"], "value": value})


LATER = object()


def run(node, operations):
    """Spins until stdin ends or a signal comes. `operations`: name -> function of the line."""
    waiting = collections.deque()

    def work():
        while waiting:
            line = waiting.popleft()
            do = operations.get(line.get("op"))
            if do is None:
                say({"id": line.get("id"), "error": f"there is no op {line.get('op')!r}"})
            else:
                answer(line, do)

    guard = node.create_guard_condition(work)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def read():
        for text in sys.stdin:
            waiting.append(json.loads(text))
            guard.trigger()
        rclpy.try_shutdown()

    threading.Thread(target=read, daemon=True).start()
    say({"event": "ready", "node": node.get_fully_qualified_name(), "pid": os.getpid()})
    try:
        executor.spin()
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    sys.stdout.flush()
    # Fast DDS takes seconds to say goodbye to peers that are gone, and nothing here is left to save.
    os._exit(0)
