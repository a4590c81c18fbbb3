"""What clients may rely on: answers, ids, acknowledgements, subscriptions."""

import os
import random
import signal
import time

import hiredis

from nodes import BUCKETS, wait_for
from scenario import outage, scenario
from support import ids
from trial import Direct, percentile
from workload import ACTIVE, KEYS


@scenario(quick=True)
def answers(trial):
    """No faults: refusals keep their codes on every node, ids are stored once, LATEST begins at the end, at once"""
    cluster = trial.cluster
    for node in cluster.nodes:
        refusals_keep_codes(trial, node)
    one_id_everywhere(trial)
    for node in cluster.nodes:
        latest_is_live(trial, node)
    trial.healed()
    trial.finish()


def refusals_keep_codes(trial, node):
    with Direct(node) as direct:
        for p in range(ACTIVE):
            key, stream = KEYS[p], f"codes{node.index}"
            words = ["PARTITION_KEY", key]

            def told(*parts, key=words):
                reply = direct.cmd("EAPPEND", *parts, *key)
                return str(reply).split(" ", 1)[0] if isinstance(reply, hiredis.HiredisError) else reply
            reply = told(stream, trial.mine(p, stream), "EXPECTED_VERSION", "empty")
            trial.took(reply)
            trial.expect(told(stream, "no.0", "EXPECTED_VERSION", "empty") == "WRONGVER", "WRONGVER is passed on")
            trial.expect(told(stream, "n" * 256, "EXPECTED_VERSION", "0") == "INVALIDARG", "a name of 256 bytes")
            other = ids.key_for_partition(p, 32, salt=999)
            code = told(stream, "no.0", "EXPECTED_VERSION", "0", key=["PARTITION_KEY", str(other)])
            trial.expect(code == "INVALIDARG", f"another key for a stream: {code}")
            given = reply[b"event_id"].decode() if isinstance(reply, dict) else "?"
            code = told(f"{stream}x", "no.0", "EXPECTED_VERSION", "empty", "EVENT_ID", given)
            trial.expect(code == "EXISTS", f"an id that is stored already, with other content: {code}")
            big = os.urandom(40000)
            trial.took(told(f"big{node.index}", trial.mine(p, f"big{node.index}", big), "EXPECTED_VERSION", "empty",
                            "PAYLOAD", big))


def one_id_everywhere(trial):
    """The same append by way of all nodes at once: one event, one answer."""
    for p in range(ACTIVE):
        event_id = str(ids.event_id(KEYS[p], 0xABCDEF00 + p))
        name = trial.mine(p, "once", event_id=event_id)
        directs = [Direct(node) for node in trial.cluster.nodes]
        for direct in directs:
            direct.sock.sendall(hiredis.pack_command(("EAPPEND", "once", name, "EXPECTED_VERSION", "empty", "EVENT_ID",
                                                      event_id, "PARTITION_KEY", KEYS[p])))
        replies = [direct.cmd("PING") for direct in directs]  # the append's answer comes first
        trial.expect(all(isinstance(reply, dict) for reply in replies)
                     and len({reply[b"partition_sequence"] for reply in replies}) == 1, f"one id, all nodes: {replies}")
        for direct in directs:
            direct.sock.close()


def latest_is_live(trial, node):
    """A LATEST subscriber on this node gets nothing old, and the next event at once."""
    stream = f"latest{node.index}"
    with Direct(node) as reader, Direct(trial.cluster.nodes[(node.index + 1) % trial.cluster.count]) as writer:
        retry(lambda: reader.cmd("ESUB", stream, "PARTITION_KEY", KEYS[1], "FROM", "LATEST"))
        times = []
        for number in range(10):
            begin = time.monotonic()
            reply = writer.cmd("EAPPEND", stream, trial.mine(1, stream, version=number), "EXPECTED_VERSION",
                               "empty" if number == 0 else str(number - 1), "PARTITION_KEY", KEYS[1])
            trial.took(reply)
            push = reader.push()
            times.append(time.monotonic() - begin)
            trial.expect(push[3][b"stream_version"] == number, f"LATEST on node {node.index}: {push!r}")
        trial.say(f"a subscriber on node {node.index}: event sent to event received p50 "
                  f"{percentile(times, 0.5) * 1000:.1f} ms, max {max(times) * 1000:.1f} ms")


@scenario()
def acked_then_killed(trial):
    """The leader dies right after it acknowledged: the event is there on every node, and later ones too"""
    cluster = trial.cluster
    key = KEYS[0]
    for number in range(trial.rounds(4, 20)):
        node = cluster.nodes[cluster.leader(0)]
        pid, stream = node.child(0), f"acked{number}"
        with Direct(node) as direct:
            reply = direct.cmd("EAPPEND", stream, f"{trial.mine(0, stream)}", "EXPECTED_VERSION", "empty",
                               "PARTITION_KEY", key)
            os.kill(pid, signal.SIGKILL)
        trial.fault(f"leader killed behind acknowledged {stream}")
        event_id = reply[b"event_id"].decode()
        trial.took(reply)
        for other in cluster.nodes:
            with Direct(other) as direct:
                found = retry(lambda d=direct: d.cmd("EGET", event_id))
                trial.expect(found is not None and found[b"stream_id"].decode() == stream,
                             f"round {number}: acknowledged {event_id} on node {other.index}: {found!r}")
        trial.wait_progress("after the kill")
        cluster.wait_settled()
    trial.healed()
    trial.finish()


def retry(step, timeout=10.0):
    """The first answer that is none of "try again"."""
    def works():
        reply = step()
        return (reply,) if not isinstance(reply, hiredis.HiredisError) else None
    return wait_for("an answer", works, timeout, 0.005)[0]


@scenario(config={"segment.size_bytes": 131072}, pause_ms=10.0)
def rollover(trial):
    """Segments of 128 KiB, so that rollover never stops, while leaders' and followers' processes are killed"""
    cluster, rng = trial.cluster, random.Random(trial.seed)
    faults = []
    for _ in range(trial.rounds(6, 30)):
        bucket, node = rng.randrange(BUCKETS), rng.choice(cluster.nodes)
        hit = [bucket] if cluster.leader(bucket) == node.index else []
        pid = node.child(bucket)
        faults.append((trial.fault(f"bucketd {bucket} of node {node.index} killed"), hit))
        os.kill(pid, signal.SIGKILL)
        trial.wait_progress("after the kill")
    cluster.wait_settled()
    segments = sum(len(paths) for paths in cluster.nodes[0].segments().values())
    trial.say(f"rollover: {segments} segments on node 0")
    trial.expect(segments > trial.rounds(10, 40), "many segments")
    sealed_by_id(trial)
    trial.healed()
    trial.finish()
    outage(trial, "rollover", faults)


def sealed_by_id(trial):
    """The first event of each partition, long sealed, by its id on every node."""
    for node in trial.cluster.nodes:
        with Direct(node) as direct:
            for p in range(ACTIVE):
                first = direct.cmd("EPSCAN", str(p), "0", "0")[b"events"][0]
                found = direct.cmd("EGET", first[b"event_id"].decode())
                trial.expect(found == first, f"node {node.index}: partition {p}'s first event by its id: {found!r}")
