"""Framing: shapes byte by byte, RESP2 and RESP3, inline, pipelines, limits, garbage."""

import re
import time

import pytest

from support import ids, resp
from support.node import process_rss, process_stat, wait_for
from support.resp import EVENT_KEYS, Error, Map, Push, Simple, encode

UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


def raw_reply(client, *args):
    """The reply's bytes, read until nothing more comes: the parser says how long a frame is."""
    client.send(*args)
    data = b""
    while True:
        data += client.read_bytes(1)
        parser = resp.Parser()
        parser.feed(data)
        if parser.next()[0]:
            return data


def test_append_reply_bytes(client, name):
    data = raw_reply(client, "EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "TIMESTAMP", 1234)
    key = str(ids.default_key(name)).encode()
    partition = ids.partition_of(ids.default_key(name))
    assert re.fullmatch(
        rb"%%6\r\n\+event_id\r\n\+%s\r\n\+partition_key\r\n\+%s\r\n\+partition_id\r\n:%d\r\n"
        rb"\+partition_sequence\r\n:\d+\r\n\+stream_version\r\n:0\r\n\+timestamp\r\n:1234\r\n"
        % (UUID, key, partition), data), data


def test_append_reply_bytes_resp2(node, name):
    with node.client(2) as client:
        data = raw_reply(client, "EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "TIMESTAMP", 7)
    assert re.fullmatch(
        rb"\*12\r\n\+event_id\r\n\+%s\r\n\+partition_key\r\n\+%s\r\n\+partition_id\r\n:\d+\r\n"
        rb"\+partition_sequence\r\n:\d+\r\n\+stream_version\r\n:0\r\n\+timestamp\r\n:7\r\n"
        % (UUID, UUID), data), data


def test_emappend_reply_bytes(client, name):
    key = ids.default_key(name)
    data = raw_reply(client, "EMAPPEND", key, name, "A", "EXPECTED_VERSION", "empty", "TIMESTAMP", 1,
                     name, "B", "EXPECTED_VERSION", 0, "TIMESTAMP", 2)
    one = (rb"%%4\r\n\+event_id\r\n\+%s\r\n\+stream_id\r\n\$%d\r\n%s\r\n\+stream_version\r\n:%d\r\n"
           rb"\+timestamp\r\n:%d\r\n")
    size, text = len(name), name.encode()
    assert re.fullmatch(
        rb"%%5\r\n\+partition_key\r\n\+%s\r\n\+partition_id\r\n:\d+\r\n\+first_partition_sequence\r\n:\d+\r\n"
        rb"\+last_partition_sequence\r\n:\d+\r\n\+events\r\n\*2\r\n" % UUID
        + one % (UUID, size, text, 0, 1) + one % (UUID, size, text, 1, 2), data), data


EVENT_RE = (rb"\+event_id\r\n\+%s\r\n\+partition_key\r\n\+%s\r\n\+partition_id\r\n:\d+\r\n"
            rb"\+transaction_id\r\n\+%s\r\n\+partition_sequence\r\n:\d+\r\n\+stream_version\r\n:0\r\n"
            rb"\+timestamp\r\n:\d+\r\n\+stream_id\r\n\$\d+\r\n[^\r]+\r\n\+event_name\r\n\$1\r\nE\r\n"
            rb"\+metadata\r\n\$0\r\n\r\n\+payload\r\n\$0\r\n\r\n" % (UUID, UUID, UUID))


def test_event_map_bytes(client, name):
    made = client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
    assert re.fullmatch(rb"%11\r\n" + EVENT_RE, raw_reply(client, "EGET", made["event_id"]))
    assert re.fullmatch(rb"%2\r\n\+has_more\r\n#f\r\n\+events\r\n\*1\r\n%11\r\n" + EVENT_RE,
                        raw_reply(client, "ESCAN", name, "-", "+"))


def test_event_map_bytes_resp2(node, name):
    with node.client(2) as client:
        made = client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
        event_id = resp.as_dict(made)["event_id"]
        assert re.fullmatch(rb"\*22\r\n" + EVENT_RE, raw_reply(client, "EGET", event_id))
        assert re.fullmatch(rb"\*4\r\n\+has_more\r\n:0\r\n\+events\r\n\*1\r\n\*22\r\n" + EVENT_RE,
                            raw_reply(client, "ESCAN", name, "-", "+"))


def test_nulls_and_numbers(node, name):
    missing = ids.event_id(ids.default_key(name), 99)
    for hello, null in ((None, b"_\r\n"), (3, b"_\r\n"), (2, b"$-1\r\n")):
        with node.client(hello) as client:
            assert raw_reply(client, "EGET", missing) == null
            assert raw_reply(client, "ESVER", name) == null
    with node.client() as client:
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
        assert raw_reply(client, "ESVER", name) == b":0\r\n"
        assert raw_reply(client, "PING") == b"+PONG\r\n"


def test_subscription_bytes(node, name):
    with node.client() as client:
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
        client.send("ESUB", name, "FROM", 0)
        first = client.read()
        assert type(first) is Simple and re.fullmatch(UUID, first)
        second = client.read()
        assert type(second) is Push and second == [b"subscribe", first, 1]
        assert all(type(item) is Simple for item in second[:2])
        third = client.read()
        assert type(third) is Push and third[:3] == [b"message", first, 0]
        assert type(third[0]) is Simple and type(third[1]) is Simple
        assert type(third[3]) is Map and third[3].keys() == EVENT_KEYS
        assert all(type(key) is Simple for key in third[3].keys())
    with node.client(2) as client:
        client.send("ESUB", name, "FROM", 0)
        first = client.read()
        assert type(first) is Simple
        assert client.read() == [b"subscribe", first, 1]
        message = client.read()
        assert type(message) is list and message[:3] == [b"message", first, 0]
        assert type(message[3]) is list and message[3][0::2] == EVENT_KEYS


def test_hello_forms(node):
    wanted = {"server", "version", "proto", "id", "mode", "role", "modules", "peer_id", "num_partitions"}
    with node.client() as client:
        for args, proto in ((("HELLO", 3), 3), (("HELLO", 2), 2), (("hello", "3"), 3), (("HELLO",), 3),
                            (("HELLO", 2), 2), (("HELLO",), 2), (("HELLO", 3, "SETNAME", "me"), 3),
                            (("HELLO", 3, "AUTH", "default", "x"), 3)):
            frame = client.cmd(*args)
            assert not isinstance(frame, Error), (args, frame)
            assert type(frame) is (Map if proto == 3 else list), args
            reply = resp.as_dict(frame)
            assert wanted <= set(reply), args
            assert reply["proto"] == proto and reply["num_partitions"] == 32
            assert reply["server"] == b"sierradb" and reply["mode"] == b"standalone"
            assert reply["modules"] == [] and isinstance(reply["id"], int)
            keys = frame.keys() if proto == 3 else frame[0::2]
            assert all(type(key) is bytes for key in keys), "HELLO's keys are bulk strings"
        assert client.ok("CLIENT", "GETNAME") == b"me"
        for args in (("HELLO", 4), ("HELLO", 1), ("HELLO", "x"), ("HELLO", 3, "NONSENSE"),
                     ("HELLO", 3, "AUTH", "u"), ("HELLO", 3, "SETNAME")):
            assert isinstance(client.cmd(*args), Error), args
        assert client.cmd("HELLO", 4).code == "NOPROTO"
        assert client.ok("PING") == b"PONG"


def protocol_of(client, name):
    """2 or 3, by the form of a null."""
    return 3 if raw_reply(client, "ESVER", name) == b"_\r\n" else 2


def test_default_protocol_auto(node, name):
    """RESP3 until the client introduces itself as a library that would have asked for it."""
    cases = (((), 3), ((("PING",),), 3),
             ((("CLIENT", "SETINFO", "LIB-NAME", "redis-py"),), 2),
             ((("CLIENT", "SETINFO", "lib-name", "jedis"),), 2),
             ((("CLIENT", "SETINFO", "LIB-NAME", "redis-rs"),), 3),
             ((("CLIENT", "SETINFO", "LIB-VER", "1.0"),), 3),
             ((("INFO",),), 2), ((("PING",), ("INFO",)), 3), ((("INFO", "cache"),), 3),
             ((("HELLO", 3), ("CLIENT", "SETINFO", "LIB-NAME", "redis-py")), 3),
             ((("CLIENT", "SETINFO", "LIB-NAME", "redis-py"), ("HELLO", 3)), 3),
             ((("HELLO", 2),), 2), ((("HELLO", 2), ("HELLO", 3)), 3))
    for commands, wanted in cases:
        with node.client() as client:
            for command in commands:
                client.ok(*command)
            assert protocol_of(client, name) == wanted, commands


@pytest.mark.parametrize("protocol", [2, 3])
def test_default_protocol_fixed(start, name, protocol):
    node = start({"network.default_protocol": protocol, "bucket.count": 1})
    for commands in ((), (("CLIENT", "SETINFO", "LIB-NAME", "redis-py"),), (("INFO",),)):
        with node.client() as client:
            for command in commands:
                client.ok(*command)
            assert protocol_of(client, name) == protocol, commands
    with node.client(5 - protocol) as client:
        assert protocol_of(client, name) == 5 - protocol
    node.stop()


def test_inline(client, name):
    client.send_raw(b"PING\r\n")
    assert client.reply() == b"PONG"
    client.send_raw(b"ping\n")
    assert client.reply() == b"PONG"
    client.send_raw(b"\r\n\r\nPING\r\n")
    assert client.reply() == b"PONG"
    client.send_raw(b'EAPPEND %s "an event" EXPECTED_VERSION empty PAYLOAD "a\\x00b\\n"\r\n' % name.encode())
    assert not isinstance(client.reply(), Error)
    client.send_raw(b"ESCAN %s - +\r\n" % name.encode())
    _, events = resp.scan(client.reply())
    assert events[0]["event_name"] == b"an event" and events[0]["payload"] == b"a\x00b\n"
    client.send_raw(b"   PING    \r\n")
    assert client.reply() == b"PONG"


def test_inline_unbalanced_quotes(client):
    client.send_raw(b'PING "x\r\n')
    assert isinstance(client.reply(), Error)
    assert client.closed()


def test_argument_types(client, name):
    """Simple strings, numbers, verbatim strings as arguments; null and others are named in the error."""
    client.send_raw(b"*7\r\n+EAPPEND\r\n+%s\r\n=5\r\ntxt:E\r\n$16\r\nEXPECTED_VERSION\r\n+empty\r\n+TIMESTAMP\r\n:5\r\n"
                    % name.encode())
    assert client.reply()["timestamp"] == 5
    client.send_raw(b"*5\r\n+EAPPEND\r\n+%s\r\n+E\r\n+EXPECTED_VERSION\r\n:0\r\n" % name.encode())
    assert client.reply()["stream_version"] == 1
    client.send_raw(b"*3\r\n$7\r\nEAPPEND\r\n_\r\n$1\r\nE\r\n")
    assert client.reply() == b"INVALIDARG unexpected null: expected stream id"
    client.send_raw(b"*3\r\n$7\r\nEAPPEND\r\n#t\r\n$1\r\nE\r\n")
    assert client.reply() == b"INVALIDARG unexpected boolean: expected stream id"
    client.send_raw(b"*3\r\n$7\r\nEAPPEND\r\n*1\r\n+x\r\n$1\r\nE\r\n")
    assert client.reply() == b"INVALIDARG unexpected array: expected stream id"
    assert client.ok("PING") == b"PONG"


def test_empty_and_odd_arrays(client):
    client.send_raw(b"*0\r\n*1\r\n$4\r\nPING\r\n")
    first = client.reply()
    # An empty array is an error in the original and nothing at all in Redis; both keep the order.
    assert first == b"PONG" or (isinstance(first, Error) and client.reply() == b"PONG")
    client.send_raw(b"*1\r\n$0\r\n\r\n")
    assert client.reply().code == "INVALIDARG"
    assert client.ok("PING") == b"PONG"


def test_unknown_command(client):
    assert client.cmd("NOPE", "x") == b"INVALIDARG unknown command 'NOPE'"
    assert client.cmd("nope") == b"INVALIDARG unknown command 'NOPE'"
    assert client.cmd("NO\r\nPE") == b"INVALIDARG unknown command 'NO  PE'"
    assert client.ok("PING") == b"PONG"


def test_crlf_in_echoed_text(client):
    stream = "x\r\n" * 30
    reply = client.cmd("EAPPEND", stream, "E")
    assert reply == (b"INVALIDARG stream id must be between 1 and 64 characters in length, but got 90 for '"
                     + b"x  " * 30 + b"'")
    assert client.ok("PING") == b"PONG"


def test_crlf_in_stream_and_name(client, name):
    stream = name + "\r\n-OK"
    key = ids.default_key(stream)
    made = client.ok("EMAPPEND", key, stream, "a\r\nb", "EXPECTED_VERSION", "empty")
    assert made["events"][0]["stream_id"] == stream.encode()
    _, events = resp.scan(client.cmd("ESCAN", stream, "-", "+"))
    assert events[0]["stream_id"] == stream.encode() and events[0]["event_name"] == b"a\r\nb"
    wrong = client.cmd("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty")
    assert wrong.code == "WRONGVER" and b"\r" not in wrong
    assert client.ok("PING") == b"PONG"


def test_case_insensitive(client, name):
    assert client.ok("eAppend", name, "E", "expected_VERSION", "EMPTY", "payLoad", "p")["stream_version"] == 0
    assert resp.scan(client.ok("eScan", name, "-", "+", "count", 1))[1][0]["payload"] == b"p"


def test_pipeline_10000(node, names):
    """10,000 commands sent before the first reply is read; replies in order, effects in order."""
    import threading

    stream = names()
    with node.client(timeout=60.0) as client:
        commands = []
        for i in range(3334):
            commands.append(("EAPPEND", stream, f"E{i}", "EXPECTED_VERSION", "empty" if i == 0 else i - 1))
            commands.append(("ESVER", stream))
            commands.append(("ECHO", f"e{i}"))
        data = b"".join(encode(*command) for command in commands)
        sender = threading.Thread(target=client.send_raw, args=(data,))
        sender.start()
        for i in range(3334):
            assert client.reply()["stream_version"] == i
            assert client.reply() == i
            assert client.reply() == b"e%d" % i
        sender.join()


def test_split_at_every_byte(client, name):
    request = (encode("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "PAYLOAD", b"a\r\nb")
               + encode("ESVER", name) + b"PING\r\n" + b"*2\r\n+ECHO\r\n+hi\r\n")
    for cut in range(1, len(request)):
        client.send_raw(request[:cut])
        time.sleep(0.0005)  # lets the two parts arrive in two reads; the result may not depend on it
        client.send_raw(request[cut:])
        first = client.reply()
        assert isinstance(first, Error) == (cut > 1), (cut, first)
        assert [client.reply() for _ in range(3)] == [0, b"PONG", b"hi"], cut
    client.sock.setsockopt(6, 1, 1)
    for byte in encode("ECHO", "one at a time"):
        client.send_raw(bytes([byte]))
    assert client.reply() == b"one at a time"


@pytest.mark.parametrize("data", [
    b"*1\r\n$x\r\nPING\r\n", b"*x\r\n", b"*1\r\n$-5\r\n", b"*-5\r\n$4\r\nPING\r\n",
    b"*1\r\n$99999999999999999999\r\n", b"*99999999999999999999\r\n", b"*1\r\n$4\r\nPINGxx",
    b"*1\r\n:x1\r\n", b"*2000000\r\n", b"*1\r\n$999999999\r\n", b"*1\r\n" * 1000,
    b"*1\r\n" * 100000, b"a" * 70000, b"*1\r\n" + b"$" + b"1" * 70000, b"*1\r\n$?\r\n", b"*?\r\n",
], ids=lambda data: repr(data[:24]) + str(len(data)))
def test_broken_frames(node, data):
    """A clear error, then the connection ends; the server lives on."""
    with node.client(timeout=5.0) as client:
        try:
            client.send_raw(data)
        except OSError:
            pass  # closed while we were still sending
        try:
            reply = client.reply(timeout=5.0)
            assert isinstance(reply, Error), reply
            assert client.closed()
        except (resp.Closed, ConnectionError):
            assert len(data) > 60000, "closed without a word"
    with node.client() as client:
        assert client.ok("PING") == b"PONG"


def test_nesting_within_the_limit(client):
    """A nested array is no command, but no reason to close either."""
    client.send_raw(b"*2\r\n+PING\r\n*1\r\n*1\r\n+x\r\n")
    assert isinstance(client.reply(), Error)
    assert client.ok("PING") == b"PONG"


def test_top_level_non_arrays(node):
    for data in (b":1\r\n", b"$4\r\nPING\r\n", b"_\r\n", b"%1\r\n+a\r\n+b\r\n", b"\x00\xff\xfe\r\n",
                 b"GET / HTTP/1.1\r\n\r\n"):
        with node.client(timeout=3.0) as client:
            client.send_raw(data)
            assert isinstance(client.reply(), Error), data
    with node.client() as client:
        assert client.ok("PING") == b"PONG"


def test_random_garbage(node):
    import random

    rng = random.Random(4711)
    for _ in range(60):
        with node.client(timeout=5.0) as client:
            try:
                alphabet = b"*$+:-%_#,>=\r\n0123456789PINGEAPPEND \x00\xff"
                data = bytes(rng.choice(alphabet) for _ in range(rng.randrange(1, 3000)))
                client.send_raw(data)
                client.sock.shutdown(1)
                assert client.closed()
            except OSError:
                pass
    with node.client() as client:
        assert client.ok("PING") == b"PONG"


def test_half_a_frame_then_close(node):
    """The original's task then spins at 100 %."""
    for data in (b"*3\r\n$7\r\nEAPP", b"*1\r\n", b"*2\r\n$4\r\nECHO\r\n$100\r\nabc", b"PIN", b"*"):
        client = node.client()
        client.send_raw(data)
        client.close()
    client = node.client()
    client.send_raw(b"*2\r\n$4\r\nECHO\r\n$100\r\nabc")
    client.sock.shutdown(1)
    assert client.closed()
    netd = node.child("netd")
    wait_for("a quiet netd", lambda: cpu_over(netd, 0.5) < 0.1, 5.0)


def cpu_over(pid, seconds):
    before = process_stat(pid)[2]
    time.sleep(seconds)  # the measured span
    return process_stat(pid)[2] - before


def test_half_close_after_commands(node, name):
    """What was sent before the client shut its side down is still answered."""
    with node.client() as client:
        client.send_raw(encode("EAPPEND", name, "E", "EXPECTED_VERSION", "empty") + encode("ESVER", name))
        client.sock.shutdown(1)
        assert client.reply()["stream_version"] == 0
        assert client.reply() == 0
        assert client.closed()


def test_announced_lengths_cost_no_memory(node, memory_counts):
    netd = node.child("netd")
    before = process_rss(netd)
    clients = []
    for _ in range(200):
        client = node.client()
        client.send_raw(b"*1048576\r\n$7000000\r\nabc")
        clients.append(client)
    with node.client() as client:
        assert client.ok("PING") == b"PONG"
    assert process_rss(netd) - before < 64 << 20 or not memory_counts
    for client in clients:
        client.close()


def test_replies_between_pushes(node, names):
    """Pushes never split a reply, and replies keep their order beside 500 pushes."""
    stream = names()
    with node.client() as client:
        client.send("ESUB", stream, "FROM", 0)
        client.reply()
        commands = []
        for i in range(500):
            commands.append(("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1))
            commands.append(("ECHO", "x" * (i % 50)))
        replies = client.pipeline(commands)
        assert [reply["stream_version"] for reply in replies[0::2]] == list(range(500))
        assert replies[1::2] == [b"x" * (i % 50) for i in range(500)]
        client.pushes = [push for push in client.pushes if push[0] == b"message"]
        got = client.messages(500)
        assert [item[2]["stream_version"] for item in got] == list(range(500))
        assert [item[1] for item in got] == list(range(500))


def test_subscribe_reply_comes_first(node, names):
    """EPSUB + PING + EPSEQ in one packet: reply, subscribe, PONG, number; messages after."""
    stream = names()
    partition = ids.partition_of(ids.default_key(stream))
    with node.client() as client:
        client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty")
        client.send_raw(encode("EPSUB", partition, "FROM", 0) + encode("PING") + encode("EPSEQ", partition))
        subscription = client.read()
        assert type(subscription) is Simple
        push = client.read()
        assert push == [b"subscribe", subscription, 1]
        assert client.reply() == b"PONG"
        assert isinstance(client.reply(), int)


def test_unread_replies_are_bounded(start, names, memory_counts):
    """A client that asks and never reads is closed at the limit, or no longer read; nobody else notices."""
    node = start({"network.output_buffer_bytes": 4 << 20, "bucket.count": 1})
    stream = names()
    with node.client() as client:
        client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty", "PAYLOAD", b"x" * 500000)
    netd = node.child("netd")
    greedy = node.client(rcvbuf=4096, timeout=2.0)
    greedy.sock.settimeout(0.5)
    sent = 0
    try:
        request = encode("ESCAN", stream, "-", "+") * 100
        for _ in range(2000):
            greedy.send_raw(request)
            sent += 100
    except OSError:
        pass  # closed, or not read any more: both bound the memory
    assert process_rss(netd) < 128 << 20 or not memory_counts, f"{sent} requests"
    with node.client() as client:
        begin = time.monotonic()
        assert client.ok("PING") == b"PONG"
        assert time.monotonic() - begin < 1.0
    greedy.close()
    node.stop()


def test_unread_large_events_are_bounded(start, names, memory_counts):
    """1,000 reads of one event of 8 MB, pipelined, nothing read: memory stays within bounds, here and in the bucket."""
    import os

    node = start({"bucket.count": 1, "cache.capacity_bytes": 64 << 20})
    for content in (b"x" * 8000000, os.urandom(8000000)):
        with node.client(timeout=30.0) as client:
            made = client.ok("EAPPEND", names(), "E", "EXPECTED_VERSION", "empty", "PAYLOAD", content)
        children = node.children()
        greedy = node.client(rcvbuf=4096, timeout=2.0)
        greedy.send_raw(encode("EGET", made["event_id"]) * 1000)
        worst = 0
        for _ in range(20):
            with node.client(timeout=10.0) as client:
                assert client.ok("PING") == b"PONG"
            worst = max(worst, process_rss(children["netd"]), process_rss(children[0]))
            time.sleep(0.05)  # samples memory over a second
        assert worst < 512 << 20 or not memory_counts, f"{worst >> 20} MiB are held"
        greedy.close()
        assert node.children() == children, "a process ended"
    node.stop()


def test_many_large_reads(start, names):
    """120 reads of 8 MB from 12 connections at once: every one is answered, and no process ends over it."""
    node = start({"bucket.count": 1})
    content = b"0123456789abcdef" * 500000
    stream = names()
    with node.client(timeout=30.0) as client:
        made = client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty", "PAYLOAD", content)
    children = node.children()
    clients = [node.client(timeout=120.0) for _ in range(12)]
    for i, client in enumerate(clients):
        client.send_raw((encode("EGET", made["event_id"]) if i % 2 else encode("ESCAN", stream, "-", "+")) * 10)
    for i, client in enumerate(clients):
        for _ in range(10):
            reply = client.reply()
            event = resp.event(reply) if i % 2 else resp.scan(reply)[1][0]
            assert event["payload"] == content
        client.close()
    assert node.children() == children
    node.stop()


def test_numbers_as_arguments(client, names):
    """RESP3 numbers where numbers are expected."""
    stream = names()
    partition = ids.partition_of(ids.default_key(stream))
    client.send_raw(b"*7\r\n$7\r\nEAPPEND\r\n$%d\r\n%s\r\n$1\r\nE\r\n$16\r\nEXPECTED_VERSION\r\n$5\r\nempty\r\n"
                    b"$9\r\nTIMESTAMP\r\n:77\r\n" % (len(stream), stream.encode()))
    assert client.reply()["timestamp"] == 77
    client.send_raw(b"*2\r\n$5\r\nEPSEQ\r\n:%d\r\n" % partition)
    last = client.reply()
    assert isinstance(last, int)
    client.send_raw(b"*6\r\n$6\r\nEPSCAN\r\n:%d\r\n:%d\r\n:%d\r\n$5\r\nCOUNT\r\n:1\r\n" % (partition, last, last))
    assert [event["timestamp"] for event in resp.scan(client.reply())[1]] == [77]
    client.send_raw(b"*6\r\n$5\r\nEPSUB\r\n:%d\r\n$4\r\nFROM\r\n:%d\r\n$6\r\nWINDOW\r\n:5\r\n" % (partition, last))
    subscription = client.reply()
    assert client.messages(1)[0][2]["partition_sequence"] == last
    client.send_raw(b"*3\r\n$4\r\nEACK\r\n+%s\r\n:0\r\n" % subscription)
    assert client.reply() == b"OK"
    client.send_raw(b"*3\r\n$7\r\nEAPPEND\r\n:5\r\n$1\r\nE\r\n")
    assert client.reply() == b"INVALIDARG unexpected number: expected stream id"
    client.send_raw(b"*2\r\n$5\r\nHELLO\r\n:3\r\n")
    assert client.reply()["proto"] == 3


def test_hello_switches_running_subscriptions(node, names):
    """Messages take the form of the protocol that holds when they are sent."""
    stream = names()
    with node.client(3) as client, node.client() as writer:
        client.ok("ESUB", stream, "FROM", 0)
        assert client.push()[0] == b"subscribe"
        for i, proto in enumerate((3, 2, 3, 2)):
            client.ok("HELLO", proto)
            writer.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
            push = client.push()
            assert type(push) is (Push if proto == 3 else list) and push[2] == i
