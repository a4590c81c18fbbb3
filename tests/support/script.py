"""One careful client for the fault tests: pipelined appends with own ids, each retried until it is acknowledged."""

import random
import time

from . import ids, resp
from .resp import Error


class Script:
    """Appends to a few streams of one partition; keeps ops for the checker (history.py)."""

    def __init__(self, node, partition=0, partitions=32, seed=0, payload_max=1200):
        self.node, self.partition = node, partition
        self.key = ids.key_for_partition(partition, partitions, salt=77)
        self.rng = random.Random(seed)
        self.payload_max = payload_max
        self.versions = {}
        self.counter = 0
        self.ops = []
        self.refusals = []  # texts of WRITEERR and the like, where those are allowed

    def make(self):
        streams = self.rng.choice([["a"], ["b"], ["a", "b"], ["a", "c", "a"]])
        events, parts = [], []
        for stream in streams:
            self.counter += 1
            version = self.versions.get(stream, -1)
            self.versions[stream] = version + 1
            event_id = str(ids.event_id(self.key, self.counter))
            payload = self.rng.randbytes(self.rng.randrange(self.payload_max))
            events.append((event_id, stream.encode(), b"E", payload))
            parts += [stream, "E", "EVENT_ID", event_id, "EXPECTED_VERSION", "empty" if version < 0 else version,
                      "PAYLOAD", payload]
        request = resp.encode("EAPPEND", *parts, "PARTITION_KEY", self.key) if len(streams) == 1 else \
            resp.encode("EMAPPEND", self.key, *parts)
        op = {"client": 0, "events": events, "partition": self.partition, "outcome": "unknown"}
        self.ops.append(op)
        return op, request

    def run(self, client, count, chunk=8, allow=(), deadline_s=30.0):
        """`count` appends, all acknowledged in the end. An error is raised unless its code is in `allow`; then that
        append and those behind it are sent again. Returns the seconds of the longest wait for one chunk."""
        worst = 0.0
        for at in range(0, count, chunk):
            batch = [self.make() for _ in range(min(chunk, count - at))]
            begin = time.monotonic()
            while batch:
                batch = self.attempt(client, batch, allow)
                if batch and time.monotonic() - begin > deadline_s:
                    raise TimeoutError(f"refused for {deadline_s} s: {self.refusals[-1]}")
                if batch:
                    time.sleep(0.01)  # between attempts
            worst = max(worst, time.monotonic() - begin)
        return worst

    def attempt(self, client, batch, allow):
        """Sends the batch; returns what was refused."""
        client.send_raw(b"".join(request for _, request in batch))
        left = []
        for op, request in batch:
            reply = client.reply(timeout=40.0)
            if not isinstance(reply, Error):
                self.acknowledged(op, reply)
            elif left and reply.code == "WRONGVER":
                left.append((op, request))  # built upon one that was refused
            elif reply.code in allow:
                self.refusals.append(reply.text)
                left.append((op, request))
            else:
                raise AssertionError(f"an error at the client: {reply.text}")
        return left

    @staticmethod
    def acknowledged(op, reply):
        single = len(op["events"]) == 1
        op["outcome"] = "ok"
        op["first_sequence"] = reply["partition_sequence" if single else "first_partition_sequence"]
        op["versions"] = [event["stream_version"] for event in ([reply] if single else reply["events"])]
