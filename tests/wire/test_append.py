"""EAPPEND and EMAPPEND: options, expectations, ids, idempotence, limits, errors."""

import re
import select
import time
import uuid

import pytest

from support import ids, resp
from support.resp import Error

EXPECTED_OPTIONS = ("unexpected string: expected EVENT_ID, PARTITION_KEY, EXPECTED_VERSION, TIMESTAMP, PAYLOAD, "
                    "METADATA or end of input")
U64_MAX = 2**64 - 1

VECTORS = (("user-123", "7e124fe8-fe28-5398-bb95-53973100148f", 21),
           ("s", "b5caaf75-d5ce-5289-a5cb-29de88f7c202", 12),
           ("my-stream", "fa3e31cd-2f38-5aee-bb91-8bc6fbf950a3", 6),
           ("a" * 64, "f4476fe2-b0ef-5d5a-b58d-0e728dfcd44d", 20))


def refused(reply, code, text=None, contains=None):
    assert isinstance(reply, Error), reply
    assert reply.code == code, reply
    if text is not None:
        assert reply.text == f"{code} {text}"
    if contains is not None:
        assert contains in reply.text, reply


@pytest.mark.parametrize("stream,key,partition", VECTORS)
def test_vectors(start_vectors, stream, key, partition):
    with start_vectors.client() as client:
        made = client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty")
        assert made["partition_key"] == key.encode() and made["partition_id"] == partition
        assert ids.partition_hash(made["event_id"].decode()) == ids.partition_hash(key)


@pytest.fixture(scope="module")
def start_vectors(start):
    node = start()
    yield node
    node.stop()


def test_vector_key_given(client, name):
    key = "550e8400-e29b-41d4-a716-446655440000"
    made = client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "PARTITION_KEY", key)
    assert made["partition_id"] == 25 and made["partition_key"] == key.encode()
    assert ids.partition_hash(made["event_id"].decode()) == 0x9C59


def test_generated_ids_are_uuid7(client, name):
    before = int(time.time() * 1000)
    made = client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
    value = uuid.UUID(made["event_id"].decode())
    assert value.version == 7 and value.variant == uuid.RFC_4122
    assert before - 1000 <= value.int >> 80 <= int(time.time() * 1000) + 1000
    assert before - 1000 <= made["timestamp"] <= int(time.time() * 1000) + 1000
    stored = resp.event(client.ok("EGET", value))
    assert uuid.UUID(stored["transaction_id"]).int != 0


def test_all_options(client, name):
    key = ids.key_for_partition(3, salt=11)
    event_id = ids.event_id(key, 0x0123456789ABCDEF, 42)
    made = client.ok("EAPPEND", name, "Name", "METADATA", b"m\x00\r\n", "PAYLOAD", b"p\xff", "TIMESTAMP", 77,
                     "EXPECTED_VERSION", "empty", "PARTITION_KEY", key, "EVENT_ID", event_id)
    assert made["event_id"] == str(event_id).encode() and made["timestamp"] == 77
    assert made["partition_id"] == 3 and made["stream_version"] == 0
    stored = resp.event(client.ok("EGET", event_id))
    assert stored["metadata"] == b"m\x00\r\n" and stored["payload"] == b"p\xff"
    assert stored["event_name"] == b"Name" and stored["stream_id"] == name.encode()
    assert stored["timestamp"] == 77 and stored["partition_key"] == str(key)


def test_uuid_spellings(client, names):
    for spell in (str, lambda u: u.hex, lambda u: str(u).upper(), lambda u: u.hex.upper()):
        stream = names()
        key = ids.key_for_partition(9, salt=3)
        event_id = ids.event_id(key, int(uuid.uuid4()) >> 64)
        made = client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty", "PARTITION_KEY", spell(key),
                         "EVENT_ID", spell(event_id))
        assert made["partition_key"] == str(key).encode() and made["event_id"] == str(event_id).encode()
        assert resp.event(client.ok("EGET", spell(event_id)))["event_id"] == str(event_id)


