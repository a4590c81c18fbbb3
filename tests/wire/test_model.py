"""Random commands against a model of the store in thirty lines: every reply must be the model's.

Pipelined in random pieces over several connections, with rollovers, killed buckets and restarts in between. The seed is
in the test's id; SIERRADB_MODEL_SEED adds one.
"""

import os
import random
import uuid

import pytest

from support import ids, resp
from support.resp import Error

SEEDS = [1, 2, 3] + ([int(os.environ["SIERRADB_MODEL_SEED"])] if "SIERRADB_MODEL_SEED" in os.environ else [])
PARTITIONS = 8
KEYS = [ids.key_for_partition(partition, PARTITIONS, salt=partition + 40) for partition in (0, 1, 1, 6)]
KEYS[2] = ids.key_for_partition(1, PARTITIONS, salt=99)  # two keys in one partition
STREAMS = [b"a", b"b", b"PAYLOAD", b"x\r\ny", "ü".encode(), b"z" * 64]


class Model:
    """What the store holds: a list of events for each partition."""

    def __init__(self):
        self.logs = {partition: [] for partition in range(PARTITIONS)}
        self.owners = {}   # (partition, stream) -> key
        self.by_id = {}

    def stream(self, key, stream):
        partition = ids.partition_of(key, PARTITIONS)
        return [event for event in self.logs[partition]
                if event["stream_id"] == stream and event["partition_key"] == str(key)]

    def append(self, key, events):
        """events: [(stream, name, id, expected, timestamp, payload, metadata)] → error code or the stored events."""
        partition = ids.partition_of(key, PARTITIONS)
        known = [self.by_id.get(event[2]) for event in events if event[2]]
        if any(known):
            whole = all(known) and [id(e) for e in known] == [id(e) for e in known[0]["transaction"]]
            return known if whole and all(same(old, new) for old, new in zip(known, events)) else "EXISTS"
        lengths = {}
        for stream, _, _, expected, *_ in events:
            owner = self.owners.get((partition, stream), str(key))
            if owner != str(key):
                return "INVALIDARG"
            length = lengths.get(stream, len(self.stream(key, stream)))
            if (expected == "empty" and length > 0) or (expected == "exists" and length == 0) or \
                    (isinstance(expected, int) and expected != length - 1):
                return "WRONGVER"
            lengths[stream] = length + 1
        stored = []
        for stream, name, event_id, _, timestamp, payload, metadata in events:
            self.owners[(partition, stream)] = str(key)
            event = {"event_id": str(event_id) if event_id else None, "partition_key": str(key),
                     "partition_id": partition, "partition_sequence": len(self.logs[partition]),
                     "stream_version": len(self.stream(key, stream)), "timestamp": timestamp,
                     "stream_id": stream, "event_name": name, "metadata": metadata, "payload": payload,
                     "transaction": stored}
            self.logs[partition].append(event)
            stored.append(event)
            if event_id:
                self.by_id[event_id] = event
        return stored


def same(old, new):
    stream, name, _, _, timestamp, payload, metadata = new
    return (old["stream_id"], old["event_name"], old["payload"], old["metadata"]) == (stream, name, payload, metadata) \
        and timestamp in (None, old["timestamp"])


