"""Clients for the crash tests: writers, a reader and a subscriber, each a process of its own with raw sockets.

Every event id says which client made it and as its how manieth. What a client was told goes to a pickle file at its
end; the checker (history.py) compares it with what the store holds.
"""

import contextlib
import multiprocessing
import pickle
import random
import time

from . import ids, resp
from .resp import Error

PARTITIONS = 32
BUCKETS = 4
KEYS = [ids.key_for_partition(partition, PARTITIONS, salt=partition + 1) for partition in range(8)]
STREAMS_PER_KEY = 3
CONNECT_DEADLINE_S = 20.0


class Shared:
    """What the processes share: progress, the number of kills that cost connections, and the word to stop."""

    def __init__(self, writers):
        self.writers = writers
        self.acked = multiprocessing.Array("Q", writers * BUCKETS)
        self.disconnects = multiprocessing.Value("Q", 0)  # odd: netd or everything is being killed
        self.stop = multiprocessing.Event()
        self.settled = multiprocessing.Event()  # the writers have ended

    @contextlib.contextmanager
    def disconnecting(self):
        """Around a kill: whoever connects meanwhile may meet the process that is about to die."""
        for step in range(2):
            with self.disconnects.get_lock():
                self.disconnects.value += 1
            if step == 0:
                yield

    def bucket_progress(self, bucket):
        return sum(self.acked[writer * BUCKETS + bucket] for writer in range(self.writers))


class Base:
    """A connection that is made again after a disconnect that was expected; other ones are errors."""

    follows = False  # works on until the writers have ended

    def __init__(self, number, port, seed, shared, out_path):
        self.number, self.port, self.shared, self.out_path = number, port, shared, out_path
        self.rng = random.Random(seed * 1000 + number)
        self.client = None
        self.epoch = 0
        self.errors = []
        self.connects = 0

    def connect(self):
        deadline = time.monotonic() + CONNECT_DEADLINE_S
        while True:
            epoch = self.shared.disconnects.value
            try:
                self.client = resp.Client(self.port, timeout=30.0)
                assert self.client.cmd("PING") == b"PONG"
                self.epoch = epoch
                self.connects += 1
                return
            except (OSError, resp.Closed) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no connection in {CONNECT_DEADLINE_S} s") from error
            time.sleep(0.005)

    def lost(self, error):
        if self.shared.disconnects.value == self.epoch and self.epoch % 2 == 0:
            self.errors.append(f"client {self.number}: disconnected without a kill: {error!r}")
        self.client.close()
        self.client = None

    def run(self):
        stop = self.shared.settled if self.follows else self.shared.stop
        try:
            while not stop.is_set() and len(self.errors) < 10:
                try:
                    if self.client is None:
                        self.connect()
                    self.turn()
                except (OSError, resp.Closed) as error:
                    self.lost(error)
            self.finish()
        except Exception as error:  # told to the parent, which fails the run
            import traceback

            self.errors.append(f"client {self.number}: {error!r}\n{traceback.format_exc()}")
        with open(self.out_path, "wb") as file:
            pickle.dump(self.result(), file)

    def finish(self):
        pass

    def result(self):
        return {"errors": self.errors, "connects": self.connects}