@pytest.mark.parametrize("args,text", [
    ((), "unexpected end of input: expected stream id"),
    (("s",), "unexpected end of input: expected event name"),
    (("", "E"), "stream id must be between 1 and 64 characters in length, but got 0 for ''"),
    (("a" * 65, "E"), f"stream id must be between 1 and 64 characters in length, but got 65 for '{'a' * 65}'"),
    (("ä" * 33, "E"), f"stream id must be between 1 and 64 characters in length, but got 66 for '{'ä' * 33}'"),
    (("a\0b", "E"), "stream id cannot contain null bytes"),
    ((b"\xff\xfe", "E"), "unexpected string: expected stream id"),
    (("s", b"\xff\xfe"), "unexpected string: expected event name"),
    (("s", "E", "PAYLOAD", "a", "PAYLOAD", "b"), "payload already specified"),
    (("s", "E", "PAYLOAD", "", "PAYLOAD", "b"), "payload already specified"),
    (("s", "E", "METADATA", "a", "METADATA", "b"), "metadata already specified"),
    (("s", "E", "TIMESTAMP", 1, "TIMESTAMP", 1), "timestamp already specified"),
    (("s", "E", "EXPECTED_VERSION", "any", "EXPECTED_VERSION", 1), "expected version already specified"),
    (("s", "E", "EVENT_ID", str(uuid.UUID(int=1)), "EVENT_ID", str(uuid.UUID(int=1))), "event id already specified"),
    (("s", "E", "PARTITION_KEY", str(uuid.UUID(int=1)), "PARTITION_KEY", str(uuid.UUID(int=1))),
     "partition key already specified"),
    (("s", "E", "NONSENSE"), EXPECTED_OPTIONS),
    (("s", "E", "COUNT", 1), EXPECTED_OPTIONS),
])
def test_eappend_parse_errors(client, args, text):
    refused(client.cmd("EAPPEND", *args), "INVALIDARG", text)
    assert client.ok("PING") == b"PONG"


@pytest.mark.parametrize("option,value", [
    ("TIMESTAMP", "abc"), ("TIMESTAMP", "-1"), ("TIMESTAMP", "1.5"), ("TIMESTAMP", ""), ("TIMESTAMP", U64_MAX + 1),
    ("EXPECTED_VERSION", "foo"), ("EXPECTED_VERSION", "-1"), ("EXPECTED_VERSION", ""),
    ("EXPECTED_VERSION", U64_MAX + 1),
    ("EVENT_ID", "x"), ("EVENT_ID", ""), ("PARTITION_KEY", "x"), ("PARTITION_KEY", "7e124fe8-fe28-5398-bb95"),
    ("PAYLOAD", None), ("METADATA", None), ("TIMESTAMP", None), ("EVENT_ID", None), ("EXPECTED_VERSION", None),
    ("PARTITION_KEY", None),
])
def test_eappend_bad_values(client, name, option, value):
    args = [option] if value is None else [option, value]
    for command in (("EAPPEND", name, "E", *args), ("EMAPPEND", ids.default_key(name), name, "E", *args),
                    ("EMAPPEND", ids.default_key(name), name, "E", "EXPECTED_VERSION", "empty", name, "E", *args)):
        refused(client.cmd(*command), "INVALIDARG")
    assert client.cmd("ESVER", name) is None


def test_expected_version_strict(client, name):
    strict = "strict versioning mode rejects EXPECTED_VERSION "
    refused(client.cmd("EAPPEND", name, "E"), "INVALIDARG", strict + "any")
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "any"), "INVALIDARG", strict + "any")
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "exists"), "INVALIDARG", strict + "exists")
    refused(client.cmd("EMAPPEND", ids.default_key(name), name, "E"), "INVALIDARG", strict + "any")
    refused(client.cmd("EMAPPEND", ids.default_key(name), name, "E", "EXPECTED_VERSION", "empty", name, "E"),
            "INVALIDARG", strict + "any")
    key = ids.default_key(name)
    wrong = f"for partition key {key} and stream id {name}"
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", 0), "WRONGVER",
            f"current stream version is empty but expected 0 {wrong}")
    assert client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")["stream_version"] == 0
    assert client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", 0)["stream_version"] == 1
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "empty"), "WRONGVER",
            f"current stream version is 1 but expected empty {wrong}")
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", 0), "WRONGVER",
            f"current stream version is 1 but expected 0 {wrong}")
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", U64_MAX), "WRONGVER",
            f"current stream version is 1 but expected {U64_MAX} {wrong}")
    assert client.ok("ESVER", name) == 1


