"""Processes and nodes that die, stand still or are stopped."""

import os
import random
import signal
import time

from checker import SECOND
from history import now
from nodes import BUCKETS, process_alive, replicas_of, wait_for
from scenario import READY_S, busiest, led_by, outage, scenario
from trial import Direct, percentile
from workload import ACTIVE


@scenario(quick=True)
def bucketd_killed(trial):
    """SIGKILL of the leader's bucketd, one bucket after the other"""
    faults = []
    for number in range(trial.rounds(10, 200, quick=3)):
        bucket = number % BUCKETS
        node = trial.cluster.nodes[trial.cluster.leader(bucket)]
        pid = node.child(bucket)
        faults.append((trial.fault(f"bucketd {bucket} of node {node.index} killed"), [bucket]))
        os.kill(pid, signal.SIGKILL)
        trial.wait_progress("after the kill")
        trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "bucketd killed", faults)


@scenario(quick=True)
def node_killed(trial):
    """SIGKILL of the node that leads most, and its return"""
    faults, ready, fresh = [], [], []
    for _ in range(trial.rounds(2, 5)):
        index = busiest(trial.cluster)
        node, buckets = trial.cluster.nodes[index], led_by(trial.cluster, index)
        faults.append((trial.fault(f"node {index} killed"), buckets))
        node.kill()
        trial.wait_progress("after the kill")
        trial.run_for(2.0)
        fresh.append(time_to_fresh(trial, node))
        ready.append(trial.cluster.wait_ready(index) + fresh[-1])
        trial.cluster.wait_settled()
    trial.say(f"a killed node that returns: first fresh read through it after {max(fresh):.2f} s at most, its own "
              f"replicas ready after {max(ready):.2f} s (goal < {READY_S} s)")
    trial.goal(max(ready) < READY_S, f"a returning node is ready in {READY_S} s")
    trial.healed()
    trial.finish()
    outage(trial, "node killed", faults)


def time_to_fresh(trial, node):
    """Starts a stopped node; seconds until a read through it shows what was acknowledged before the start."""
    others = [other for other in trial.cluster.nodes if other.process is not None]
    with Direct(others[0]) as direct:
        lasts = {p: direct.cmd("EPSEQ", str(p)) for p in range(ACTIVE)}
    begin = time.monotonic()
    node.start()

    def fresh():
        node.check_runs()
        try:
            with Direct(node, 2.0) as direct:
                replies = {p: direct.cmd("EPSEQ", str(p)) for p in range(ACTIVE)}
        except OSError:
            return False
        old = {p: (reply, lasts[p]) for p, reply in replies.items()
               if isinstance(reply, int) and reply < (lasts[p] or 0)}
        trial.expect(not old, f"node {node.index} answers from the past: {old}")
        return all(isinstance(reply, int) for reply in replies.values())
    wait_for(f"fresh reads through node {node.index}", fresh, 30.0, 0.01)
    return time.monotonic() - begin


@scenario()
def netd_killed(trial):
    """SIGKILL of a node's netd"""
    faults = []
    for number in range(trial.rounds(3, 9)):
        index = busiest(trial.cluster) if number % 2 == 0 else (busiest(trial.cluster) + 1) % trial.cluster.count
        node = trial.cluster.nodes[index]
        buckets, pid = led_by(trial.cluster, index), node.child("netd")
        faults.append((trial.fault(f"netd of node {index} killed"), buckets))
        os.kill(pid, signal.SIGKILL)
        trial.wait_progress("after the kill")
        trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "netd killed", faults)


@scenario()
def supervisor_killed(trial):
    """SIGKILL of a node's supervisor: all of the node ends, and is started again"""
    index = busiest(trial.cluster)
    node, buckets = trial.cluster.nodes[index], led_by(trial.cluster, index)
    children = list(node.children().values())
    faults = [(trial.fault(f"supervisor of node {index} killed"), buckets)]
    os.kill(node.pid, signal.SIGKILL)
    begin = time.monotonic()
    wait_for("the children's end", lambda: not any(process_alive(pid) for pid in children), 5.0, 0.005)
    trial.say(f"supervisor killed: its children are gone after {time.monotonic() - begin:.2f} s")
    node.kill()
    trial.wait_progress("after the kill")
    node.start()
    trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "supervisor killed", faults)


@scenario(quick=True, config={"segment.size_bytes": 1 << 20})
def all_killed(trial):
    """All nodes killed at once, and started"""
    longest = []
    for _ in range(trial.rounds(10, 100, quick=2)):
        pids = [pid for node in trial.cluster.nodes for pid in node.pids()]
        start = trial.fault("all nodes killed")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for node in trial.cluster.nodes:
            node.kill()
            node.start()
        trial.wait_progress("after all were killed")
        longest.append((now() - start) / SECOND)
        trial.cluster.wait_settled()
    trial.say(f"all killed: acknowledged appends in every bucket after {max(longest):.2f} s at most, starts included")
    trial.healed()
    trial.finish()


# --- Pauses ---

@scenario()
def bucketd_paused(trial):
    """SIGSTOP for 10 s of a leader's bucketd; then it goes on"""
    faults = []
    for bucket in range(trial.rounds(1, BUCKETS)):
        node = trial.cluster.nodes[trial.cluster.leader(bucket)]
        faults.append((trial.fault(f"bucketd {bucket} of node {node.index} paused"), [bucket]))
        go_on = node.pause(bucket)
        trial.run_for(10.0)
        trial.fault("goes on")
        go_on()
        trial.wait_progress("after the pause")
        trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "bucketd paused", faults)


