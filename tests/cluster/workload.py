"""Clients of a cluster, in one process: writers, readers and subscribers on all nodes; what they did and saw goes to a
history (history.py).

    workload.py CONFIG.json

CONFIG: name (of this process; part of every event's name), out (the history file), nodes: [[host, port], ...], writers,
probers, readers, subscribers, seed, pause_ms (mean, between a writer's turns), probe_ms (between a prober's), hot (part
of the appends that go to streams which all writers share), timeout_s (for an answer, then the connection is given up),
mixed (most subscribers follow one partition).

Commands on standard input, a line each, each answered with one line of JSON on standard output:
    stats               {"acked": [count by partition], "errors": {...}, ...}
    stop                writers and readers end; appends whose outcome isn't known are sent again until it is
    finish TARGETS      subscribers go on until they have what TARGETS (JSON) says: {"p": {partition: length}, "s":
                        {"p stream": versions}}; then this process writes its history's end and leaves
"""

import asyncio
import collections
import functools
import hashlib
import json
import os
import random
import sys

import hiredis

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from history import Recorder, crc, event_name, now  # noqa: E402
from support import ids  # noqa: E402

PARTITIONS, BUCKETS = 32, 4
ACTIVE = 8  # partitions that are written to
KEYS = [str(ids.key_for_partition(p, PARTITIONS, salt=p + 1)) for p in range(ACTIVE)]
HOT = [(p, f"hot{p}") for p in range(0, ACTIVE, 2)]
OWN_STREAMS = 3
CONNECT_TIMEOUT_S = 1.0
NOTHING = object()  # hiredis: more bytes are needed
SUB_LINE_EVENTS = 400
WINDOW = 400
RESOLVE_S = 30.0


class Lost(Exception):
    """The connection ended, or gave no answer in time."""


@functools.lru_cache(maxsize=4096)
def payload_of(name):
    """What an event of this name holds: nothing, some hundred bytes, or now and then some thousand random ones."""
    digest = hashlib.blake2b(name.encode(), digest_size=32).digest()
    if digest[2] < 12:
        return hashlib.shake_128(digest).digest(digest[3] * 64)
    return digest * (digest[0] % 12) if digest[1] % 2 else name.encode() * (digest[0] % 24)


class Connection(asyncio.Protocol):
    """One connection. Answers come in the order of the commands; pushes go to on_push(push, time)."""

    def __init__(self, world, node):
        self.world, self.node = world, node
        self.number = world.next_connection()
        self.n = 0
        self.waiting = collections.deque()
        self.reader = hiredis.Reader(notEnoughData=NOTHING)
        self.transport = None
        self.is_lost = False
        self.on_push = None
        self.on_lost = None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.is_lost = True
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_exception(Lost())
        if self.on_lost:
            self.on_lost()

    def data_received(self, data):
        time = now()
        self.reader.feed(data)
        while True:
            reply = self.reader.gets()
            if reply is NOTHING:
                return
            if isinstance(reply, hiredis.PushNotification):
                if self.on_push:
                    self.on_push(reply, time)
            elif self.waiting:
                future = self.waiting.popleft()
                if not future.done():
                    future.set_result((reply, time))

    def send(self, *words):
        """Returns (how manieth command, time before it was sent, future of (reply, time))."""
        self.n += 1
        future = asyncio.get_running_loop().create_future()
        call = now()
        if self.is_lost:
            future.set_exception(Lost())
        else:
            self.waiting.append(future)
            self.transport.write(hiredis.pack_command(words))
        return self.n, call, future

    async def wait(self, future):
        """The reply and its time; Lost where none comes in time: then the connection is given up."""
        try:
            return await asyncio.wait_for(future, self.world.timeout_s)
        except asyncio.TimeoutError:
            self.world.timeouts += 1
            self.close()
            raise Lost() from None

    def close(self):
        if not self.is_lost:
            self.is_lost = True
            self.transport.abort()