def test_expected_version_lax(free, name):
    key = ids.default_key(name)
    refused(free.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "exists"), "WRONGVER",
            f"current stream version is empty but expected exists for partition key {key} and stream id {name}")
    assert free.ok("EAPPEND", name, "E")["stream_version"] == 0
    assert free.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "any")["stream_version"] == 1
    assert free.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "exists")["stream_version"] == 2
    assert free.ok("EAPPEND", name, "E", "EXPECTED_VERSION", 2)["stream_version"] == 3
    refused(free.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "empty"), "WRONGVER")


def test_emappend_running_versions(free, names):
    """Each expectation is checked against the state after the events before it."""
    one, two = names(), names()
    key = ids.key_for_partition(7, salt=77)
    made = free.ok("EMAPPEND", key, one, "A", "EXPECTED_VERSION", "empty", two, "B", one, "C", "EXPECTED_VERSION", 0,
                   two, "D", "EXPECTED_VERSION", "exists", one, "E", "EXPECTED_VERSION", "any")
    assert [event["stream_version"] for event in made["events"]] == [0, 0, 1, 1, 2]
    assert made["last_partition_sequence"] == made["first_partition_sequence"] + 4
    assert [event["stream_id"].decode() for event in made["events"]] == [one, two, one, two, one]
    before = free.ok("EPSEQ", key)
    for bad in ((one, "X", "EXPECTED_VERSION", 2, one, "Y", "EXPECTED_VERSION", 2),
                (one, "X", "EXPECTED_VERSION", 2, one, "Y", "EXPECTED_VERSION", "empty"),
                (one, "X", "EXPECTED_VERSION", 2, two, "Y", "EXPECTED_VERSION", 5),
                (one, "X", "EXPECTED_VERSION", "empty")):
        refused(free.cmd("EMAPPEND", key, *bad), "WRONGVER")
    third = names()
    reply = free.cmd("EMAPPEND", key, third, "X", "EXPECTED_VERSION", "empty", third, "Y", "EXPECTED_VERSION", "empty")
    refused(reply, "WRONGVER",
            f"current stream version is 0 but expected empty for partition key {key} and stream id {third}")
    assert free.ok("EPSEQ", key) == before, "all or nothing"
    assert free.cmd("ESVER", third, "PARTITION_KEY", key) is None


def test_emappend_shares_a_transaction(client, names):
    one, two = names(), names()
    key = ids.key_for_partition(5, salt=5)
    made = client.ok("EMAPPEND", key, one, "A", "EXPECTED_VERSION", "empty", "TIMESTAMP", 5, "METADATA", "m",
                     two, "B", "EXPECTED_VERSION", "empty", "PAYLOAD", "p")
    events = [resp.event(client.ok("EGET", entry["event_id"])) for entry in made["events"]]
    assert len({event["transaction_id"] for event in events}) == 1
    assert events[0]["metadata"] == b"m" and events[0]["timestamp"] == 5 and events[1]["payload"] == b"p"
    assert [event["partition_sequence"] for event in events] == [
        made["first_partition_sequence"], made["last_partition_sequence"]]


@pytest.mark.parametrize("args,text", [
    ((), "unexpected end of input: expected partition key"),
    (("x",), "invalid partition key"),
    ((str(uuid.UUID(int=5)),), "unexpected end of input: expected stream id"),
    ((str(uuid.UUID(int=5)), "s"), "unexpected end of input: expected event name"),
    ((str(uuid.UUID(int=5)), "s", "E", "EXPECTED_VERSION", "empty", "t"),
     "unexpected end of input: expected event name"),
    ((str(uuid.UUID(int=5)), "s", "E", "PAYLOAD", "a", "PAYLOAD", "b"), "payload already specified"),
    ((str(uuid.UUID(int=5)), "s", "E", "EXPECTED_VERSION", "empty", "", "E"),
     "stream id must be between 1 and 64 characters in length, but got 0 for ''"),
])
def test_emappend_parse_errors(client, args, text):
    refused(client.cmd("EMAPPEND", *args), "INVALIDARG", text)


def test_emappend_keywords_are_options_from_the_second_event(free, names):
    """A bad value of an option never becomes an event of a stream of that name."""
    stream = names()
    key = ids.key_for_partition(1, salt=9)
    refused(free.cmd("EMAPPEND", key, stream, "E", "EXPECTED_VERSION", "foo"), "INVALIDARG")
    refused(free.cmd("EMAPPEND", key, stream, "E", "TIMESTAMP", "x", stream, "E"), "INVALIDARG")
    refused(free.cmd("EMAPPEND", key, stream, "E", stream, "E", "EVENT_ID", "bad"), "INVALIDARG")
    refused(free.cmd("EMAPPEND", key, stream, "E", "PARTITION_KEY", str(key)), "INVALIDARG")
    assert free.cmd("ESVER", stream, "PARTITION_KEY", key) is None
    for word in ("EXPECTED_VERSION", "TIMESTAMP"):
        assert free.cmd("ESVER", word, "PARTITION_KEY", key) is None


