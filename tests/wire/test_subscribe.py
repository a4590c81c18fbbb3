"""Subscriptions: starts, windows, acknowledgements, the seam from history to live, slow readers, restarts."""

import random
import threading
import time
import uuid

import pytest

from support import ids, resp
from support.node import process_rss, wait_for
from support.resp import Error, Simple


def refused(reply, code, text=None):
    assert isinstance(reply, Error), reply
    assert reply.code == code, reply
    if text is not None:
        assert reply.text == f"{code} {text}"


def append(client, stream, count, start=0, key=None, payload=b""):
    """Versions start.. of a stream, pipelined."""
    tail = ("PARTITION_KEY", key) if key else ()
    for at in range(start, start + count, 500):
        commands = [("EAPPEND", stream, f"E{i}", "EXPECTED_VERSION", "empty" if i == 0 else i - 1,
                     "PAYLOAD", payload, *tail) for i in range(at, min(at + 500, start + count))]
        for reply in client.pipeline(commands, timeout=30.0):
            assert not isinstance(reply, Error), reply


def subscribe(client, *args):
    """The subscription's id, with its confirmation taken off the wire."""
    reply = client.cmd(*args)
    assert type(reply) is Simple, reply
    push = client.push()
    assert push[0] == b"subscribe" and push[1] == reply
    return reply.decode()


def versions(messages):
    return [message[2]["stream_version"] for message in messages]


def test_from_number(node, name):
    with node.client() as writer, node.client() as client:
        append(writer, name, 4)
        subscription = subscribe(client, "ESUB", name, "FROM", 1)
        got = client.messages(3)
        assert versions(got) == [1, 2, 3] and [item[1] for item in got] == [0, 1, 2]
        assert {item[0] for item in got} == {subscription}
        append(writer, name, 3, 4)
        got = client.messages(3)
        assert versions(got) == [4, 5, 6] and [item[1] for item in got] == [3, 4, 5]
        assert client.silent(0.1)


def test_history_comes_at_once(node, name, slowness):
    with node.client() as client:
        append(client, name, 4)
        begin = time.monotonic()
        subscribe(client, "ESUB", name, "FROM", 0, "WINDOW", 2)
        assert versions(client.messages(2)) == [0, 1]
        assert time.monotonic() - begin < 0.5 * slowness
        assert client.silent(0.1)


def test_window_and_ack(node, name):
    with node.client() as client:
        append(client, name, 10)
        subscription = subscribe(client, "ESUB", name, "FROM", 0, "WINDOW", 3)
        assert versions(client.messages(3)) == [0, 1, 2]
        assert client.silent(0.1)
        assert client.cmd("EACK", subscription, 0) == b"OK"
        assert versions(client.messages(1)) == [3]
        assert client.silent(0.1)
        assert client.cmd("EACK", subscription, 3) == b"OK"
        assert versions(client.messages(3)) == [4, 5, 6]
        assert client.silent(0.1)
        assert client.cmd("EACK", subscription, 6) == b"OK"
        assert versions(client.messages(3)) == [7, 8, 9]
        assert client.cmd("EACK", subscription, 9) == b"OK"
        append(client, name, 5, 10)
        assert versions(client.messages(3)) == [10, 11, 12]
        assert client.silent(0.1)


def test_ack_of_less_or_more_than_sent(node, name):
    """An older cursor takes nothing back in a way that repeats; one beyond the last never skips or repeats."""
    with node.client() as client:
        append(client, name, 20)
        subscription = subscribe(client, "ESUB", name, "FROM", 0, "WINDOW", 2)
        assert versions(client.messages(2)) == [0, 1]
        client.cmd("EACK", subscription, 1)
        assert versions(client.messages(2)) == [2, 3]
        client.cmd("EACK", subscription, 0)
        assert client.silent(0.1)
        client.cmd("EACK", subscription, 3)
        assert versions(client.messages(2)) == [4, 5]
        client.cmd("EACK", subscription, 2**64 - 1)
        client.cmd("EACK", subscription, 5)
        rest = []
        try:
            while len(rest) < 14:
                rest += client.messages(1, timeout=0.3)
        except TimeoutError:
            pass
        assert versions(rest) == list(range(6, 6 + len(rest))) and len(rest) >= 2


