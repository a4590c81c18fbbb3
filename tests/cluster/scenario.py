"""What scenarios are made of: the list of them, goals, and what several of them do."""

import os

import clock
import disk
import network
from checker import SECOND
from nodes import BUCKETS
from trial import percentile

GAP_LEADER_S = 2.0   # writes to a bucket whose leader was killed flow again
GAP_GOAL_S = 1.0
PAUSE_OTHERS_S = 0.5  # p99 of the other buckets' probes meanwhile
READY_S = 3.0        # a node that returns answers from its own replicas
NO_QUORUM_S = 0.3    # a refusal without a quorum is no timeout

SCENARIOS = {}


class Scenario:
    def __init__(self, run, network, quick, options):
        self.name = run.__name__.replace("_", "-")
        self.run, self.network, self.quick, self.options = run, network, quick, options
        self.text = run.__doc__.split("\n")[0]

    def why_not(self):
        """Why it can't run here; empty: it can."""
        reasons = [network.why_not() if self.network == "namespaces" else "",
                   disk.why_not() if self.options.get("power") else "",
                   clock.why_not() if self.options.get("clocks") else "",
                   "mounting needs root" if self.options.get("tmpfs") and os.geteuid() != 0 else ""]
        return "; ".join(reason for reason in reasons if reason)


def scenario(network="loopback", quick=False, **options):
    """options: of the Trial (config, tmpfs, load), and nodes."""
    def add(run):
        made = Scenario(run, network, quick, options)
        SCENARIOS[made.name] = made
        return run
    return add


def outage(trial, label, faults, others=True):
    """Figures of faults: [(time, buckets whose leader was hit)]; the goals."""
    hit, rest, pauses, slow = [], [], [], []
    for (start, buckets), (later, _) in zip(faults, faults[1:] + [(1 << 63, [])]):
        end = min(start + 5 * SECOND, later)
        hit += [trial.gap(bucket, start, end) for bucket in buckets]
        spared = [bucket for bucket in range(BUCKETS) if bucket not in buckets]
        rest += [trial.gap(bucket, start, end) for bucket in spared]
        pauses += trial.latencies(spared, start, end)
    slow = percentile(pauses, 0.99)
    trial.say(f"{label}: write gap of {len(hit)} buckets whose leader was hit: p50 {percentile(hit, 0.5):.2f} s, p99 "
              f"{percentile(hit, 0.99):.2f} s, max {max(hit, default=0):.2f} s (goal < {GAP_LEADER_S}, better "
              f"{GAP_GOAL_S})")
    if rest:
        trial.say(f"{label}: the other buckets: gap p50 {percentile(rest, 0.5):.2f} s, max {max(rest):.2f} s; probes "
                  f"p50 {percentile(pauses, 0.5) * 1000:.0f} ms, p99 {slow * 1000:.0f} ms (goal < "
                  f"{PAUSE_OTHERS_S * 1000:.0f})")
    trial.goal(max(hit, default=0) < GAP_LEADER_S, f"{label}: writes flow again in {GAP_LEADER_S} s")
    if others and rest:
        trial.goal(slow < PAUSE_OTHERS_S, f"{label}: p99 of the other buckets below {PAUSE_OTHERS_S} s")


def show_votes(trial, other):
    """A rebuilt node's new disk must count: with another node away there is a quorum only by its votes."""
    trial.fault(f"node {other.index} killed")
    other.kill()
    trial.wait_progress("with the rebuilt node's votes", timeout=15.0)
    other.start()
    trial.cluster.wait_settled()


def led_by(cluster, index):
    return [bucket for bucket, node in cluster.leaders().items() if node == index]


def busiest(cluster):
    """The node that leads most buckets."""
    leaders = list(cluster.leaders().values())
    return max(set(leaders), key=leaders.count)