def test_streams_named_like_keywords(free):
    for word in ("PAYLOAD", "payload", "EVENT_ID", "EXPECTED_VERSION", "TIMESTAMP", "METADATA", "PARTITION_KEY",
                 "FROM", "WINDOW", "COUNT", "MAP", "LATEST", "-", "+", "*", "0"):
        made = free.ok("EAPPEND", word, "EVENT_ID", "PAYLOAD", "PAYLOAD")
        stored = resp.event(free.ok("EGET", made["event_id"]))
        assert stored["stream_id"] == word.encode() and stored["event_name"] == b"EVENT_ID"
        assert stored["payload"] == b"PAYLOAD"
        assert resp.scan(free.ok("ESCAN", word, "-", "+"))[1][-1]["event_id"] == stored["event_id"]
        assert isinstance(free.ok("ESVER", word), int)
    key = ids.key_for_partition(2, salt=2)
    made = free.ok("EMAPPEND", key, "PAYLOAD", "PAYLOAD", "PAYLOAD", "PAYLOAD", "METADATA", "TIMESTAMP")
    assert len(made["events"]) == 1 and made["events"][0]["stream_id"] == b"PAYLOAD"


def test_event_id_must_carry_the_hash(client, name):
    key = ids.default_key(name)
    other = ids.event_id(ids.key_for_partition((ids.partition_of(key) + 1) % 32), 5)
    text = "the event id must embed the partition hash"
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "EVENT_ID", other), "INVALIDARG", text)
    refused(client.cmd("EMAPPEND", key, name, "E", "EXPECTED_VERSION", "empty", "EVENT_ID", other), "INVALIDARG", text)
    # Same partition, other hash: refused too, since the hash is compared, not the partition.
    near = uuid.UUID(int=ids.event_id(key, 6).int ^ (32 << 46))
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "EVENT_ID", near), "INVALIDARG", text)
    assert client.cmd("ESVER", name) is None


def test_idempotent_single(client, name):
    key = ids.default_key(name)
    event_id = ids.event_id(key, int(uuid.uuid4()) >> 64)
    command = ("EAPPEND", name, "E", "EVENT_ID", event_id, "EXPECTED_VERSION", "empty", "PAYLOAD", "p",
               "METADATA", "m", "TIMESTAMP", 5)
    first = client.ok(*command)
    client.ok("EAPPEND", name, "F", "EXPECTED_VERSION", 0)
    assert client.ok(*command) == first, "the same answer, whatever the version is now"
    exists = f"event {event_id} already stored"
    for change in (("EAPPEND", name, "E2", "EVENT_ID", event_id, "EXPECTED_VERSION", 1, "PAYLOAD", "p", "METADATA", "m",
                    "TIMESTAMP", 5),
                   ("EAPPEND", name, "E", "EVENT_ID", event_id, "EXPECTED_VERSION", 1, "PAYLOAD", "q", "METADATA", "m",
                    "TIMESTAMP", 5),
                   ("EAPPEND", name, "E", "EVENT_ID", event_id, "EXPECTED_VERSION", 1, "PAYLOAD", "p", "METADATA", "n",
                    "TIMESTAMP", 5),
                   ("EAPPEND", name + "x", "E", "EVENT_ID", event_id, "EXPECTED_VERSION", "empty", "PAYLOAD", "p",
                    "METADATA", "m", "TIMESTAMP", 5, "PARTITION_KEY", key)):
        refused(client.cmd(*change), "EXISTS", exists)
    assert client.ok("ESVER", name) == 1
    # Without a TIMESTAMP the retry's "now" differs; it is the same append all the same.
    again = ids.event_id(key, int(uuid.uuid4()) >> 64)
    command = ("EAPPEND", name, "E", "EVENT_ID", again, "EXPECTED_VERSION", 1)
    first = client.ok(*command)
    time.sleep(0.005)  # so that "now" differs
    assert client.ok(*command) == first