def test_default_window_is_1000(node, name):
    with node.client(timeout=20.0) as client:
        append(client, name, 1100)
        subscription = subscribe(client, "ESUB", name, "FROM", 0)
        assert versions(client.messages(1000)) == list(range(1000))
        assert client.silent(0.2)
        client.send("EACK", subscription, 999)
        assert client.reply() == b"OK"
        assert versions(client.messages(100)) == list(range(1000, 1100))


def test_latest_is_exact(node, name):
    """Nothing from before, everything from after, with the border at the subscription's answer."""
    with node.client() as client:
        append(client, name, 50)
        for i in range(20):
            client.send_raw(resp.encode("EAPPEND", name, "before", "EXPECTED_VERSION", 49 + 2 * i)
                            + resp.encode("ESUB", name, *(("FROM", "LATEST") if i % 2 else ()))
                            + resp.encode("EAPPEND", name, "after", "EXPECTED_VERSION", 50 + 2 * i))
            assert client.reply()["stream_version"] == 50 + 2 * i
            subscription = client.reply()
            assert client.reply()["stream_version"] == 51 + 2 * i
            client.pushes = [push for push in client.pushes if push[0] == b"message"]
            got = client.messages(1)[0]
            assert got[0] == subscription.decode() and got[2]["stream_version"] == 51 + 2 * i and got[1] == 0
            assert client.cmd("EUNSUB", subscription.decode()) == b"OK"
            client.pushes.clear()


def test_from_beyond_the_end(node, name):
    with node.client() as client:
        append(client, name, 3)
        subscribe(client, "ESUB", name, "FROM", 6)
        append(client, name, 5, 3)
        assert versions(client.messages(2)) == [6, 7]
        assert client.silent(0.1)


def test_stream_that_does_not_exist_yet(node, name):
    with node.client() as client:
        subscribe(client, "ESUB", name, "FROM", 0)
        append(client, name, 3)
        assert versions(client.messages(3)) == [0, 1, 2]


def test_several_streams(node, names):
    one, two, three = names(), names(), names()
    with node.client() as client:
        for stream in (one, two, three):
            append(client, stream, 5)
        subscribe(client, "ESUB", one, two, three, "FROM", 2)
        got = client.messages(9)
        for stream in (one, two, three):
            assert [m[2]["stream_version"] for m in got if m[2]["stream_id"] == stream.encode()] == [2, 3, 4]
        assert [m[1] for m in got] == list(range(9))
        append(client, two, 2, 5)
        assert versions(client.messages(2)) == [5, 6]


def test_from_map(node, names):
    one, two, three = names(), names(), names()
    with node.client() as client:
        for stream in (one, two, three):
            append(client, stream, 4)
        subscribe(client, "ESUB", one, two, three, "FROM", "MAP", f"{one}=1", f"{two}=0")
        got = client.messages(7)
        assert [m[2]["stream_version"] for m in got if m[2]["stream_id"] == one.encode()] == [1, 2, 3]
        assert [m[2]["stream_version"] for m in got if m[2]["stream_id"] == two.encode()] == [0, 1, 2, 3]
        assert client.silent(0.1), "the third starts at LATEST"
        append(client, three, 1, 4)
        assert versions(client.messages(1)) == [4]


def test_stream_with_equals_sign(node, names):
    stream = names() + "=x=1"
    with node.client() as client:
        append(client, stream, 3)
        subscribe(client, "ESUB", stream, "FROM", 1)
        assert versions(client.messages(2)) == [1, 2]


def test_partition_keys(node, names):
    """The same stream id under two keys: two streams."""
    stream = names()
    one, two = ids.key_for_partition(14, salt=31), ids.key_for_partition(15, salt=31)
    with node.client() as client:
        append(client, stream, 3, key=one)
        append(client, stream, 3, key=two)
        subscribe(client, "ESUB", stream, "PARTITION_KEY", one, stream, "PARTITION_KEY", two, "FROM", 0)
        got = client.messages(6)
        for key in (one, two):
            assert [m[2]["stream_version"] for m in got if m[2]["partition_key"] == str(key)] == [0, 1, 2]
        assert client.silent(0.1)
    with node.client() as client:
        subscribe(client, "ESUB", stream, "PARTITION_KEY", one, "FROM", 0)
        assert versions(client.messages(3)) == [0, 1, 2]
        assert client.silent(0.1)


