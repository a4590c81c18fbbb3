"""EGET, ESVER, EPSEQ, ESCAN and EPSCAN: ranges, COUNT, has_more, backwards, rollovers."""

import random
import uuid

import pytest

from support import ids, resp
from support.resp import Error


def refused(reply, code, text=None):
    assert isinstance(reply, Error), reply
    assert reply.code == code, reply
    if text is not None:
        assert reply.text == f"{code} {text}"


@pytest.fixture(scope="module")
def quiet(start):
    """A node of this module's own: what is in its partitions is known."""
    node = start()
    yield node
    node.stop()


@pytest.fixture(scope="module")
def five(quiet):
    """A stream of versions 0..4 that is alone in its partition: (connection, stream, partition)."""
    partition = 29
    stream = ids.stream_in_partition("five", partition)
    with quiet.client() as client:
        for i in range(5):
            client.ok("EAPPEND", stream, f"E{i}", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
        yield client, stream, partition


# start, end, COUNT, what comes, has_more within the range
ROWS = [
    ("-", "+", None, [0, 1, 2, 3, 4], False),
    (0, 5, None, [0, 1, 2, 3, 4], False),
    (0, 2**64 - 1, None, [0, 1, 2, 3, 4], False),
    (0, 4, None, [0, 1, 2, 3, 4], False),
    (0, 3, None, [0, 1, 2, 3], False),
    (1, 3, None, [1, 2, 3], False),
    (0, 0, None, [0], False),
    (1, 1, None, [1], False),
    (4, 4, None, [4], False),
    (3, 9, None, [3, 4], False),
    (5, "+", None, [], False),
    (100, "+", None, [], False),
    (2**64 - 1, "+", None, [], False),
    (3, 1, None, [], False),
    ("-", "+", 5, [0, 1, 2, 3, 4], False),
    ("-", "+", 4, [0, 1, 2, 3], True),
    ("-", "+", 6, [0, 1, 2, 3, 4], False),
    ("-", 3, 4, [0, 1, 2, 3], False),
    ("-", 3, 3, [0, 1, 2], True),
    ("-", "+", 0, [], True),
    (5, "+", 0, [], False),
    (3, 1, 0, [], False),
    (4, "+", 1, [4], False),
    # Backwards: + first.
    ("+", "-", None, [4, 3, 2, 1, 0], False),
    ("+", "-", 1, [4], True),
    ("+", "-", 4, [4, 3, 2, 1], True),
    ("+", "-", 5, [4, 3, 2, 1, 0], False),
    ("+", "-", 0, [], True),
    ("+", 3, None, [4, 3], False),
    ("+", 3, 1, [4], True),
    ("+", 0, 5, [4, 3, 2, 1, 0], False),
    ("+", 4, 1, [4], False),
    ("+", 5, None, [], False),
    ("+", 9, 1, [], False),
    ("+", 2**64 - 1, None, [], False),
]


@pytest.mark.parametrize("begin,end,count,wanted,more", ROWS)
def test_scan_rows(five, begin, end, count, wanted, more):
    client, stream, partition = five
    tail = () if count is None else ("COUNT", count)
    got_more, events = resp.scan(client.ok("ESCAN", stream, begin, end, *tail))
    assert [event["stream_version"] for event in events] == wanted and got_more == more, "ESCAN"
    got_more, events = resp.scan(client.ok("EPSCAN", partition, begin, end, *tail))
    assert [event["partition_sequence"] for event in events] == wanted and got_more == more, "EPSCAN"
    key = ids.default_key(stream)
    got_more, events = resp.scan(client.ok("EPSCAN", key, begin, end, *tail))
    assert [event["partition_sequence"] for event in events] == wanted and got_more == more, "EPSCAN by key"


def test_scan_unknown(client, name):
    assert resp.scan(client.ok("ESCAN", name, "-", "+")) == (False, [])
    assert resp.scan(client.ok("ESCAN", name, "+", "-", "COUNT", 0)) == (False, [])
    assert resp.scan(client.ok("ESCAN", name, 5, 9, "PARTITION_KEY", ids.key_for_partition(2))) == (False, [])


RANGE = "expected range value (-, +, or number)"


@pytest.mark.parametrize("command,text", [
    (("ESCAN",), "unexpected end of input: expected stream id"),
    (("ESCAN", "s"), f"unexpected end of input: {RANGE}"),
    (("ESCAN", "s", "-"), f"unexpected end of input: {RANGE}"),
    (("ESCAN", "s", "x", "+"), f"unexpected string: {RANGE}"),
    (("ESCAN", "s", "-", "x"), f"unexpected string: {RANGE}"),
    (("ESCAN", "s", "-", "-1"), f"unexpected string: {RANGE}"),
    (("ESCAN", "s", "-", "+", "NONSENSE"), "unexpected string: expected PARTITION_KEY, COUNT or end of input"),
    (("ESCAN", "s", "-", "+", "COUNT", 1, "COUNT", 1), "count already specified"),
    (("ESCAN", "s", "-", "+", "PARTITION_KEY", str(uuid.UUID(int=1)), "PARTITION_KEY", str(uuid.UUID(int=1))),
     "partition key already specified"),
    (("ESCAN", "", "-", "+"), "stream id must be between 1 and 64 characters in length, but got 0 for ''"),
    (("EPSCAN",), "unexpected end of input: expected partition id or key"),
    (("EPSCAN", "x", "-", "+"), "unexpected string: expected partition id or key"),
    (("EPSCAN", 0), f"unexpected end of input: {RANGE}"),
    (("EPSCAN", 0, "x", "+"), f"unexpected string: {RANGE}"),
    (("EPSCAN", 0, "-", "+", "COUNT"), "unexpected end of input: expected number"),
    (("EPSCAN", 0, "-", "+", "COUNT", "x"), "unexpected string: expected number"),
    (("EPSCAN", 0, "-", "+", "COUNT", 1, "COUNT", 1), "count already specified"),
    (("ESVER",), "unexpected end of input: expected stream id"),
    (("ESVER", "s", "x"), None), (("ESVER", "s", "PARTITION_KEY", "x"), "invalid partition key"),
    (("ESVER", "s", "PARTITION_KEY"), "unexpected end of input: expected partition key"),
    (("EPSEQ",), "unexpected end of input: expected partition id or key"),
    (("EPSEQ", "x"), "unexpected string: expected partition id or key"),
    (("EPSEQ", 0, 1), None), (("EPSEQ", -1), None), (("EPSEQ", 65536), None), (("EPSEQ", 32), None),
    (("EPSCAN", 32, "-", "+"), None), (("EPSCAN", 0, "-", "+", "NONSENSE"), None),
    (("ESCAN", "s", "-", "+", "COUNT", "x"), None), (("ESCAN", "s", "-", "+", "COUNT", -1), None),
    (("ESCAN", "s", "-", "+", "COUNT"), None), (("ESCAN", "s", "-", "+", "PARTITION_KEY", "x"), None),
    (("EGET",), "unexpected end of input: expected event id"), (("EGET", "x"), "invalid event id"),
    (("EGET", str(uuid.UUID(int=1)), "x"), "unexpected string: expected end of input"),
])
def test_read_errors(client, command, text):
    refused(client.cmd(*command), "INVALIDARG", text)
    assert client.ok("PING") == b"PONG"


@pytest.mark.parametrize("begin,end", [("+", "+"), ("-", "-"), (3, "-"), (0, "-")])
def test_ranges_that_make_no_sense(five, begin, end):
    """Neither forward nor `+` down to something."""
    client, stream, partition = five
    for command in (("ESCAN", stream), ("EPSCAN", partition)):
        refused(client.cmd(*command, begin, end), "INVALIDARG")


def test_default_count_is_100(free, name):
    free.pipeline([("EAPPEND", name, "E")] * 101)
    more, events = resp.scan(free.ok("ESCAN", name, "-", "+"))
    assert len(events) == 100 and more
    more, events = resp.scan(free.ok("ESCAN", name, 1, "+"))
    assert len(events) == 100 and not more
    more, events = resp.scan(free.ok("EPSCAN", ids.default_key(name), "-", "+"))
    assert len(events) == 100


def test_eget(client, name):
    made = client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "PAYLOAD", "p")
    event = resp.event(client.ok("EGET", made["event_id"]))
    assert event["partition_sequence"] == made["partition_sequence"] and event["payload"] == b"p"
    assert client.cmd("EGET", str(uuid.uuid4())) is None
    assert client.cmd("EGET", str(uuid.UUID(int=0))) is None
    assert client.cmd("EGET", str(uuid.UUID(int=2**128 - 1))) is None