def test_idempotent_batch(client, names):
    one, two = names(), names()
    key = ids.key_for_partition(8, salt=21)
    id1, id2, id3 = (ids.event_id(key, int(uuid.uuid4()) >> 64) for _ in range(3))
    command = ("EMAPPEND", key, one, "A", "EVENT_ID", id1, "EXPECTED_VERSION", "empty", "PAYLOAD", "1",
               two, "B", "EVENT_ID", id2, "EXPECTED_VERSION", "empty")
    first = client.ok(*command)
    client.ok("EAPPEND", one, "C", "PARTITION_KEY", key, "EXPECTED_VERSION", 0)
    assert client.ok(*command) == first
    before = client.ok("EPSEQ", key)
    # Partly the same, another order, other content, one twice: refused, and nothing is stored.
    refused(client.cmd("EMAPPEND", key, one, "A", "EVENT_ID", id1, "EXPECTED_VERSION", 1, "PAYLOAD", "1",
                       two, "D", "EVENT_ID", id3, "EXPECTED_VERSION", 0), "EXISTS")
    refused(client.cmd("EMAPPEND", key, one, "A", "EVENT_ID", id1, "EXPECTED_VERSION", 1, "PAYLOAD", "2",
                       two, "B", "EVENT_ID", id2, "EXPECTED_VERSION", 0), "EXISTS")
    reply = client.cmd("EMAPPEND", key, one, "D", "EVENT_ID", id3, "EXPECTED_VERSION", 1,
                       one, "D", "EVENT_ID", id3, "EXPECTED_VERSION", 2)
    assert isinstance(reply, Error) and reply.code in ("EXISTS", "INVALIDARG"), reply
    assert client.ok("EPSEQ", key) == before
    assert client.cmd("EGET", id3) is None


def test_duplicates_pipelined(client, name):
    """The retry of an append that is still in flight gets the first one's answer."""
    key = ids.default_key(name)
    event_id = ids.event_id(key, int(uuid.uuid4()) >> 64)
    command = ("EAPPEND", name, "E", "EVENT_ID", event_id, "EXPECTED_VERSION", "empty", "PAYLOAD", "p")
    replies = client.pipeline([command] * 20)
    assert all(reply == replies[0] and not isinstance(reply, Error) for reply in replies)
    assert client.ok("ESVER", name) == 0


def test_idempotence_after_restart(start, name):
    node = start({"segment.size_bytes": 131072, "bucket.count": 1})
    key = ids.default_key(name)
    event_id = ids.event_id(key, 123)
    command = ("EAPPEND", name, "E", "EVENT_ID", event_id, "EXPECTED_VERSION", "empty", "PAYLOAD", "p")
    with node.client() as client:
        first = client.ok(*command)
        for i in range(400):
            client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", i, "PAYLOAD", uuid.uuid4().bytes * 60)
        assert client.ok(*command) == first, "sealed segments are looked at"
    node.stop()
    node.start()
    with node.client() as client:
        assert client.ok(*command) == first
        assert client.ok("ESVER", name) == 400
    node.stop()


def test_timestamp_limits(client, names):
    assert client.ok("EAPPEND", names(), "E", "EXPECTED_VERSION", "empty", "TIMESTAMP", 0)["timestamp"] == 0
    largest = 9223372036854
    stream = names()
    made = client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty", "TIMESTAMP", largest)
    assert made["timestamp"] == largest
    assert resp.event(client.ok("EGET", made["event_id"]))["timestamp"] == largest
    for value in (18446744073710, U64_MAX, 18446744073709551):
        refused(client.cmd("EAPPEND", names(), "E", "EXPECTED_VERSION", "empty", "TIMESTAMP", value), "INVALIDARG")
        refused(client.cmd("EMAPPEND", ids.default_key(stream), stream, "E", "EXPECTED_VERSION", 0,
                           "TIMESTAMP", value), "INVALIDARG")


def test_number_spellings(client, name):
    assert client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "TIMESTAMP", "007")["timestamp"] == 7
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", " 0"), "INVALIDARG")