class World:
    """What the clients of this process share."""

    def __init__(self, config):
        self.config = config
        self.name, self.nodes = config["name"], [tuple(node) for node in config["nodes"]]
        self.timeout_s = config.get("timeout_s", 4.0)
        self.rng = random.Random(config["seed"])
        self.recorder = Recorder(config["out"])
        self.connections = self.groups = self.timeouts = self.connects = self.refused_connects = 0
        self.stopping = asyncio.Event()
        self.targets = None           # of the subscribers, once told
        self.versions = {}            # hot (partition, stream) -> last version that anybody heard of
        self.recent = collections.deque(maxlen=400)  # (partition, sequence, id) acknowledged
        self.lengths = [0] * ACTIVE   # states that somebody has seen
        self.acked = [0] * ACTIVE
        self.errors = collections.Counter()
        self.unresolved = 0
        self.delivered = 0

    def next_connection(self):
        self.connections += 1
        return f"{self.name}{self.connections}"

    async def connect(self, prefer=None, rng=None):
        """A connection to the preferred node, or to any other one that takes it."""
        rng = rng or self.rng
        order = list(range(len(self.nodes)))
        rng.shuffle(order)
        if prefer is not None:
            order.remove(prefer)
            order.insert(0, prefer)
        while True:
            for node in order:
                connection = Connection(self, node)
                host, port = self.nodes[node]
                try:
                    await asyncio.wait_for(asyncio.get_running_loop().create_connection(
                        lambda c=connection: c, host, port), CONNECT_TIMEOUT_S)
                    reply, _ = await asyncio.wait_for(connection.send("HELLO", "3")[2], CONNECT_TIMEOUT_S)
                    if not isinstance(reply, hiredis.HiredisError):
                        connection.n = 0
                        self.connects += 1
                        return connection
                    self.errors["connect " + str(reply).split(" ", 1)[0]] += 1
                except (OSError, asyncio.TimeoutError, Lost):
                    pass
                self.refused_connects += 1
                if connection.transport:
                    connection.close()
            await asyncio.sleep(0.02)  # all nodes refuse: paces the tries

    def problem(self, kind, text):
        self.recorder.add({"op": "problem", "kind": kind, "text": text})

    def stats(self):
        return {"acked": self.acked, "errors": dict(self.errors), "timeouts": self.timeouts,
                "connects": self.connects, "refused_connects": self.refused_connects, "unresolved": self.unresolved,
                "delivered": self.delivered, "groups": self.groups}


class Append:
    """One append, however often it is sent."""

    def __init__(self, world, p, streams, expected, given, prefix):
        world.groups += 1
        self.name, self.p, self.key = f"{prefix}-{world.groups}", p, KEYS[p]
        self.streams, self.expected = streams, expected
        self.names = [event_name(self.name, i) for i in range(len(streams))]
        serial = int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=8).digest(), "big")
        self.ids = [str(ids.event_id(self.key, serial, i)) if given else None for i in range(len(streams))]
        self.payloads = [payload_of(name) for name in self.names]
        self.events = [[stream, want, event_id, crc(stream.encode(), name.encode(), payload)] for
                       stream, want, event_id, name, payload in
                       zip(streams, expected, self.ids, self.names, self.payloads)]
        self.tries = 0

    def can_be_repeated(self):
        return self.ids[0] is not None

    def words(self):
        out = ["EAPPEND"] if len(self.streams) == 1 else ["EMAPPEND", self.key]
        for stream, want, event_id, name, payload in zip(self.streams, self.expected, self.ids, self.names,
                                                         self.payloads):
            out += [stream, name, "EXPECTED_VERSION", str(want)]
            if event_id:
                out += ["EVENT_ID", event_id]
            if payload:
                out += ["PAYLOAD", payload]
        if len(self.streams) == 1:
            out += ["PARTITION_KEY", self.key]
        return out

    def line(self, connection, n, call):
        self.tries += 1
        return {"op": "append", "group": self.name, "conn": connection.number, "n": n, "node": connection.node,
                "call": call, "ret": None, "p": self.p, "key": self.key, "events": self.events, "result": "unknown"}


def told_of(text):
    """[stream, current, expected] of a WRONGVER's text; None where it says something else."""
    words = text.split(" ")
    try:
        current, expected = words[words.index("is") + 1], words[words.index("expected") + 1]
        stream = text.rsplit(" stream id ", 1)[1]
    except (ValueError, IndexError):
        return None
    number = [int(word) if word.isdigit() else word for word in (current, expected)]
    return [stream, *number]