class Writer(Base):
    """Pipelined appends with exact expected versions on streams that only this client writes."""

    def __init__(self, *args, pause_s=0.006, payload_max=400):
        super().__init__(*args)
        self.pause_s, self.payload_max = pause_s, payload_max
        self.counter = 0
        self.ops = []
        self.versions = {}   # (key number, stream) -> last version, -1 for none
        self.open = []       # sent, not yet answered: (op, request, streams)
        self.doubtful = set()  # streams with an op given up: the server may still be about to apply it
        self.reconnected = False

    def new_event(self, key_number, stream):
        self.counter += 1
        event_id = ids.event_id(KEYS[key_number], (self.number << 48) | self.counter)
        payload = self.rng.randbytes(self.rng.randrange(self.payload_max)) if self.counter % 2 else \
            b"again and again " * self.rng.randrange(self.payload_max // 16)
        return str(event_id), stream.encode(), b"E%d" % self.counter, payload

    def new_op(self, planned):
        """An op and its request. planned: versions as they will be when all before it in this batch succeed."""
        key_number = self.rng.randrange(len(KEYS))
        key = KEYS[key_number]
        streams = [f"w{self.number}-{key_number}-{self.rng.randrange(STREAMS_PER_KEY)}"
                   for _ in range(self.rng.choice([1, 1, 1, 2, 3, 5]))]
        wrong = self.rng.random() < 0.04
        events, parts, touched = [], [], []
        for i, stream in enumerate(streams):
            event = self.new_event(key_number, stream)
            slot = (key_number, stream)
            version = planned.get(slot, self.versions.get(slot, -1))
            expected = "empty" if version < 0 else version
            if wrong and i == len(streams) - 1:
                expected = version + 7
            else:
                planned[slot] = version + 1
            events.append(event)
            touched.append(slot)
            parts += [event[1], event[2], "EVENT_ID", event[0], "EXPECTED_VERSION", expected, "PAYLOAD", event[3]]
        if wrong:  # refused as a whole: the plan is as before
            for slot in touched[:-1]:
                planned[slot] -= 1
        op = {"client": self.number, "events": events, "partition": key_number, "outcome": "unknown", "wrong": wrong}
        if len(streams) == 1:
            request = resp.encode("EAPPEND", *parts, "PARTITION_KEY", key)
        else:
            request = resp.encode("EMAPPEND", key, *parts)
        return op, request, touched

    def turn(self):
        if self.reconnected or self.open:
            self.reconnected = False
            if self.open and self.rng.random() < 0.7:
                self.exchange(self.open)  # the same ids again: the store's idempotence makes that safe
                return
            self.doubtful |= {slot for _, _, touched in self.open for slot in touched}
            self.open = []
            self.resync()
        planned, batch = {}, []
        for _ in range(self.rng.choice([1, 2, 4, 8])):
            batch.append(self.new_op(planned))
        self.ops += [op for op, _, _ in batch]
        self.exchange(batch)
        time.sleep(self.rng.random() * self.pause_s * 2)  # paces the load: the run's length is given in cycles

    def exchange(self, batch):
        self.open = list(batch)
        self.client.send_raw(b"".join(request for _, request, _ in batch))
        confused = False
        while self.open:
            op, _, touched = self.open[0]
            reply = self.client.reply()
            self.open.pop(0)
            confused |= self.answered(op, touched, reply)
        if confused:
            self.resync()

    def answered(self, op, touched, reply):
        """Takes one reply in; True when the streams' versions have to be asked for again."""
        if isinstance(reply, Error):
            op["outcome"] = "fail"
            if reply.code != "WRONGVER":
                op["outcome"] = "unknown"
                self.errors.append(f"client {self.number}: {reply.text}")
                return True
            if op["wrong"]:
                return False
            if not self.doubtful.intersection(touched):
                self.errors.append(f"client {self.number}: {reply.text} (event {op['events'][0][0]})")
            # What follows was planned on top of this one.
            self.doubtful |= {slot for _, _, slots in self.open for slot in slots}
            return True
        if op["wrong"]:
            self.errors.append(f"client {self.number}: a wrong expected version was accepted: {reply!r}")
        single = len(op["events"]) == 1
        events = [reply] if single else reply["events"]
        if [event["event_id"].decode() for event in events] != [event[0] for event in op["events"]]:
            self.errors.append(f"client {self.number}: the reply is another op's: {reply!r}")
        op["outcome"] = "ok"
        op["first_sequence"] = reply["partition_sequence" if single else "first_partition_sequence"]
        op["versions"] = [event["stream_version"] for event in events]
        for slot, version in zip(touched, op["versions"]):
            self.versions[slot] = version
        self.doubtful.difference_update(touched)
        bucket = op["partition"] % BUCKETS
        self.shared.acked[self.number * BUCKETS + bucket] += 1
        return False

    def lost(self, error):
        super().lost(error)
        self.reconnected = True

    def resync(self):
        slots = [(k, f"w{self.number}-{k}-{s}") for k in range(len(KEYS)) for s in range(STREAMS_PER_KEY)]
        replies = self.client.pipeline([("ESVER", stream, "PARTITION_KEY", KEYS[k]) for k, stream in slots])
        for slot, reply in zip(slots, replies):
            if isinstance(reply, Error):
                self.errors.append(f"client {self.number}: ESVER: {reply.text}")
                continue
            self.versions[slot] = -1 if reply is None else reply

    def result(self):
        return {**super().result(), "ops": self.ops}


class Reader(Base):
    """Reads that must never go back, never skip, and agree with each other, over all crashes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.sequences = {}
        self.reads = 0

    def turn(self):
        partition = self.rng.randrange(len(KEYS))
        last = self.client.cmd("EPSEQ", partition)
        if isinstance(last, Error):
            self.errors.append(f"reader: EPSEQ: {last.text}")
            return
        last = -1 if last is None else last
        if last < self.sequences.get(partition, -1):
            self.errors.append(f"reader: partition {partition} went back from {self.sequences[partition]} to {last}")
        self.sequences[partition] = last
        if last < 0:
            return
        begin = max(0, last - self.rng.randrange(40)) if self.rng.random() < 0.7 else self.rng.randrange(last + 1)
        reply = self.client.cmd("EPSCAN", partition, begin, "+", "COUNT", 40)
        if isinstance(reply, Error):
            self.errors.append(f"reader: EPSCAN: {reply.text}")
            return
        _, events = resp.scan(reply)
        if [event["partition_sequence"] for event in events] != list(range(begin, begin + len(events))) or \
                len(events) < min(40, last - begin + 1):
            self.errors.append(f"reader: EPSCAN {partition} from {begin}: {[e['partition_sequence'] for e in events]}")
        picked = self.rng.choice(events)
        again = self.client.cmd("EGET", picked["event_id"])
        if isinstance(again, Error) or again is None or resp.event(again) != picked:
            self.errors.append(f"reader: EGET {picked['event_id']}: {again!r}")
        self.reads += 3
        time.sleep(0.01)  # paces the reads

    def result(self):
        return {**super().result(), "reads": self.reads}


class Subscriber(Base):
    """Follows all partitions from 0 on; after a disconnect goes on from where it was."""

    WINDOW = 100
    follows = True

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = {partition: [] for partition in range(PARTITIONS)}
        self.subscription = None
        self.cursor = 0

    def connect(self):
        super().connect()
        pairs = [f"{partition}={len(got)}" for partition, got in self.seen.items()]
        reply = self.client.ok("EPSUB", "*", "FROM", "MAP", *pairs, "WINDOW", self.WINDOW)
        self.subscription, self.cursor = reply.decode(), 0

    def take(self, timeout):
        frame = self.client.pushes.pop(0) if self.client.pushes else self.client.read(timeout)
        if not resp.is_push(frame):
            if frame != b"OK":
                self.errors.append(f"subscriber: {frame!r}")
            return
        if frame[0] != b"message":
            return
        if frame[1].decode() != self.subscription or frame[2] != self.cursor:
            self.errors.append(f"subscriber: cursor {frame[2]} where {self.cursor} should be")
        event = resp.event(frame[3])
        self.seen[event["partition_id"]].append((event["partition_sequence"], event["event_id"]))
        self.cursor = frame[2] + 1
        if self.cursor % (self.WINDOW // 4) == 0:
            self.client.send("EACK", self.subscription, frame[2])

    def turn(self):
        try:
            self.take(0.1)
        except TimeoutError:
            pass  # nothing new; look at the word to stop

    def finish(self):
        """Until it has all that the store says it holds."""
        deadline = time.monotonic() + 20.0
        with resp.Client(self.port) as client:
            while True:
                totals = [client.cmd("EPSEQ", partition) for partition in range(PARTITIONS)]
                if all(len(self.seen[p]) == (0 if total is None else total + 1) for p, total in enumerate(totals)):
                    return
                if time.monotonic() > deadline:
                    self.errors.append("subscriber: the end is not reached in 20 s: " + str(
                        {p: (len(self.seen[p]), total) for p, total in enumerate(totals) if total is not None}))
                    return
                if self.client is None:
                    self.connect()
                for _ in range(500):
                    try:
                        self.take(0.05)
                    except TimeoutError:
                        break

    def result(self):
        return {**super().result(), "seen": self.seen}


def start_process(kind, *args, **options):
    def main():
        kind(*args, **options).run()

    process = multiprocessing.Process(target=main, daemon=True)
    process.start()
    return process


def scan_all(port, partitions=range(PARTITIONS)):
    """{partition: [event dicts]} of all partitions that hold something."""
    final = {}
    with resp.Client(port, timeout=60.0) as client:
        for partition in partitions:
            at, out = 0, []
            while True:
                more, events = resp.scan(client.ok("EPSCAN", partition, at, "+", "COUNT", 5000))
                out += events
                if not more:
                    break
                at = out[-1]["partition_sequence"] + 1
            if out:
                final[partition] = out
    return final