def test_epseq(five):
    client, stream, partition = five
    assert client.ok("EPSEQ", partition) == 4
    assert client.ok("EPSEQ", ids.default_key(stream)) == 4
    assert client.ok("EPSEQ", f"+{partition}") == 4 and client.ok("EPSEQ", f"0{partition}") == 4


def test_esver_under_a_key(client, name):
    key = ids.key_for_partition(19, salt=7)
    client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "PARTITION_KEY", key)
    assert client.ok("ESVER", name, "PARTITION_KEY", key) == 0
    assert client.cmd("ESVER", name) is None or ids.partition_of(ids.default_key(name)) == 19
    # Same partition, other key: not this stream.
    assert client.cmd("ESVER", name, "PARTITION_KEY", ids.key_for_partition(19, salt=8)) is None
    other = ids.key_for_partition(19, salt=8)
    assert resp.scan(client.ok("ESCAN", name, "-", "+", "PARTITION_KEY", other)) == (False, [])
    assert len(resp.scan(client.ok("ESCAN", name, "-", "+", "PARTITION_KEY", key))[1]) == 1


def pages(client, command, size):
    """All events by pages, from the last position + 1 while has_more."""
    field = "stream_version" if command[0] == "ESCAN" else "partition_sequence"
    at, out = 0, []
    while True:
        more, events = resp.scan(client.ok(command[0], command[1], at, "+", *command[2:], "COUNT", size))
        out += events
        if not more:
            return out
        assert events, "has_more and yet nothing came"
        at = events[-1][field] + 1


