"""Disks that lose what wasn't synced, that lie about it, or are slow (disk.py)."""

import os
import random
import signal

from checker import SECOND
from history import now
from nodes import BUCKETS
from scenario import busiest, led_by, scenario
from trial import percentile

SLOW_MS = 200


def power_cut(trial, nodes, seed=0):
    """All of these nodes' processes end at once, and what they didn't sync is lost; then they start. Returns what was
    lost."""
    for pid in [pid for node in nodes for pid in node.pids()]:
        os.kill(pid, signal.SIGKILL)
    lost = {}
    for node in nodes:
        node.kill()
    for node in nodes:
        for name, count in node.disk.cut(seed and seed + node.index).items():
            lost[name] = lost.get(name, 0) + count
    for node in nodes:
        node.start()
    return lost


@scenario(quick=True, power=True, config={"segment.size_bytes": 1 << 20})
def power(trial):
    """The power of all nodes fails at once: what wasn't synced is lost, all of it or at random"""
    cluster, rng = trial.cluster, random.Random(trial.seed)
    times, lost = [], {}
    for number in range(trial.rounds(5, 50, quick=2)):
        for node in cluster.nodes:  # some syncs are under way when it happens
            node.disk.slow(rng.choice([0, 5, 20]))
        trial.run_for(rng.random())
        start = trial.fault(f"power cut {number}")
        for name, count in power_cut(trial, cluster.nodes, 0 if number % 2 == 0 else rng.randrange(1, 1 << 31)).items():
            lost[name] = lost.get(name, 0) + count
        for node in cluster.nodes:
            node.disk.slow(0)
        trial.wait_progress("after the power cut")
        times.append((now() - start) / SECOND)
        cluster.wait_settled()
    trial.say(f"power: {len(times)} cuts of all nodes: {lost['pieces'] - lost['pieces_kept']} pieces of 512 bytes and "
              f"{lost['names'] - lost['names_kept']} names were lost, {lost['pieces_kept']} and {lost['names_kept']} "
              f"that weren't synced stayed; appends in every bucket after {max(times):.2f} s at most, starts included")
    trial.expect(lost["pieces"] > 0, "there was something to lose")
    one = cluster.nodes[busiest(cluster)]
    trial.fault(f"power cut of node {one.index}")
    power_cut(trial, [one], rng.randrange(1, 1 << 31))
    trial.wait_progress("after the power cut of one node")
    cluster.wait_settled()
    trial.healed()
    trial.finish()


@scenario(quick=True, power=True, subscribers=0, config={"segment.size_bytes": 1 << 20})
def power_lie(trial):
    """The same with disks that only say that they sync: the checker must find the loss, or `power` proves nothing"""
    cluster = trial.cluster
    for node in cluster.nodes:
        node.disk.lie(True)
    trial.run_for(2.0)
    trial.fault("power cut")
    power_cut(trial, cluster.nodes)
    for node in cluster.nodes:
        node.disk.lie(False)
    cluster.wait_settled()
    trial.healed(30.0)
    trial.end()
    trial.say(f"disks that lie: the checker found {trial.counts}")
    trial.expect(trial.counts.get("lost", 0) > 0, "the loss of acknowledged events is found")


@scenario(power=True)
def slow_disk(trial):
    """Each sync takes 200 ms for some time, first on a node that follows, then on the one that leads most"""
    cluster = trial.cluster
    most = busiest(cluster)
    follower = min(cluster.nodes, key=lambda node: len(led_by(cluster, node.index))).index
    faults = []
    for label, index, seconds in (("follower", follower, 8.0), ("leader", most, 15.0)):
        trial.run_for(5.0)
        led = led_by(cluster, index)
        start = trial.fault(f"syncs of node {index} take {SLOW_MS} ms")
        cluster.nodes[index].disk.slow(SLOW_MS)
        trial.run_for(seconds)
        trial.say(f"slow disk: node {index}, the {label}, led {led} before and {led_by(cluster, index)} at the end")
        faults.append((label, led, start, trial.fault("fast again")))
        cluster.nodes[index].disk.slow(0)
        cluster.wait_settled()
    trial.healed()
    trial.finish()
    for label, led, start, end in faults:
        buckets = led if label == "leader" else [bucket for bucket in range(BUCKETS) if bucket not in led]
        spans = [("before", start - 4 * SECOND, start), ("in the first 5 s", start, start + 5 * SECOND),
                 ("then", start + 5 * SECOND, end)]
        p99 = {name: percentile(trial.latencies(buckets, since, until), 0.99) * 1000 for name, since, until in spans}
        trial.say(f"slow disk: {label}, p99 of the probes to buckets {buckets}: "
                  + ", ".join(f"{ms:.0f} ms {name}" for name, ms in p99.items())
                  + f" ({p99['then'] / p99['before']:.2f} times)")
