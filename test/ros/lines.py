"""JSON lines: what a test tells a peer on stdin, and what the peer tells the test on stdout.

In:  {"id": 1, "op": "publish", ...}     Out: {"id": 1, "value": ...} or {"id": 1, "error": "..."}
                                         Out, unasked: {"event": "message", ...}
A peer ends with its stdin, so that it never outlives who started it.
"""

import json
import sys
import threading

_writing = threading.Lock()

# Given back by an operation that answers by itself.
LATER = object()


def say(line):
    text = json.dumps(line, allow_nan=False)
    with _writing:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def heard(take, ended):
    """Hands each line to `take`, on a thread of its own."""

    def read():
        for text in sys.stdin:
            take(json.loads(text))
        ended()

    threading.Thread(target=read, daemon=True).start()


def answer(line, operations):
    """Does what the line asks for and says how it went."""
    do = operations.get(line.get("op"))
    if do is None:
        say({"id": line.get("id"), "error": f"there is no op {line.get('op')!r}"})
        return
    try:
        value = do(line)
    except Exception as error:  # whatever it is, who asked waits for it
        say({"id": line["id"], "error": f"{type(error).__name__}: {error}"})
        return
    if value is not LATER:
        say({"id": line["id"], "value": value})