def pages_back(client, command, size):
    """The same from the newest down; the range's lower bound stays, so pages are taken by cutting the top."""
    more, events = resp.scan(client.ok(command[0], command[1], "+", "-", *command[2:], "COUNT", size))
    return more, events


@pytest.fixture(scope="module")
def rolled(start):
    """Multi-stream transactions over many 128 KiB segments: (node, key, log of (stream, version, id, payload))."""
    node = start({"append.strict_versioning": False, "segment.size_bytes": 131072, "segment.compression": True})
    rng = random.Random(7)
    key = ids.key_for_partition(11, salt=4)
    log = []
    versions = {}
    with node.client(timeout=30.0) as client:
        commands = []
        for i in range(600):
            streams = ["L", f"m{i % 7}"] if i % 3 else ["L", "L", f"m{i % 7}", f"n{i}"]
            args = ["EMAPPEND", key]
            for j, stream in enumerate(streams):
                event_id = ids.event_id(key, (i << 8) | j | (1 << 60), i)
                payload = rng.randbytes(rng.randrange(600)) if i % 2 else b"squeeze me " * rng.randrange(120)
                args += [stream, f"E{i}", "EVENT_ID", event_id, "PAYLOAD", payload, "METADATA", b"m" * (i % 40)]
                versions[stream] = versions.get(stream, -1) + 1
                log.append((stream, versions[stream], str(event_id), payload))
            commands.append(tuple(args))
        for at in range(0, len(commands), 50):
            for reply in client.pipeline(commands[at:at + 50]):
                assert not isinstance(reply, Error), reply
    yield node, key, log
    node.kill()


def check_rolled(node, key, log):
    with node.client(timeout=30.0) as client:
        events = pages(client, ("EPSCAN", key), 57)
        assert [(e["stream_id"].decode(), e["stream_version"], e["event_id"], e["payload"]) for e in events] == log
        assert [e["partition_sequence"] for e in events] == list(range(len(log)))
        by_stream = {}
        for stream, version, event_id, payload in log:
            by_stream.setdefault(stream, []).append((version, event_id, payload))
        for stream in ("L", "m0", "m3", "m6", "n0", "n300", "n597"):
            events = pages(client, ("ESCAN", stream, "PARTITION_KEY", key), 41)
            assert [(e["stream_version"], e["event_id"], e["payload"]) for e in events] == by_stream[stream], stream
            everything = client.ok("ESCAN", stream, "-", "+", "PARTITION_KEY", key, "COUNT", 100000)
            assert resp.scan(everything) == (False, events)
            back = resp.scan(client.ok("ESCAN", stream, "+", "-", "PARTITION_KEY", key, "COUNT", 100000))
            assert back == (False, events[::-1])
            assert client.ok("ESVER", stream, "PARTITION_KEY", key) == len(by_stream[stream]) - 1
            middle = len(events) // 2
            one = resp.scan(client.ok("ESCAN", stream, middle, middle, "PARTITION_KEY", key))
            assert one == (False, [events[middle]])
        back = resp.scan(client.ok("EPSCAN", key, "+", "-", "COUNT", 100000))[1]
        assert [e["partition_sequence"] for e in back] == list(range(len(log) - 1, -1, -1))
        rng = random.Random(3)
        for _ in range(100):
            begin = rng.randrange(len(log))
            end = rng.randrange(begin, len(log))
            count = rng.randrange(1, 200)
            more, events = resp.scan(client.ok("EPSCAN", key, begin, end, "COUNT", count))
            wanted = list(range(begin, min(end + 1, begin + count)))
            assert [e["partition_sequence"] for e in events] == wanted and more == (begin + count <= end)
            more, events = resp.scan(client.ok("EPSCAN", key, "+", begin, "COUNT", count))
            wanted = list(range(len(log) - 1, max(begin, len(log) - count) - 1, -1))
            assert [e["partition_sequence"] for e in events] == wanted and more == (len(log) - count > begin)
        for stream, version, event_id, payload in rng.sample(log, 200):
            event = resp.event(client.ok("EGET", event_id))
            assert event["stream_id"].decode() == stream
            assert (event["stream_version"], event["payload"]) == (version, payload)
        assert client.ok("EPSEQ", key) == len(log) - 1