def test_event_name_limits(client, names):
    stream = names()
    key = ids.default_key(stream)
    assert client.ok("EAPPEND", stream, "", "EXPECTED_VERSION", "empty")["stream_version"] == 0
    assert client.ok("EAPPEND", stream, "n" * 255, "EXPECTED_VERSION", 0)["stream_version"] == 1
    refused(client.cmd("EAPPEND", stream, "n" * 256, "EXPECTED_VERSION", 1), "INVALIDARG")
    refused(client.cmd("EMAPPEND", key, stream, "A", "EXPECTED_VERSION", 1, stream, "n" * 256, "EXPECTED_VERSION", 2),
            "INVALIDARG")
    assert client.ok("EAPPEND", stream, "after", "EXPECTED_VERSION", 1)["stream_version"] == 2
    _, events = resp.scan(client.ok("ESCAN", stream, "-", "+"))
    assert [event["event_name"] for event in events] == [b"", b"n" * 255, b"after"]


def test_unicode(client, names):
    stream = names() + " äöü 😀"
    client.ok("EAPPEND", stream, "geändert 😀", "EXPECTED_VERSION", "empty")
    event = resp.scan(client.ok("ESCAN", stream, "-", "+"))[1][0]
    assert event["stream_id"].decode() == stream and event["event_name"].decode() == "geändert 😀"


def test_binary_and_large_payloads(client, name):
    import random

    rng = random.Random(1)
    expected = "empty"
    contents = [bytes(range(256)) * 4, b"", b"\r\n" * 50, rng.randbytes(1 << 20), b"z" * (4 << 20),
                rng.randbytes(65536), rng.randbytes(65535)]
    for i, content in enumerate(contents):
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", expected, "PAYLOAD", content, "METADATA", content[:1000])
        expected = i
    _, events = resp.scan(client.ok("ESCAN", name, "-", "+", timeout=20.0))
    assert [event["payload"] for event in events] == contents
    assert [event["metadata"] for event in events] == [content[:1000] for content in contents]


def test_maxsize(client, name):
    """Over the largest event: a clear error; the bucket and the connection live on."""
    limit = int(resp.as_dict(client.ok("CONFIG", "GET", "append.max_event_bytes"))["append.max_event_bytes"])
    assert client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "PAYLOAD", b"x" * limit,
                     timeout=30.0)["stream_version"] == 0
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", 0, "PAYLOAD", b"x" * (limit + 1), timeout=30.0),
            "MAXSIZE")
    refused(client.cmd("EAPPEND", name, "E", "EXPECTED_VERSION", 0, "PAYLOAD", b"x" * limit, "METADATA", b"y",
                       timeout=30.0), "MAXSIZE")
    assert client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", 0)["stream_version"] == 1


def test_bulk_over_the_limit_closes(node):
    with node.client() as client:
        limit = int(resp.as_dict(client.ok("CONFIG", "GET", "append.max_event_bytes"))["append.max_event_bytes"])
        client.send_raw(b"*3\r\n$7\r\nEAPPEND\r\n$%d\r\n" % (limit + (64 << 10) + 1))
        assert isinstance(client.reply(), Error)
        assert client.closed()


def test_transaction_over_a_segment(lax, name):
    key = ids.default_key(name)
    with lax.client() as client:
        args = []
        for _ in range(300):
            args += [name, "E", "PAYLOAD", uuid.uuid4().bytes * 40]
        refused(client.cmd("EMAPPEND", key, *args), "MAXSIZE")
        refused(client.cmd("EAPPEND", name, "E", "PAYLOAD", uuid.uuid4().bytes * 8192), "MAXSIZE")
        assert client.cmd("ESVER", name) is None
        assert client.ok("EAPPEND", name, "E")["stream_version"] == 0


def test_stream_under_another_key(client, name):
    """Refused in the same partition; another stream in another one."""
    key = ids.key_for_partition(4, salt=1)
    same = ids.key_for_partition(4, salt=2)
    other = ids.key_for_partition(5, salt=2)
    client.ok("EAPPEND", name, "E", "PARTITION_KEY", key, "EXPECTED_VERSION", "empty")
    reply = client.cmd("EAPPEND", name, "E", "PARTITION_KEY", same, "EXPECTED_VERSION", "empty")
    assert isinstance(reply, Error)
    assert f"partition key must be the same for all events in a stream: expected {key}, got {same}" in reply.text
    assert isinstance(client.cmd("EMAPPEND", same, name, "E", "EXPECTED_VERSION", 0), Error)
    assert client.ok("EAPPEND", name, "E", "PARTITION_KEY", other, "EXPECTED_VERSION", "empty")["stream_version"] == 0
    assert client.ok("ESVER", name, "PARTITION_KEY", key) == 0
    assert client.ok("ESVER", name, "PARTITION_KEY", other) == 0
    assert client.cmd("ESVER", name, "PARTITION_KEY", same) is None


