"""A node that lost its disk gets everything again while the load goes on."""

import os
import time

import hiredis

from checker import SECOND
from history import now
from nodes import BUCKETS, process_stat, wait_for
from scenario import busiest, scenario
from trial import Direct, percentile
from workload import ACTIVE, KEYS

EVENT_BYTES = 64 << 10
PIPELINE = 4
CATCHUP_GOAL = 50.0  # MB/s
MB = 1_000_000


def fill(trial, total_bytes):
    """So much in events of 64 KiB that can't be compressed, the same for each partition."""
    source = os.urandom(4 << 20)
    directs = [Direct(node, 60.0) for node in trial.cluster.nodes]
    for first in range(0, total_bytes // EVENT_BYTES, PIPELINE * ACTIVE):
        sent = [[] for _ in directs]
        for number in range(first, first + PIPELINE * ACTIVE):
            p, stream, at = number % ACTIVE, f"fill{number}", number * 4099 % (len(source) - EVENT_BYTES)
            payload = source[at:at + EVENT_BYTES]
            name = trial.mine(p, stream, payload)
            sent[p % len(directs)].append(trial.sent)
            directs[p % len(directs)].sock.sendall(hiredis.pack_command(
                ("EAPPEND", stream, name, "EXPECTED_VERSION", "empty", "PARTITION_KEY", KEYS[p], "PAYLOAD", payload)))
        for direct, lines in zip(directs, sent):
            for trial.sent in lines:
                trial.took(direct.next())
    for direct in directs:
        direct.sock.close()


@scenario(quick=True, config={"cluster.balance_leaders": False})
def catch_up(trial):
    """A node without data is fed: 128 MiB, with --long 1 GiB; no election, and appends go on as before"""
    cluster = trial.cluster
    mib = trial.rounds(128, 1024, quick=32)
    begin = time.monotonic()
    fill(trial, mib << 20)
    trial.say(f"catch-up: {mib} MiB were stored at {(mib << 20) / MB / (time.monotonic() - begin):.0f} MB/s")
    cluster.wait_settled(60.0)
    index = min(range(cluster.count), key=lambda i: (list(cluster.leaders().values()).count(i), i))
    node = cluster.nodes[index]
    trial.fault(f"node {index} killed and wiped")
    node.kill()
    node.wipe()
    trial.wait_progress("with a node away")
    before = now()
    trial.run_for(5.0)
    terms = wait_for("terms", lambda: terms_of(cluster, busiest(cluster)), 10.0)
    cpu = cpu_seconds(cluster)
    start = trial.fault(f"node {index} starts empty")
    node.start()
    cluster.wait_ready(index, 300.0)
    end = now()
    took = (end - start) / SECOND
    stored = sum(os.path.getsize(path) for paths in node.segments().values() for path in paths)
    used = {name: seconds - cpu.get(name, 0.0) for name, seconds in cpu_seconds(cluster).items()}
    cluster.wait_settled(60.0)
    later = terms_of(cluster, index)
    trial.healed()
    trial.finish()
    rate = (mib << 20) / MB / took
    trial.say(f"catch-up: {rate:.0f} MB/s of payload, {took:.2f} s from the start to ready (goal >= {CATCHUP_GOAL:.0f}"
              f"; {stored / MB:.0f} MB of files); CPU meanwhile: "
              + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(used.items()) if seconds > 0.2))
    p99 = [percentile(trial.latencies(range(BUCKETS), since, until), 0.99) * 1000
           for since, until in ((before, start), (start, end))]
    trial.say(f"catch-up: p99 of the probes {p99[0]:.0f} ms before, {p99[1]:.0f} ms meanwhile; terms {terms} before, "
              f"{later} after")
    trial.goal(rate >= CATCHUP_GOAL, f"catch-up at {CATCHUP_GOAL:.0f} MB/s")
    trial.goal(terms == later, "no election while a node is fed")


def terms_of(cluster, ask):
    report = cluster.report(ask)
    return report and [bucket["term"] for bucket in report["buckets"]]


def cpu_seconds(cluster):
    return {f"n{node.index}-{name}": process_stat(pid)[2] for node in cluster.alive()
            for name, pid in node.children().items()}