def test_duplicates_collapse(node, name):
    with node.client() as client:
        append(client, name, 3)
        subscribe(client, "ESUB", name, name, "FROM", 0)
        assert versions(client.messages(3)) == [0, 1, 2]
        assert client.silent(0.1)


def test_stream_named_like_a_keyword(lax):
    with lax.client() as client:
        for word in ("FROM", "WINDOW", "PARTITION_KEY"):
            subscription = subscribe(client, "ESUB", word, "FROM", "LATEST")
            client.ok("EAPPEND", word, "E")
            assert client.messages(1)[0][2]["stream_id"] == word.encode()
            client.ok("EUNSUB", subscription)
            client.pushes.clear()


@pytest.mark.parametrize("command", [
    ("ESUB",), ("ESUB", ""), ("ESUB", "a" * 65), ("ESUB", "s", "PARTITION_KEY"), ("ESUB", "s", "PARTITION_KEY", "x"),
    ("ESUB", "s", "FROM"), ("ESUB", "s", "FROM", "x"), ("ESUB", "s", "FROM", -1), ("ESUB", "s", "WINDOW"),
    ("ESUB", "s", "WINDOW", 0), ("ESUB", "s", "WINDOW", "x"), ("ESUB", "s", "FROM", 0, "WINDOW", 0),
    ("ESUB", "s", "FROM", "MAP"), ("ESUB", "s", "FROM", "MAP", "s"), ("ESUB", "s", "FROM", "MAP", "s=x"),
    ("ESUB", "s", "FROM", 0, "FROM", 1), ("ESUB", "s", "WINDOW", 1, "WINDOW", 1),
    ("EPSUB",), ("EPSUB", "x"), ("EPSUB", ""), ("EPSUB", "1,,2"), ("EPSUB", "1,x"), ("EPSUB", "5-2"), ("EPSUB", "32"),
    ("EPSUB", "0-32"), ("EPSUB", "1,99"), ("EPSUB", "*", "FROM"), ("EPSUB", "*", "FROM", "x"),
    ("EPSUB", "*", "WINDOW", 0),
    ("EPSUB", "*", "WINDOW"), ("EPSUB", "*", "FROM", "MAP"), ("EPSUB", "*", "FROM", "MAP", "x=1"),
    ("EPSUB", "*", "FROM", "MAP", "1=x"), ("EPSUB", "*", "FROM", "MAP", "1=1", "DEFAULT"),
    ("EPSUB", "*", "FROM", "MAP", "1=1", "DEFAULT", "x"), ("EPSUB", "*", "NONSENSE"), ("EPSUB", "*", "DEFAULT", 1),
    ("EACK",), ("EACK", str(uuid.UUID(int=1))), ("EACK", "x", 1), ("EACK", str(uuid.UUID(int=1)), "x"),
    ("EACK", str(uuid.UUID(int=1)), 1, 2), ("EUNSUB",), ("EUNSUB", "x"),
], ids=lambda command: " ".join(str(part)[:12] for part in command))
def test_refusals(client, command):
    refused(client.cmd(*command), "INVALIDARG")
    assert client.ok("PING") == b"PONG"
    assert not client.pushes, "no half-made subscription"


def test_refusal_texts(client):
    unknown = str(uuid.uuid4())
    refused(client.cmd("EACK", unknown, 1), "NOTFOUND", "subscription not found")
    refused(client.cmd("EUNSUB", unknown), "NOTFOUND", "subscription not found")
    refused(client.cmd("EACK", "x", 1), "INVALIDARG", "invalid subscription id")
    refused(client.cmd("ESUB"), "INVALIDARG", "unexpected end of input: expected stream id")
    refused(client.cmd("ESUB", "s", "PARTITION_KEY", "x"), "INVALIDARG", "invalid partition key")
    refused(client.cmd("ESUB", "s", "WINDOW", 0), "INVALIDARG", "number 0 must not be less than 1")
    refused(client.cmd("EPSUB", "*", "WINDOW", 0), "INVALIDARG", "number 0 must not be less than 1")