class Writer:
    """Appends with exact expected versions, alone or in pipelines; sometimes looks at once for what it wrote."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.rng = random.Random(world.config["seed"] * 1000 + number)
        self.versions = {}  # own (partition, stream) -> last version, -1 for none
        self.doubtful = set()  # own streams whose last version isn't known
        self.connection = None
        self.commands_left = 0

    async def run(self):
        open_appends = []  # sent, and nobody knows what became of them
        while not self.world.stopping.is_set():
            try:
                await self.ready()
                if open_appends:
                    again = [append for append in open_appends if append.can_be_repeated()]
                    open_appends = await self.exchange(again) if again else []
                    continue
                batch, planned = [], {}
                for _ in range(self.rng.choice([1, 1, 1, 1, 1, 1, 3, 6])):
                    append = self.plan(planned)
                    if append is not None:
                        batch.append(append)
                open_appends = await self.exchange(batch)
                if self.connection and self.rng.random() < 0.2:
                    await Reader.look(self.world, self.connection, self.rng)
            except Lost:
                self.connection = None
            await self.pause()
        await self.resolve(open_appends)
        if self.connection:
            self.connection.close()

    async def resolve(self, open_appends):
        deadline = now() + RESOLVE_S * 1e9
        while any(append.can_be_repeated() for append in open_appends) and now() < deadline:
            try:
                await self.ready()
                open_appends = await self.exchange([a for a in open_appends if a.can_be_repeated()])
            except Lost:
                self.connection = None
            await asyncio.sleep(0.02)  # paces the tries
        self.world.unresolved += sum(append.can_be_repeated() for append in open_appends)

    async def pause(self):
        """The load's pace."""
        await asyncio.sleep(self.rng.random() * 2 * self.world.config["pause_ms"] / 1000)

    async def ready(self):
        """A connection; every now and then to another node. A write that is sent again goes elsewhere."""
        if self.connection is not None and not self.connection.is_lost and self.commands_left > 0:
            self.commands_left -= 1
            return
        if self.connection is not None:
            self.connection.close()
        self.connection = await self.world.connect(rng=self.rng)
        self.commands_left = self.rng.randrange(20, 300)

    def plan(self, planned):
        """An append to streams of one partition; planned: versions as they'll be when all before it succeed."""
        hot = self.rng.random() < self.world.config["hot"]
        if hot:
            p, stream = self.rng.choice(HOT)
            streams = [stream]
        else:
            p = self.rng.randrange(ACTIVE)
            count = self.rng.choice([1, 1, 1, 1, 2, 3, 6])
            streams = [f"own{self.number}-{self.rng.randrange(OWN_STREAMS)}" for _ in range(count)]
            if count > 1 and self.rng.random() < 0.2 and (p, f"hot{p}") in HOT:
                streams[-1] = f"hot{p}"
        expected = []
        for stream in streams:
            slot = (p, stream)
            version = planned.get(slot, self.known(slot))
            expected.append("empty" if version < 0 else version)
            planned[slot] = version + 1
        return Append(self.world, p, streams, expected, self.rng.random() < 0.8, f"{self.world.name}{self.number}")

    def known(self, slot):
        return (self.world.versions if slot in HOT else self.versions).get(slot, -1)

    def learn(self, slot, version):
        if slot in HOT:
            self.world.versions[slot] = max(version, self.world.versions.get(slot, -1))
        else:
            self.versions[slot] = version

    async def exchange(self, batch):
        """Sends all, takes all answers; returns those of which nobody knows what became."""
        connection, sent = self.connection, []
        for append in batch:
            n, call, future = connection.send(*append.words())
            sent.append((append, append.line(connection, n, call), future))
        left, lost = [], False
        for append, line, future in sent:
            try:
                reply, line["ret"] = await connection.wait(future)
                if self.answered(append, line, reply):
                    left.append(append)
            except Lost:
                lost = True
                left.append(append)
            self.world.recorder.add(line)
        if lost:
            raise_later = self.connection
            self.connection = None
            raise_later.close()
        return left

    def answered(self, append, line, reply):
        """Takes an answer in; True where the append should be sent again."""
        world = self.world
        if isinstance(reply, hiredis.HiredisError):
            return self.refused(append, line, str(reply))
        single = len(append.streams) == 1
        stored = [reply] if single else reply[b"events"]
        line["result"] = "ok"
        line["first"] = reply[b"partition_sequence" if single else b"first_partition_sequence"]
        line["versions"] = [event[b"stream_version"] for event in stored]
        line["ids"] = [event[b"event_id"].decode() for event in stored]
        for i, stream in enumerate(append.streams):
            self.learn((append.p, stream), line["versions"][i])
            world.recent.append((append.p, line["first"] + i, line["ids"][i]))
        world.lengths[append.p] = max(world.lengths[append.p], line["first"] + len(stored))
        world.acked[append.p] += 1
        return False

    def refused(self, append, line, text):
        code = text.split(" ", 1)[0]
        if code == "WRONGVER":
            line["result"], line["told"] = "conflict", told_of(text)
            if line["told"]:
                stream, current, _ = line["told"]
                self.learn((append.p, stream), -1 if current == "empty" else current)
            return False
        unknown = code == "TIMEOUT" or (code == "WRITEERR" and "input/output" in text)
        line["result"], line["code"] = "unknown" if unknown else "fail", code
        self.world.errors[code] += 1
        return self.rng.random() < 0.7


