"""Clocks that jump or run too fast (clock.py): nothing but timestamps may look odd."""

import time

from checker import SECOND
from history import now
from nodes import BUCKETS
from scenario import scenario
from trial import Direct
from workload import ACTIVE, KEYS

JUMPS = {"+3600": 3600, "-3600": -3600, "+10y": 10 * 365 * 86400, "-10y": -10 * 365 * 86400}


def wall_of_appends(trial, node):
    """How far the timestamps of events appended through this node now are from the true time, in seconds, by bucket."""
    out = {}
    with Direct(node) as direct:
        for p in range(BUCKETS):
            stream = f"clock{trial.own}"
            reply = direct.cmd("EAPPEND", stream, trial.mine(p, stream), "EXPECTED_VERSION", "empty", "PARTITION_KEY",
                               KEYS[p])
            trial.took(reply)
            out[p] = reply[b"timestamp"] / 1000 - time.time()
    return out


@scenario(clocks=True)
def clock_jumps(trial):
    """Wall clocks jump by an hour and by ten years, on one node, then on all, back and forth each second"""
    cluster, start = trial.cluster, now()
    for number, node in enumerate(cluster.nodes):
        for offset, seconds in list(JUMPS.items()) if trial.level == "long" else list(JUMPS.items())[number::2]:
            trial.fault(f"clock of node {node.index} {offset}")
            node.clock.set(offset)
            trial.wait_progress(f"with the clock of node {node.index} at {offset}", timeout=10.0)
            seen = wall_of_appends(trial, node).values()
            trial.expect(any(abs(skew - seconds) < abs(seconds) / 5 for skew in seen),
                         f"the clock of node {node.index} is at {offset}: {seen}")
            node.clock.set("+0")
            trial.wait_progress(f"with the clock of node {node.index} set right", timeout=10.0)
    for number in range(trial.rounds(10, 60)):
        offset = list(JUMPS)[number % len(JUMPS)] if number % 2 == 0 else "+0"
        for node in cluster.nodes:
            node.clock.set(offset if node.index == number // 2 % cluster.count or number % 4 == 0 else "+0")
        trial.fault(f"clocks {offset}")
        trial.run_for(1.0)
    end_jumps(trial, start, "clock jumps")


@scenario(clocks=True)
def clock_and_restart(trial):
    """A node is started while its clock is ten years ahead, then with the right time, and then loses its disk"""
    cluster, start = trial.cluster, now()
    node = cluster.nodes[1]
    for offset in ("+10y", "+0", "-10y", "+0"):
        trial.fault(f"node {node.index} starts at {offset}")
        node.kill()
        node.clock.set(offset)
        node.start()
        trial.wait_progress(f"with a node that started at {offset}")
        cluster.wait_settled(30.0)
    trial.fault(f"node {node.index} starts without its data")
    node.kill()
    node.wipe()
    node.start()
    trial.wait_progress("with a node that lost its data")
    cluster.wait_settled(30.0)
    end_jumps(trial, start, "clock and restart")


@scenario(clocks=True)
def clock_fast(trial):
    """All time runs twice as fast on the node that leads most"""
    cluster, start = trial.cluster, now()
    node = cluster.nodes[0]
    trial.fault(f"time runs twice as fast on node {node.index}")
    node.kill()
    node.clock.monotonic_too(True)
    node.clock.set("+0 x2")
    node.start()
    cluster.wait_settled()
    ahead = []
    for _ in range(2):
        ahead.append(node.status()["processes"][0]["uptime_ms"] / 1000 - time.monotonic())
        trial.run_for(6.0)
    trial.expect(ahead[1] - ahead[0] > 3.0, f"its time really runs faster: {ahead}")
    trial.wait_progress("with a node in a hurry")
    trial.run_for(trial.rounds(4.0, 60.0))
    end_jumps(trial, start, "clock fast")


def end_jumps(trial, start, label):
    for node in trial.cluster.nodes:
        node.clock.set("+0")
    end = now()
    trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    gaps = [trial.gap(bucket, start, end) for bucket in range(BUCKETS)]
    trial.say(f"{label}: longest gap in a bucket {max(gaps):.2f} s in {(end - start) / SECOND:.0f} s; clients were "
              f"told {trial.refusals() or 'nothing else'}; {ACTIVE} partitions")
