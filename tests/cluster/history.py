"""Histories: one NDJSON line for each thing that a client of a cluster did or saw, and for what the replicas hold
in the end. Times are CLOCK_MONOTONIC nanoseconds of the one machine (network namespaces share it).

  append  one try of an append; `group` names the append, all its tries have the same. Event i of it is named
          GROUP.i, so that a stored event tells who wanted it. conn, n: its connection and how manieth command there;
          node; call, ret (null: none came); p; key; events: [stream, expected, id or null, crc] each, expected
          "empty", "exists", "any" or a number; result:
            ok        first, versions, ids (as answered)
            conflict  told: [stream, current, expected] as the refusal's text has them, or null
            fail      surely no effect: code
            unknown   code, or null where no answer came
  read    conn, n, node, call, ret, p, kind, mode ("default", "strong"), result ok or fail (code), and by kind:
            epseq   value (null: none)
            epscan  from, to (null: +), count, more, events: [sequence, id]
            escan   key, stream, from, to, count, more, events: [version, id]
            esver   key, stream, value
            eget    id, sequence (null: not there)
  sub     what a subscription on one connection delivered of one partition or stream, in the order it came: name (of
          the subscriber; the same when it goes on elsewhere), conn, node, p, key and stream (null: the partition),
          from, got: [position, id, time]. Many lines may follow one another, each `from` where the last ended
  problem kind, text: what a client saw to be wrong at once
  mark    what: "healed": from t on no fault is at work, and within bound_s an append works in every partition
  final   replica, p, log: [sequence, id, name, stream, key, version, transaction id, crc or null] each
  raft    replica, bucket, entries: [index, term, chain] each, those that live
"""

import json
import time
import zlib


def now():
    return time.monotonic_ns()


def crc(stream, name, payload, metadata=b""):
    """What a stored event is recognised by."""
    value = 0
    for part in (stream, name, metadata, payload):
        value = zlib.crc32(part, zlib.crc32(b"%d:" % len(part), value))
    return value


def event_name(group, index):
    return f"{group}.{index}"


def split_name(name):
    """(group, index) of an event's name; None where it is none of ours."""
    group, dot, index = name.rpartition(".")
    return (group, int(index)) if dot and index.isdigit() else None


class Recorder:
    """Writes a history file; what stands in it is whole lines, whenever the process ends."""

    def __init__(self, path):
        self.path = path
        self.file = open(path, "w", encoding="utf-8")
        self.encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

    def add(self, line):
        self.file.write(self.encode(line) + "\n")

    def flush(self):
        self.file.flush()

    def close(self):
        self.file.close()


def load(*paths):
    """All lines of these files."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)