class Prober(Writer):
    """One append after the other to one bucket by way of one node: what an outage is measured with."""

    def __init__(self, world, number):
        super().__init__(world, 300 + number)
        self.bucket, self.node = number % BUCKETS, number // BUCKETS % len(world.nodes)

    async def run(self):
        open_appends = []
        while not self.world.stopping.is_set():
            try:
                await self.ready()
                open_appends = await self.exchange(open_appends or [self.plan({})])
            except Lost:
                self.connection = None
            await asyncio.sleep(self.world.config["probe_ms"] / 1000)  # the load's pace
        await self.resolve(open_appends)
        if self.connection:
            self.connection.close()

    async def ready(self):
        if self.connection is None or self.connection.is_lost:
            self.connection = await self.world.connect(prefer=self.node, rng=self.rng)

    def plan(self, planned):
        p, stream = self.bucket, f"probe{self.number}"
        version = self.known((p, stream))
        return Append(self.world, p, [stream], ["empty" if version < 0 else version], True, f"probe{self.number}")


class Reader:
    """Reads of all kinds; its connection lasts for some."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.rng = random.Random(world.config["seed"] * 1000 + 500 + number)

    async def run(self):
        connection, left = None, 0
        while not self.world.stopping.is_set():
            try:
                if connection is None or connection.is_lost or left == 0:
                    if connection:
                        connection.close()
                    connection = await self.world.connect(prefer=self.number % len(self.world.nodes), rng=self.rng)
                    left = self.rng.randrange(20, 200)
                left -= 1
                await self.look(self.world, connection, self.rng)
            except Lost:
                connection = None
            await asyncio.sleep(self.rng.random() * 2 * self.world.config["pause_ms"] / 1000)  # the load's pace
        if connection:
            connection.close()

    @staticmethod
    async def look(world, connection, rng):
        """One read of a random kind, recorded."""
        p = rng.randrange(ACTIVE)
        kind = rng.choice(["epseq", "epscan", "escan", "esver", "eget"])
        line = {"op": "read", "conn": connection.number, "node": connection.node, "p": p, "kind": kind,
                "mode": "default"}
        if kind == "epseq":
            words = ["EPSEQ", str(p)]
        elif kind == "epscan":
            line.update({"from": max(0, world.lengths[p] - rng.randrange(30)), "count": rng.choice([5, 50])})
            line["to"] = rng.choice([None, None, line["from"] + rng.randrange(20)])
            words = ["EPSCAN", str(p), str(line["from"]), "+" if line["to"] is None else str(line["to"]), "COUNT",
                     str(line["count"])]
        elif kind == "eget":
            if not world.recent:
                return
            line["p"], _, line["id"] = rng.choice(world.recent)
            words = ["EGET", line["id"]]
        else:
            line["p"], line["stream"] = rng.choice(HOT)
            line["key"] = KEYS[line["p"]]
            words = ["ESVER", line["stream"], "PARTITION_KEY", line["key"]]
            if kind == "escan":
                last = world.versions.get((line["p"], line["stream"]), -1)
                line.update({"from": max(0, last - rng.randrange(20)), "to": None, "count": rng.choice([5, 50])})
                words = ["ESCAN", line["stream"], str(line["from"]), "+", *words[2:], "COUNT", str(line["count"])]
        line["n"], line["call"], future = connection.send(*words)
        try:
            reply, line["ret"] = await connection.wait(future)
            Reader.take(world, line, reply)
        except Lost:
            line.update(ret=None, result="fail", code=None)
            raise
        finally:
            world.recorder.add(line)

    @staticmethod
    def take(world, line, reply):
        if isinstance(reply, hiredis.HiredisError):
            line.update(result="fail", code=str(reply).split(" ", 1)[0])
            world.errors["read " + line["code"]] += 1
            return
        line["result"] = "ok"
        if line["kind"] in ("epseq", "esver"):
            line["value"] = reply
        elif line["kind"] == "eget":
            line["sequence"] = None if reply is None else reply[b"partition_sequence"]
        else:
            place = b"partition_sequence" if line["kind"] == "epscan" else b"stream_version"
            line["more"] = reply[b"has_more"]
            line["events"] = [[event[place], event[b"event_id"].decode()] for event in reply[b"events"]]
            for event in reply[b"events"]:
                check_content(world, event, line["kind"])


def check_content(world, event, where):
    """An event's bytes follow from its name, but for those that a scenario appends itself."""
    name = event[b"event_name"].decode("utf-8", "replace")
    if name.startswith("own-"):
        return
    if event[b"payload"] != payload_of(name) or event[b"metadata"] != b"":
        world.problem("content", f"{where}: event {event[b'event_id']!r} named {name} has other content")