def test_subscription_is_the_connections_own(node, name):
    with node.client() as one, node.client() as two:
        subscription = subscribe(one, "ESUB", name)
        refused(two.cmd("EACK", subscription, 0), "NOTFOUND")
        refused(two.cmd("EUNSUB", subscription), "NOTFOUND")


def test_count_in_the_confirmation(client, names):
    ids_made = []
    for i in range(3):
        reply = client.cmd("ESUB", names())
        push = client.push()
        assert push == [b"subscribe", reply, i + 1]
        ids_made.append(reply.decode())
    client.ok("EUNSUB", ids_made[1])
    client.pushes.clear()
    client.ok("ESUB", names())
    assert client.push()[2] == 3


def test_unsubscribe(node, name):
    with node.client() as client:
        append(client, name, 10)
        subscription = subscribe(client, "ESUB", name, "FROM", 0, "WINDOW", 2)
        client.messages(2)
        assert client.cmd("EUNSUB", subscription) == b"OK"
        client.pushes.clear()
        append(client, name, 3, 10)
        assert client.silent(0.2)
        refused(client.cmd("EACK", subscription, 1), "NOTFOUND")


def test_epsub_selectors(node, names):
    """*, one, lists with spaces, ranges, a key."""
    streams = {partition: ids.stream_in_partition(names() + "-sel", partition) for partition in (20, 21, 22, 23)}
    with node.client() as writer:
        starts = {p: (lambda v: 0 if v is None else v + 1)(writer.cmd("EPSEQ", p)) for p in streams}
        clients = {}
        for selector, wanted in (("*", {20, 21, 22, 23}), ("21", {21}), ("20,22", {20, 22}), (" 20 , 23 ", {20, 23}),
                                 ("21-23", {21, 22, 23}), ("20,20,20", {20}),
                                 (str(ids.default_key(streams[22])), {22})):
            clients[selector] = (node.client(), wanted)
            subscribe(clients[selector][0], "EPSUB", selector)
        for stream in streams.values():
            append(writer, stream, 4)
        for selector, (client, wanted) in clients.items():
            got = client.messages(4 * len(wanted))
            seen = {}
            for message in got:
                seen.setdefault(message[2]["partition_id"], []).append(message[2]["partition_sequence"])
            assert seen == {p: list(range(starts[p], starts[p] + 4)) for p in wanted}, selector
            assert client.silent(0.05), selector
            client.close()


def test_epsub_from_map_and_default(node, names):
    a, b, c = 24, 25, 26
    streams = {p: ids.stream_in_partition(names() + "-map", p) for p in (a, b, c)}
    with node.client() as writer, node.client() as client, node.client() as latest:
        for stream in streams.values():
            append(writer, stream, 5)
        last = {p: writer.ok("EPSEQ", p) for p in streams}
        subscribe(client, "EPSUB", f"{a},{b},{c}", "FROM", "MAP", f"{a}={last[a] - 1}", f"{b}={last[b]}", "DEFAULT",
                  last[c] - 2, "WINDOW", 100)
        got = client.messages(2 + 1 + 3)
        seen = {}
        for message in got:
            seen.setdefault(message[2]["partition_id"], []).append(message[2]["partition_sequence"])
        assert seen == {a: [last[a] - 1, last[a]], b: [last[b]], c: [last[c] - 2, last[c] - 1, last[c]]}
        subscribe(latest, "EPSUB", f"{a},{b}", "FROM", "MAP", f"{a}={last[a]}")
        assert latest.messages(1)[0][2]["partition_id"] == a
        assert latest.silent(0.1)
        append(writer, streams[b], 1, 5)
        assert latest.messages(1)[0][2]["partition_sequence"] == last[b] + 1