def test_after_rollovers(rolled):
    check_rolled(*rolled)


def test_after_rollovers_and_restart(rolled):
    node, key, log = rolled
    node.stop()
    clean, output = node.verify()
    assert clean, output
    node.start()
    check_rolled(node, key, log)
    node.kill()
    node.start()
    check_rolled(node, key, log)


def test_indexes_are_rebuilt(rolled):
    """Every index file deleted, or damaged: the same answers."""
    import glob
    import os

    node, key, log = rolled
    node.stop()
    files = [path for ext in ("eidx", "pidx", "sidx") for path in glob.glob(f"{node.dir}/buckets/*/segments/*/*.{ext}")]
    assert len(files) >= 6
    for i, path in enumerate(files):
        if i % 2:
            os.unlink(path)
        else:
            size = os.path.getsize(path)
            with open(path, "r+b") as file:
                file.seek(size // 2)
                byte = file.read(1)
                file.seek(size // 2)
                file.write(bytes([byte[0] ^ 0x40]))
    node.start()
    check_rolled(node, key, log)


def test_small_payloads_are_compressed(start, name):
    """With compression, what can be squeezed takes less disk than without."""
    import os

    sizes = {}
    for compression in (True, False):
        node = start({"append.strict_versioning": False, "segment.size_bytes": 131072, "bucket.count": 1,
                      "partition.count": 1, "segment.compression": compression})
        with node.client(timeout=20.0) as client:
            for _ in range(10):
                for reply in client.pipeline([("EAPPEND", name, "E", "PAYLOAD", b"abcdefgh" * 200)] * 100):
                    assert not isinstance(reply, Error)
            assert len(pages(client, ("ESCAN", name), 1000)) == 1000
        node.stop()
        segments = os.path.join(node.dir, "buckets", "00000", "segments")
        sizes[compression] = len(os.listdir(segments))
    assert sizes[True] * 3 < sizes[False], sizes


def test_reply_is_cut_by_bytes(start, name):
    """8 MiB by default; has_more then says so, and paging finds everything."""
    node = start({"append.strict_versioning": False, "bucket.count": 1})
    with node.client(timeout=30.0) as client:
        rng = random.Random(5)
        block = rng.randbytes(100000)
        for _ in range(5):
            client.pipeline([("EAPPEND", name, "E", "PAYLOAD", block)] * 50)
        more, events = resp.scan(client.ok("ESCAN", name, "-", "+", "COUNT", 100000))
        assert more and 40 <= len(events) <= 90, len(events)
        assert len(pages(client, ("ESCAN", name), 100000)) == 250
        assert len(pages(client, ("EPSCAN", str(ids.default_key(name))), 100000)) == 250
        more, events = resp.scan(client.ok("ESCAN", name, "+", "-", "COUNT", 100000))
        assert more and events[0]["stream_version"] == 249
    node.stop()


def test_reads_while_writing(node, names):
    """A scan of a growing stream is always a gapless prefix, and never goes back."""
    import threading

    stream = names()
    done = threading.Event()

    def write():
        with node.client() as client:
            for i in range(1500):
                client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    last = -1
    with node.client() as client:
        while not done.is_set():
            version = client.cmd("ESVER", stream)
            version = -1 if version is None else version
            assert version >= last
            last = version
            if version >= 0:
                _, events = resp.scan(client.ok("ESCAN", stream, max(0, version - 50), "+", "COUNT", 1000))
                got = [event["stream_version"] for event in events]
                assert got == list(range(max(0, version - 50), max(0, version - 50) + len(got))) and got[-1] >= version
    thread.join()