class Subscriber:
    """Follows all partitions, or one shared stream, or (mixed) one partition; goes on elsewhere when its connection is
    lost."""

    def __init__(self, world, number):
        self.world, self.number = world, number
        self.name = f"{world.name}sub{number}"
        self.rng = random.Random(world.config["seed"] * 1000 + 700 + number)
        self.stream = HOT[number // 3 % len(HOT)] if number % 3 == 2 else None
        self.partitions = list(range(ACTIVE))
        if world.config.get("mixed") and number % 10 != 0:
            self.partitions = [number % ACTIVE]
        if self.stream is not None:
            self.partitions = [self.stream[0]]
        self.next = [0] * len(self.partitions)
        self.got = [[] for _ in self.next]
        self.subscription, self.cursor = None, -1
        self.lost = asyncio.Event()
        self.moved = asyncio.Event()
        self.connection = None
        self.starts = list(self.next)

    async def run(self):
        prefer = self.number % len(self.world.nodes)
        while not self.complete():
            self.connection = await self.world.connect(prefer=prefer, rng=self.rng)
            prefer = self.rng.randrange(len(self.world.nodes))
            self.lost.clear()
            self.connection.on_push, self.connection.on_lost = self.on_push, self.lost.set
            try:
                await self.subscribe()
                await self.follow()
            except Lost:
                pass
            self.connection.close()
            self.write()

    async def subscribe(self):
        self.subscription, self.cursor = None, -1
        self.starts = list(self.next)
        if self.stream is None:
            words = ["EPSUB", ",".join(map(str, self.partitions)), "FROM", "MAP"]
            words += [f"{p}={start}" for p, start in zip(self.partitions, self.next)]
        else:
            words = ["ESUB", self.stream[1], "PARTITION_KEY", KEYS[self.stream[0]], "FROM", str(self.next[0])]
        reply, _ = await self.connection.wait(self.connection.send(*words, "WINDOW", str(WINDOW))[2])
        if isinstance(reply, hiredis.HiredisError):
            self.world.errors["subscribe " + str(reply).split(" ", 1)[0]] += 1
            await asyncio.sleep(0.05)  # paces the tries
            raise Lost()

    async def follow(self):
        """Until the connection is lost, all is there, or it's time to go elsewhere."""
        until = asyncio.get_running_loop().time() + self.rng.uniform(5, 30)
        while not self.lost.is_set() and not self.complete():
            self.moved.clear()
            try:
                await asyncio.wait_for(self.moved.wait(), 0.25)
            except asyncio.TimeoutError:
                pass
            if asyncio.get_running_loop().time() > until and self.world.targets is None:
                return

    def on_push(self, push, time):
        if push[0] == b"subscribe":
            self.subscription = push[1].decode()
            return
        if push[0] != b"message":
            self.world.problem("subscription", f"{self.name}: a push {push[:2]!r}")
            return
        _, _, cursor, event = push
        if cursor != self.cursor + 1:
            self.world.problem("subscription", f"{self.name}: cursor {cursor} behind {self.cursor}")
        self.cursor = cursor
        check_content(self.world, event, self.name)
        if self.stream is None:
            at, position = self.partitions.index(event[b"partition_id"]), event[b"partition_sequence"]
        else:
            at, position = 0, event[b"stream_version"]
        self.got[at].append([position, event[b"event_id"].decode(), time])
        self.next[at] = position + 1
        self.world.delivered += 1
        if len(self.got[at]) >= SUB_LINE_EVENTS:
            self.write()
        if (cursor + 1) % (WINDOW // 4) == 0 and not self.connection.is_lost:
            self.connection.send("EACK", self.subscription or push[1].decode(), str(cursor))
        if self.world.targets is not None:
            self.moved.set()

    def complete(self):
        targets = self.world.targets
        if targets is None:
            return False
        if self.stream is not None:
            return self.next[0] >= targets["s"][f"{self.stream[0]} {self.stream[1]}"]
        return all(position >= targets["p"][str(p)] for p, position in zip(self.partitions, self.next))

    def write(self):
        """What has come since the last time, as lines of the history."""
        for at, got in enumerate(self.got):
            p, stream = self.partitions[at], self.stream and self.stream[1]
            self.world.recorder.add({
                "op": "sub", "name": self.name, "conn": self.connection.number, "node": self.connection.node, "p": p,
                "key": KEYS[p] if stream else None, "stream": stream, "from": self.starts[at], "got": got})
            self.got[at] = []
            self.starts[at] = self.next[at]


async def commands(world, writers, subscribers):
    """Obeys standard input."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while True:
        line = (await reader.readline()).decode()
        word, _, rest = line.strip().partition(" ")
        if not line or word == "finish":
            world.stopping.set()
            await asyncio.gather(*writers)
            world.targets = json.loads(rest) if rest else {"p": dict.fromkeys(map(str, range(ACTIVE)), 0),
                                                           "s": {f"{p} {stream}": 0 for p, stream in HOT}}
            await asyncio.wait(subscribers, timeout=world.config.get("finish_s", 30.0)) if subscribers else None
            late = [task for task in subscribers if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            print(json.dumps(dict(world.stats(), late=len(late))), flush=True)
            return
        if word == "stop":
            world.stopping.set()
            await asyncio.gather(*writers)
        world.recorder.flush()
        print(json.dumps(world.stats()), flush=True)


async def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        world = World(json.load(file))
    config = world.config
    writers = [Writer(world, i) for i in range(config.get("writers", 0))]
    writers += [Prober(world, i) for i in range(config.get("probers", 0))]
    readers = [Reader(world, i) for i in range(config.get("readers", 0))]
    subscribers = [Subscriber(world, i) for i in range(config.get("subscribers", 0))]
    tasks = [[asyncio.ensure_future(guard(world, client.run())) for client in group]
             for group in (writers + readers, subscribers)]
    await commands(world, *tasks)
    for subscriber in subscribers:
        if any(subscriber.got):
            subscriber.write()
    world.recorder.close()


async def guard(world, run):
    """A client that fails is a problem of the history, not a silent end."""
    try:
        await run
    except Exception as error:
        import traceback

        traceback.print_exc()
        world.problem("client", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