def test_emappend_50000(free, name, slowness):
    """The original takes 21 s."""
    key = ids.default_key(name)
    count = 50000
    big = None
    data = [f"*{2 + 2 * count}\r\n$8\r\nEMAPPEND\r\n$36\r\n{key}\r\n".encode()]
    data.append((f"${len(name)}\r\n{name}\r\n$1\r\nE\r\n".encode()) * count)
    begin = time.monotonic()
    free.send_raw(b"".join(data))
    big = free.reply(timeout=30.0)
    took = time.monotonic() - begin
    # A quarter of this node's small segments can't hold it: the refusal must be quick too.
    refused(big, "MAXSIZE")
    assert took < 3.0 * slowness


def test_emappend_50000_stored(start, name, slowness):
    node = start({"append.strict_versioning": False, "bucket.count": 1})
    key = ids.default_key(name)
    count = 50000
    with node.client(timeout=30.0) as client:
        data = [f"*{2 + 2 * count}\r\n$8\r\nEMAPPEND\r\n$36\r\n{key}\r\n".encode()]
        data.append((f"${len(name)}\r\n{name}\r\n$1\r\nE\r\n".encode()) * count)
        begin = time.monotonic()
        client.send_raw(b"".join(data))
        select.select([client.sock], [], [], 30.0)
        took = time.monotonic() - begin  # parsing the reply's 50,000 maps is the test's own work
        made = client.reply()
        assert not isinstance(made, Error), made
        assert len(made["events"]) == count and made["events"][-1]["stream_version"] == count - 1
        assert made["last_partition_sequence"] - made["first_partition_sequence"] == count - 1
        assert took < 3.0 * slowness, f"{took:.1f} s"
        print(f"EMAPPEND of 50,000: {took:.2f} s")
        at, seen = 0, 0
        while True:
            more, events = resp.scan(client.ok("ESCAN", name, at, "+", "COUNT", 20000))
            assert [event["stream_version"] for event in events] == list(range(at, at + len(events)))
            seen += len(events)
            at += len(events)
            if not more:
                break
        assert seen == count
    node.stop()


def test_read_your_writes_pipelined(client, name):
    """In the original 132 of 300 are stale."""
    key = ids.default_key(name)
    base = client.cmd("EPSEQ", key)
    base = -1 if base is None else base
    for i in range(300):
        made, version, sequence, page = client.pipeline([
            ("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1), ("ESVER", name), ("EPSEQ", key),
            ("ESCAN", name, i, "+")])
        assert made["stream_version"] == i and version == i
        assert sequence == made["partition_sequence"] == base + 1 + i
        assert resp.scan(page)[1][0]["event_id"] == made["event_id"].decode()


def test_sequences_have_no_gaps(free, names):
    """Errors in between use up neither versions nor sequences."""
    key = ids.key_for_partition(13, salt=99)
    streams = [names() for _ in range(3)]
    first = free.cmd("EPSEQ", key)
    first = 0 if first is None else first + 1
    count = 0
    for i in range(60):
        stream = streams[i % 3]
        if i % 5 == 4:
            refused(free.cmd("EAPPEND", stream, "E", "PARTITION_KEY", key, "EXPECTED_VERSION", 10000), "WRONGVER")
            continue
        made = free.ok("EAPPEND", stream, "E", "PARTITION_KEY", key)
        assert made["partition_sequence"] == first + count
        count += 1
    events = resp.scan(free.ok("EPSCAN", key, first, "+"))[1]
    assert [event["partition_sequence"] for event in events] == list(range(first, first + count))


def test_concurrent_writers_one_winner(node, name):
    """Eight connections race for the same version: exactly one wins each round."""
    clients = [node.client() for _ in range(8)]
    for i in range(50):
        for client in clients:
            client.send("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
        replies = [client.reply() for client in clients]
        assert sum(not isinstance(reply, Error) for reply in replies) == 1
        assert all(reply.code == "WRONGVER" for reply in replies if isinstance(reply, Error))
    for client in clients:
        client.close()


def test_error_codes_are_words(client):
    for command in (("EAPPEND",), ("EGET", "x"), ("ESCAN",), ("EACK", "x", 1), ("NOPE",), ("EMAPPEND",), ("HELLO", 9)):
        reply = client.cmd(*command)
        assert re.match(r"[A-Z]+ ", reply.text), reply