def test_several_on_one_connection_beside_commands(node, names):
    streams = [names() for _ in range(5)]
    with node.client() as client:
        subscriptions = [subscribe(client, "ESUB", stream, "FROM", 0, "WINDOW", 100000) for stream in streams]
        everything = subscribe(client, "EPSUB", "*", "WINDOW", 100000)
        rng = random.Random(2)
        counts = [0] * 5
        for _ in range(400):
            i = rng.randrange(5)
            expected = "empty" if counts[i] == 0 else counts[i] - 1
            assert client.ok("EAPPEND", streams[i], "E", "EXPECTED_VERSION", expected)["stream_version"] == counts[i]
            counts[i] += 1
            assert client.ok("ESVER", streams[i]) == counts[i] - 1
        got = client.messages(800)
        for i, subscription in enumerate(subscriptions):
            mine = [m for m in got if m[0] == subscription]
            assert versions(mine) == list(range(counts[i])) and [m[1] for m in mine] == list(range(counts[i]))
            assert {m[2]["stream_id"].decode() for m in mine} <= {streams[i]}
        whole = [m for m in got if m[0] == everything]
        assert [m[1] for m in whole] == list(range(400))


def run_writers(node, streams, count, batch=20):
    """One thread for each stream, versions 0..count-1 in pipelined batches."""
    errors = []

    def write(stream):
        try:
            with node.client(timeout=30.0) as client:
                for at in range(0, count, batch):
                    append(client, stream, min(batch, count - at), at)
        except Exception as error:  # handed to the test's thread
            errors.append(error)

    threads = [threading.Thread(target=write, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    return threads, errors


def test_history_to_live_seam(node, names):
    """Subscribers that begin while writers run: each event once, in order; 6,000 events."""
    streams = [names() for _ in range(4)]
    threads, errors = run_writers(node, streams, 1500)
    clients = []
    rng = random.Random(8)
    with node.client(timeout=30.0) as all_client:
        starts = []
        for p in range(32):
            last = all_client.cmd("EPSEQ", p)
            starts.append(0 if last is None else last + 1)
        subscribe(all_client, "EPSUB", "*", "FROM", "MAP", *(f"{p}={starts[p]}" for p in range(32)), "WINDOW", 64)
        for _ in range(12):
            client = node.client(timeout=30.0)
            stream = rng.choice(streams)
            begin = rng.choice([0, 0, 100, 700])
            subscribe(client, "ESUB", stream, "FROM", begin, "WINDOW", rng.choice([1000000, 100, 7]))
            clients.append((client, stream, begin))
            time.sleep(0.01)  # spreads the beginnings over the writers' run
        results = {}

        def follow(i, client, begin):
            results[i] = client.messages(1500 - begin, timeout=40.0, ack=5)

        followers = [threading.Thread(target=follow, args=(i, client, begin))
                     for i, (client, _, begin) in enumerate(clients)]
        for thread in followers:
            thread.start()
        for thread in [*threads, *followers]:
            thread.join()
        assert not errors, errors
        for i, (client, stream, begin) in enumerate(clients):
            assert versions(results[i]) == list(range(begin, 1500)), (i, stream, begin)
            assert [m[1] for m in results[i]] == list(range(1500 - begin))
            client.close()
        totals = [all_client.cmd("EPSEQ", p) for p in range(32)]
        expected = sum(0 if t is None else t + 1 - starts[p] for p, t in enumerate(totals))
        got = all_client.messages(expected, timeout=40.0, ack=16)
        seen = {}
        for message in got:
            seen.setdefault(message[2]["partition_id"], []).append(message[2]["partition_sequence"])
        for p, sequences in seen.items():
            assert sequences == list(range(starts[p], totals[p] + 1)), p


def test_transactions_keep_their_order(lax, names):
    one, two = names(), names()
    key = ids.key_for_partition(17, salt=17)
    with lax.client() as client:
        last = client.cmd("EPSEQ", key)
        start = 0 if last is None else last + 1
        subscribe(client, "EPSUB", 17, "FROM", start, "WINDOW", 100000)
        for _ in range(50):
            client.ok("EMAPPEND", key, one, "A", two, "B", one, "C")
        got = client.messages(150)
        assert [m[2]["partition_sequence"] for m in got] == list(range(start, start + 150))
        assert [m[2]["event_name"] for m in got] == [b"A", b"B", b"C"] * 50


def test_slow_subscribers_hold_up_nobody(node, names, memory_counts, slowness):
    """One with WINDOW 1 that never acknowledges, one that never reads; a third gets all, and appends stay quick."""
    stream = names()
    netd = node.child("netd")
    with node.client(timeout=30.0) as writer, node.client() as window, node.client(timeout=30.0) as good:
        subscribe(window, "ESUB", stream, "FROM", 0, "WINDOW", 1)
        deaf = node.client(rcvbuf=4096)
        deaf.send("ESUB", stream, "FROM", 0, "WINDOW", 10000000)
        subscribe(good, "ESUB", stream, "FROM", 0, "WINDOW", 10000000)
        before = process_rss(netd)
        payload = random.Random(1).randbytes(20000)
        begin = time.monotonic()
        append(writer, stream, 3000, payload=payload)  # 60 MB through a node whose deaf client reads nothing
        took = time.monotonic() - begin
        got = good.messages(3000, timeout=30.0)
        assert versions(got) == list(range(3000))
        assert versions(window.messages(1)) == [0]
        assert window.silent(0.1)
        grown = process_rss(netd) - before
        assert grown < 100 << 20 or not memory_counts, f"netd grew by {grown >> 20} MiB"
        assert took < 20.0 * slowness, f"{took:.1f} s"
        one = time.monotonic()
        writer.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", 2999)
        assert time.monotonic() - one < 1.0
        deaf.close()


def test_deaf_subscriber_gets_all_when_it_reads_again(node, names):
    """Or it was closed at the output limit; a gap or a repeat it never sees."""
    stream = names()
    with node.client(timeout=30.0) as writer:
        deaf = node.client(rcvbuf=4096, timeout=20.0)
        deaf.send("ESUB", stream, "FROM", 0, "WINDOW", 10000000)
        payload = random.Random(1).randbytes(5000)
        append(writer, stream, 4000, payload=payload)
        assert not isinstance(deaf.reply(), Error)
        got = []
        try:
            got = [m[2]["stream_version"] for m in deaf.messages(4000, timeout=20.0)]
        except resp.Closed:
            pass
        assert got == list(range(len(got)))
        deaf.close()


def test_lagging_latest_subscriber_loses_nothing(node, names):
    """The original lost 738 of 1,250 events of a partition that a LATEST subscriber had not seen before."""
    partitions = (27, 28)
    streams = {p: ids.stream_in_partition(names() + "-lag", p) for p in partitions}
    with node.client(timeout=30.0) as writer, node.client(timeout=30.0) as client:
        starts = {p: (lambda v: 0 if v is None else v + 1)(writer.cmd("EPSEQ", p)) for p in partitions}
        subscription = subscribe(client, "EPSUB", "*", "WINDOW", 1)
        for at in range(0, 1250, 250):
            for stream in streams.values():
                append(writer, stream, 250, at)
        got = client.messages(2500, timeout=30.0, ack=1)
        assert [m[1] for m in got] == list(range(2500)) and {m[0] for m in got} == {subscription}
        for p in partitions:
            mine = [m[2]["partition_sequence"] for m in got if m[2]["partition_id"] == p]
            assert mine == list(range(starts[p], starts[p] + 1250))


def test_latest_after_a_restart_has_no_history(start, names):
    node = start({"bucket.count": 2})
    stream = names()
    with node.client() as client:
        append(client, stream, 30)
    node.stop()
    node.start()
    with node.client() as client:
        subscribe(client, "EPSUB", "*")
        subscribe(client, "ESUB", stream)
        append(client, stream, 2, 30)
        assert sorted(versions(client.messages(4))) == [30, 30, 31, 31]
        assert client.silent(0.2)
    node.stop()


def test_killed_bucket_leaves_no_gap(start, names):
    """kill -9 of a bucketd, again and again, under subscribers and writers: no gap, no repeat, no error."""
    node = start({"segment.size_bytes": 131072, "supervisor.restart_backoff_ms_max": 100,
                  "supervisor.crash_limit": 1000})
    streams = [names() for _ in range(4)]
    follow = node.client(timeout=60.0)
    subscribe(follow, "EPSUB", "*", "FROM", "MAP", "0=0", "DEFAULT", 0, "WINDOW", 50)
    latest = node.client(timeout=60.0)
    subscribe(latest, "EPSUB", "*", "WINDOW", 1000000)
    single = node.client(timeout=60.0)
    subscribe(single, "ESUB", streams[0], "FROM", 0, "WINDOW", 33)
    results = {}

    def read(label, client, count, ack):
        try:
            results[label] = client.messages(count, timeout=60.0, ack=ack)
        except Exception as error:  # shown by the test's thread
            results[label] = error

    readers = [threading.Thread(target=read, args=("follow", follow, 20000, 25)),
               threading.Thread(target=read, args=("latest", latest, 20000, None)),
               threading.Thread(target=read, args=("single", single, 5000, 11))]
    for reader in readers:
        reader.start()
    threads, errors = run_writers(node, streams, 5000, batch=10)
    rng = random.Random(9)
    kills = 0
    while any(thread.is_alive() for thread in threads) and kills < 40:
        bucket = rng.randrange(4)
        pid = node.kill_child(bucket)
        node.wait_child_replaced(bucket, pid)
        kills += 1
        time.sleep(0.05)  # some work between the kills
    for thread in [*threads, *readers]:
        thread.join()
    assert not errors, errors
    assert kills > 3
    for label in ("follow", "latest"):
        assert isinstance(results[label], list), (label, results[label])
        assert [m[1] for m in results[label]] == list(range(20000))
        seen = {}
        for message in results[label]:
            seen.setdefault(message[2]["partition_id"], []).append(message[2]["partition_sequence"])
        for p, sequences in seen.items():
            assert sequences == list(range(len(sequences))), (label, p)
    assert isinstance(results["single"], list), results["single"]
    assert versions(results["single"]) == list(range(5000))
    for client in (follow, latest, single):
        client.close()
    node.stop()


def test_disconnect_frees_everything(node, name, memory_counts):
    """2,000 subscriptions of connections that went away leave nothing behind that costs."""
    netd = node.child("netd")
    with node.client() as writer:
        append(writer, name, 5)

        def round_of_subscribers():
            for _ in range(20):
                with node.client() as client:
                    for reply in client.pipeline([("ESUB", name, "FROM", 0)] * 50):
                        assert not isinstance(reply, Error)

        round_of_subscribers()
        wait_for("the first round is gone", lambda: writer.ok("CLIENT", "LIST").count(b"\n") <= 2, 5.0)
        before = process_rss(netd)
        round_of_subscribers()
        wait_for("the second round is gone", lambda: writer.ok("CLIENT", "LIST").count(b"\n") <= 2, 5.0)
        assert process_rss(netd) - before < 8 << 20 or not memory_counts


def test_live_latency(node, name, slowness):
    """A live event reaches its subscriber soon after the append's own answer."""
    with node.client() as writer, node.client() as client:
        subscribe(client, "ESUB", name, "FROM", 0)
        spans = []
        for i in range(100):
            writer.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
            begin = time.monotonic()
            client.messages(1)
            spans.append(time.monotonic() - begin)
        assert sorted(spans)[50] < 0.02 * slowness, f"median {sorted(spans)[50] * 1000:.1f} ms"


def test_many_streams_in_one_subscription(node, names):
    streams = [names() for _ in range(300)]
    with node.client(timeout=30.0) as client:
        for reply in client.pipeline([("EAPPEND", s, "E", "EXPECTED_VERSION", "empty") for s in streams]):
            assert not isinstance(reply, Error)
        subscribe(client, "ESUB", *streams, "FROM", 0)
        got = client.messages(300)
        assert sorted(m[2]["stream_id"].decode() for m in got) == sorted(streams)
        client.pipeline([("EAPPEND", s, "E", "EXPECTED_VERSION", 0) for s in streams])
        client.pushes = [push for push in client.pushes if push[0] == b"message"]
        got = client.messages(300)
        assert sorted(m[2]["stream_id"].decode() for m in got) == sorted(streams)