@scenario()
def node_paused(trial):
    """SIGSTOP for 10 s of all processes of the node that leads most"""
    pause_all(trial, None, "node")


@scenario()
def netd_paused(trial):
    """SIGSTOP for 10 s of the netd of the node that leads most"""
    pause_all(trial, "netd", "netd")


@scenario()
def supervisor_paused(trial):
    """SIGSTOP for 10 s of the supervisor of the node that leads most: nobody notices"""
    pause_all(trial, "supervisor", "supervisor", [])


def pause_all(trial, which, label, hit=None):
    index = busiest(trial.cluster)
    buckets = led_by(trial.cluster, index) if hit is None else hit
    faults = [(trial.fault(f"{label} of node {index} paused"), buckets)]
    go_on = trial.cluster.nodes[index].pause(which)
    trial.run_for(10.0)
    trial.fault("goes on")
    go_on()
    trial.wait_progress("after the pause")
    trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, f"{label} paused", faults)


@scenario(quick=True)
def rolling_restart(trial):
    """SIGTERM to each node in turn under load: leaders hand over first, no client sees an error"""
    cluster, faults, took = trial.cluster, [], []
    for _ in range(trial.rounds(3, 30, quick=1)):
        for node in cluster.nodes:
            faults.append((trial.fault(f"SIGTERM to node {node.index}"), led_by(cluster, node.index)))
            begin = time.monotonic()
            node.stop()
            took.append(time.monotonic() - begin)
            node.start()
            cluster.wait_settled()
    trial.say(f"rolling restart: a node's clean stop took {percentile(took, 0.5):.2f} s, {max(took):.2f} s at most")
    trial.healed()
    trial.finish()
    gaps = [trial.gap(bucket, start, start + 5 * SECOND) for start, _ in faults for bucket in range(BUCKETS)]
    told = {code: count for code, count in trial.refusals().items() if code != "no answer"}
    trial.say(f"rolling restart: longest gap in a bucket: p50 {percentile(gaps, 0.5):.2f} s, max {max(gaps):.2f} s; "
              f"errors told to clients: {told or 'none'}; connections that ended with something unanswered: "
              f"{trial.refusals().get('no answer', 0)}")
    trial.expect(not told, f"no client error in a rolling restart: {told}")
    trial.goal(max(gaps) < 1.5, "gaps of a rolling restart below 1.5 s")


@scenario(config={"cluster.balance_leaders": True, "replication.election_timeout_ms": 300})
def balance(trial):
    """A killed node returns: after 30 timeouts it leads again what it should, by transfer, and no client is refused"""
    cluster = trial.cluster
    wished = {bucket["bucket"]: bucket["replicas"][0]["node"] for bucket in cluster.report()["buckets"]}
    wait_for("leaders where they should be", lambda: cluster.leaders() == wished, 30.0, 0.1)
    index = busiest(cluster)
    trial.fault(f"node {index} killed")
    cluster.nodes[index].kill()
    trial.wait_progress("without the node that leads most")
    cluster.nodes[index].start()
    cluster.wait_settled()
    start, begin = trial.fault("the node is back"), time.monotonic()
    moved = cluster.leaders()
    trial.expect(moved != wished, f"another node leads what it led: {moved}")
    wait_for("leaders where they should be, again", lambda: cluster.leaders() == wished, 60.0, 0.1)
    trial.say(f"balance: leaders are where they should be {time.monotonic() - begin:.1f} s after the node's return")
    trial.run_for(2.0)
    end = now()
    trial.healed()
    trial.finish()
    gaps = [trial.gap(bucket, start, end) for bucket in range(BUCKETS)]
    told = trial.refusals(None, start, end)
    trial.say(f"balance: longest gap in a bucket meanwhile {max(gaps):.2f} s; clients were told {told or 'nothing'}")
    trial.expect(not told, f"no refused write while leaders move: {told}")


@scenario(network="loopback", nodes=5)
def five_nodes(trial):
    """Five nodes, each bucket on three of them: two nodes are killed, one after the other and at once"""
    cluster = trial.cluster
    faults = []
    for number in range(trial.rounds(2, 5)):
        index = busiest(cluster)
        faults.append((trial.fault(f"node {index} killed"), led_by(cluster, index)))
        cluster.nodes[index].kill()
        trial.wait_progress("after the kill")
        cluster.nodes[index].start()
        cluster.wait_settled()
    pair = random.Random(trial.seed).sample(range(cluster.count), 2)
    hurt = [bucket for bucket in range(BUCKETS) if len(holders(cluster, bucket).intersection(pair)) > 1]
    trial.fault(f"nodes {pair} killed; buckets {hurt} have no quorum")
    for index in pair:
        cluster.nodes[index].kill()
    trial.wait_progress("of the buckets with a quorum", buckets=[b for b in range(BUCKETS) if b not in hurt])
    for index in pair:
        cluster.nodes[index].start()
    trial.wait_progress("with all nodes")
    cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "five nodes", faults)


def holders(cluster, bucket):
    return {replica["node"] for replica in replicas_of(cluster.report()) if replica["bucket"] == bucket}