class Driver:
    """Makes a random command, what the model says to it, and the comparison with the reply."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.model = Model()
        self.given = []

    def command(self):
        kinds = [self.eappend, self.emappend, self.again, self.escan, self.epscan, self.esver, self.epseq, self.eget]
        return self.rng.choices(kinds, [30, 15, 4, 15, 15, 5, 5, 8])[0]()

    def event(self, key):
        rng = self.rng
        stream = rng.choice(STREAMS)
        length = len(self.model.stream(key, stream))
        expected = rng.choice([None, None, "any", length - 1 if length else "empty", length - 1 if length else "empty",
                               "exists", "empty", rng.randrange(5)])
        event_id = ids.event_id(key, rng.getrandbits(64), rng.getrandbits(46)) if rng.random() < 0.5 else None
        payload = rng.choice([b"", b"p", rng.randbytes(rng.randrange(3000)), b"squeeze " * rng.randrange(300)])
        metadata = rng.choice([b"", b"", rng.randbytes(rng.randrange(100))])
        timestamp = rng.choice([None, 0, rng.randrange(10**12)])
        name = rng.choice([b"E", b"", "nämé".encode(), b"n" * 255])
        event = (stream, name, event_id, expected, timestamp, payload, metadata)
        if event_id:
            self.given.append((key, event))
        return event

    def words(self, event):
        stream, name, event_id, expected, timestamp, payload, metadata = event
        options = []
        if event_id:
            options.append(("EVENT_ID", event_id))
        if expected is not None:
            options.append(("EXPECTED_VERSION", expected))
        if timestamp is not None:
            options.append(("timestamp", timestamp))
        if payload or self.rng.random() < 0.2:
            options.append(("PAYLOAD", payload))
        if metadata:
            options.append(("METADATA", metadata))
        self.rng.shuffle(options)
        return [stream, name] + [word for option in options for word in option]

    def eappend(self):
        key = self.rng.choice(KEYS)
        return self.append_of(key, [self.event(key)], single=True)

    def emappend(self):
        key = self.rng.choice(KEYS)
        events = [self.event(key) for _ in range(self.rng.randrange(1, 6))]
        # A keyword as stream is an option from the second event on.
        events = [events[0]] + [(b"a" if event[0] == b"PAYLOAD" else event[0], *event[1:]) for event in events[1:]]
        return self.append_of(key, events, single=False)

    def again(self):
        """An earlier EVENT_ID: as it was, or with other content."""
        if not self.given:
            return self.esver()
        key, event = self.rng.choice(self.given)
        if self.rng.random() < 0.3:
            event = (*event[:5], event[5] + b"!", event[6])
        return self.append_of(key, [event], single=True)

    def append_of(self, key, events, single):
        words = [word for event in events for word in self.words(event)]
        command = ("EAPPEND", *words, "PARTITION_KEY", key) if single else ("EMAPPEND", key, *words)
        wanted = self.model.append(key, events)

        def compare(reply):
            if isinstance(wanted, str):
                assert isinstance(reply, Error) and reply.code == wanted, (wanted, reply)
                return
            assert not isinstance(reply, Error), reply
            got = [reply] if single else reply["events"]
            first = reply["partition_sequence" if single else "first_partition_sequence"]
            assert first == wanted[0]["partition_sequence"] and reply["partition_id"] == wanted[0]["partition_id"]
            assert len(got) == len(wanted)
            for event, item in zip(wanted, got):
                assert item["stream_version"] == event["stream_version"]
                self.learn(event, item["event_id"].decode(), item["timestamp"])

        return command, compare

    @staticmethod
    def learn(event, event_id, timestamp):
        """What the server chose, the model takes over; what it was given must come back."""
        event["event_id"] = event["event_id"] or event_id
        event["timestamp"] = timestamp if event["timestamp"] is None else event["timestamp"]
        assert (event["event_id"], event["timestamp"]) == (event_id, timestamp)

    def scan_of(self, command, events):
        rng, last = self.rng, len(events) - 1
        count = rng.choice([None, 0, 1, 2, 7, 100, 10**6])
        backwards = rng.random() < 0.4
        if backwards:
            low = rng.choice(["-", 0, rng.randrange(last + 3)])
            begin, end = "+", low
            chosen = events[0 if low == "-" else low:][::-1]
        else:
            begin = rng.choice(["-", 0, rng.randrange(last + 3)])
            end = rng.choice(["+", last, rng.randrange(last + 3)])
            end = max(end, 0) if end != "+" else end
            chosen = events[0 if begin == "-" else begin:None if end == "+" else end + 1]
        limit = 100 if count is None else count
        wanted, more = chosen[:limit], len(chosen) > limit
        options = [] if count is None else ["COUNT", count]

        def compare(reply):
            got_more, got = resp.scan(reply)
            assert [(e["partition_sequence"], e["stream_version"]) for e in got] == \
                [(e["partition_sequence"], e["stream_version"]) for e in wanted], (command, begin, end, count)
            assert got_more == more, (command, begin, end, count)
            for event, item in zip(wanted, got):
                self.learn(event, item["event_id"], item["timestamp"])
                check_event(item, event)

        return (*command[:2], begin, end, *options, *command[2:]), compare

    def escan(self):
        key, stream = self.rng.choice(KEYS), self.rng.choice(STREAMS)
        return self.scan_of(("ESCAN", stream, "PARTITION_KEY", key), list(self.model.stream(key, stream)))

    def epscan(self):
        partition = self.rng.choice([0, 1, 6, 6, 3])
        return self.scan_of(("EPSCAN", partition), list(self.model.logs[partition]))

    def esver(self):
        key, stream = self.rng.choice(KEYS), self.rng.choice(STREAMS)
        wanted = len(self.model.stream(key, stream)) - 1
        return ("ESVER", stream, "PARTITION_KEY", key), lambda reply: check_number(reply, wanted)

    def epseq(self):
        key = self.rng.choice(KEYS)
        wanted = len(self.model.logs[ids.partition_of(key, PARTITIONS)]) - 1
        return ("EPSEQ", key), lambda reply: check_number(reply, wanted)

    def eget(self):
        if not self.given or self.rng.random() < 0.1:
            missing = ids.event_id(self.rng.choice(KEYS), self.rng.getrandbits(64))
            return ("EGET", missing), lambda reply: check_number(reply, -1)
        _, event = self.rng.choice(self.given)
        wanted = self.model.by_id.get(event[2])

        def compare(reply):
            got = resp.event(reply)
            if wanted is None:
                assert got is None
                return
            self.learn(wanted, got["event_id"], got["timestamp"])
            check_event(got, wanted)

        return ("EGET", event[2]), compare


def check_event(got, wanted):
    assert all(got[name] == wanted[name] for name in wanted if name != "transaction")


def check_number(reply, wanted):
    assert reply == (None if wanted < 0 else wanted)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_commands(start, seed):
    node = start({"append.strict_versioning": False, "segment.size_bytes": 131072, "bucket.count": 2,
                  "partition.count": PARTITIONS, "cache.capacity_bytes": 1 << 20, "supervisor.crash_limit": 1000,
                  "supervisor.restart_backoff_ms_max": 100})
    driver = Driver(seed)
    client = node.client(timeout=30.0)
    for _ in range(120):
        pieces = [driver.command() for _ in range(driver.rng.choice([1, 5, 20, 60]))]
        data = b"".join(resp.encode(*command) for command, _ in pieces)
        victim = driver.rng.random() < 0.15 and driver.rng.randrange(2)
        cut = driver.rng.randrange(len(data))
        client.send_raw(data[:cut])
        if victim is not False:
            node.kill_child(victim)
        client.send_raw(data[cut:])
        for command, compare in pieces:
            reply = client.reply()
            try:
                compare(reply)
            except AssertionError as error:
                raise AssertionError(f"{[str(part)[:40] for part in command]}: {str(reply)[:300]}") from error
        if driver.rng.random() < 0.04:
            client.close()
            if driver.rng.random() < 0.5:
                node.stop()
            else:
                node.kill()
            node.start()
            client = node.client(timeout=30.0)
    client.close()
    node.stop()
    clean, output = node.verify()
    assert clean, output
    total = sum(len(log) for log in driver.model.logs.values())
    print(f"seed {seed}: {total} events")
    assert total > 500


@pytest.mark.parametrize("seed", SEEDS)
def test_random_subscriptions(start, seed):
    """Subscriptions of all kinds come, acknowledge, and go while a writer runs and processes are killed."""
    rng = random.Random(seed)
    node = start({"append.strict_versioning": False, "segment.size_bytes": 131072, "bucket.count": 2,
                  "partition.count": PARTITIONS, "supervisor.crash_limit": 1000,
                  "supervisor.restart_backoff_ms_max": 100})
    writer = node.client(timeout=30.0)
    log = {partition: [] for partition in range(PARTITIONS)}
    clients = [node.client(timeout=30.0) for _ in range(3)]
    subscriptions = {}  # id -> dict
    streams = [ids.stream_in_partition(f"r{i}", i % PARTITIONS, PARTITIONS) for i in range(6)]

    def write(count):
        replies = writer.pipeline([("EAPPEND", rng.choice(streams), "E", "PAYLOAD", rng.randbytes(rng.randrange(900)))
                                   for _ in range(count)])
        for reply in replies:
            assert not isinstance(reply, Error), reply
            log[reply["partition_id"]].append(reply["event_id"].decode())

    def subscribe():
        client = rng.choice(clients)
        chosen = rng.sample(range(PARTITIONS), rng.randrange(1, PARTITIONS + 1))
        window = rng.choice([2, 5, 20, 1000])
        kind = rng.choice(["latest", "number", "map"])
        sizes = {p: len(log[p]) for p in chosen}
        if kind == "latest":
            args, starts = (), sizes
        elif kind == "number":
            number = rng.randrange(max(sizes.values()) + 2)
            args, starts = ("FROM", number), {p: number for p in chosen}
        else:
            named = {p: rng.randrange(sizes[p] + 1) for p in rng.sample(chosen, rng.randrange(1, len(chosen) + 1))}
            default = rng.choice([None, 0, 3])
            starts = {p: named.get(p, sizes[p] if default is None else default) for p in chosen}
            args = ("FROM", "MAP", *(f"{p}={at}" for p, at in named.items()))
            args += () if default is None else ("DEFAULT", default)
        selector = "*" if len(chosen) == PARTITIONS else ",".join(map(str, chosen))
        reply = client.ok("EPSUB", selector, *args, "WINDOW", window)
        subscriptions[reply.decode()] = {"client": client, "next": dict(starts), "cursor": 0, "acked": -1,
                                         "window": window}

    def take(client):
        """All pushes that are there."""
        while True:
            try:
                frame = client.pushes.pop(0) if client.pushes else client.read(0.003)
            except TimeoutError:
                return
            assert resp.is_push(frame), frame
            if frame[0] != b"message":
                continue
            state = subscriptions.get(frame[1].decode())
            if state is None:
                continue  # sent before its EUNSUB
            event = resp.event(frame[3])
            partition = event["partition_id"]
            assert frame[2] == state["cursor"], "cursors have no gap"
            assert event["partition_sequence"] == state["next"][partition], "sequences have no gap and no repeat"
            assert event["event_id"] == log[partition][event["partition_sequence"]]
            assert frame[2] <= state["acked"] + state["window"], "more than the window"
            state["cursor"] += 1
            state["next"][partition] += 1

    def acknowledge(subscription, state):
        if state["cursor"] - 1 > state["acked"]:
            state["acked"] = rng.randrange(state["acked"] + 1, state["cursor"])
            assert state["client"].cmd("EACK", subscription, state["acked"]) == b"OK"

    write(200)
    for _ in range(60):
        if len(subscriptions) < 8 and rng.random() < 0.4:
            subscribe()
        write(rng.randrange(1, 30))
        for client in clients:
            take(client)
        for subscription, state in list(subscriptions.items()):
            if rng.random() < 0.6:
                acknowledge(subscription, state)
            elif rng.random() < 0.05:
                del subscriptions[subscription]
                assert state["client"].cmd("EUNSUB", subscription) == b"OK"
        if rng.random() < 0.1:
            node.kill_child(rng.randrange(2))
    # In the end each one reaches the end.
    for client in clients:
        for _ in range(100000):
            take(client)
            waiting = [(s, state) for s, state in subscriptions.items() if state["client"] is client
                       and any(at < len(log[p]) for p, at in state["next"].items())]
            if not waiting:
                break
            for subscription, state in waiting:
                if state["cursor"] - 1 > state["acked"]:
                    state["acked"] = state["cursor"] - 1
                    assert client.cmd("EACK", subscription, state["acked"]) == b"OK"
        assert not waiting
        client.close()
    writer.close()
    node.stop()
