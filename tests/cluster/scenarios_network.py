"""Links that are cut, slow or lossy; clusters without a quorum."""

import time

import hiredis

from checker import SECOND
from history import now
from network import CLIENT
from nodes import BUCKETS, wait_for
from scenario import NO_QUORUM_S, busiest, led_by, outage, scenario
from trial import Direct, percentile
from workload import ACTIVE, KEYS


@scenario(network="namespaces")
def isolated(trial):
    """The node that leads most is cut off both ways, clients still reach it; then all is well again"""
    cluster, network = trial.cluster, trial.cluster.network
    index = busiest(cluster)
    node, buckets = cluster.nodes[index], led_by(cluster, index)
    start = trial.fault(f"node {index} isolated")
    network.isolate(index)
    others = [other for other in cluster.nodes if other.index != index]
    minority(trial, node, start)
    trial.run_for(max(0.0, 12.0 - (now() - start) / SECOND))
    stale_reads(trial, node)
    trial.fault("healed")
    network.heal()
    begin = time.monotonic()
    cluster.wait_settled()
    trial.say(f"isolated: all replicas level {time.monotonic() - begin:.2f} s after the end of the cut (goal < 3 s)")
    trial.goal(time.monotonic() - begin < 3.0, "logs are equal 3 s after the cut has ended")
    trial.healed()
    trial.finish()
    told = trial.refusals(index, start + 3 * SECOND, start + 10 * SECOND)
    trial.say(f"isolated: what clients of node {index} were told meanwhile: {told}; of the others: "
              f"{[trial.refusals(other.index, start, start + 10 * SECOND) for other in others]}")
    outage(trial, "isolated", [(start, buckets)], others=False)


def minority(trial, node, start):
    """Writes by way of a node without a quorum are refused at once; returns when they first were."""
    def refused(p):
        """Whether it was refused for that reason; what a leader took before it knew is answered later, or never."""
        stream = f"minority{trial.own}"
        with Direct(node, 1.0) as direct:
            try:
                reply = direct.cmd("EAPPEND", stream, trial.mine(p, stream), "EXPECTED_VERSION", "empty",
                                   "PARTITION_KEY", KEYS[p])
            except TimeoutError:
                return False
        if not isinstance(reply, hiredis.HiredisError):
            return trial.took(reply)
        trial.sent.update(ret=now(), result="fail", code=str(reply).split(" ", 1)[0])
        return str(reply).startswith("READONLY no quorum")
    for p in range(BUCKETS):
        wait_for(f"the first -READONLY of bucket {p}", lambda p=p: refused(p), 20.0, 0.01)
    first = (now() - start) / SECOND
    times = []
    for number in range(20):
        begin = time.monotonic()
        trial.expect(refused(number % ACTIVE), "a write without a quorum is refused")
        times.append(time.monotonic() - begin)
    trial.say(f"no quorum: -READONLY first {first:.2f} s after the cut, then in {percentile(times, 0.5) * 1000:.1f} ms "
              f"(p50), {max(times) * 1000:.0f} ms (max)")
    trial.goal(max(times) < NO_QUORUM_S, f"-READONLY at once, within {NO_QUORUM_S} s")


def stale_reads(trial, node):
    """After replication.stale_after_ms without a quorum reads go on."""
    with Direct(node) as direct:
        begin = time.monotonic()
        replies = [direct.cmd("EPSEQ", str(p)) for p in range(ACTIVE)]
        took = time.monotonic() - begin
    trial.expect(all(isinstance(reply, int) for reply in replies), f"reads without a quorum: {replies}")
    trial.say(f"no quorum: {len(replies)} reads answered in {took * 1000:.0f} ms")


@scenario(network="namespaces")
def clients_cut(trial):
    """The node that leads most loses only its clients"""
    cluster, network = trial.cluster, trial.cluster.network
    index = busiest(cluster)
    start = trial.fault(f"clients of node {index} cut")
    network.cut_both(index, CLIENT)
    trial.run_for(6.0)
    network.heal()
    trial.wait_progress("after the cut")
    cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "clients cut", [(start, [])])


@scenario(network="namespaces")
def one_way_cuts(trial):
    """Each of the six directed links is cut in turn"""
    cluster, network = trial.cluster, trial.cluster.network
    faults = []
    for sender in range(cluster.count):
        for receiver in range(cluster.count):
            if sender == receiver:
                continue
            faults.append((trial.fault(f"cut from {sender} to {receiver}"), range(BUCKETS)))
            network.cut(sender, receiver)
            trial.run_for(4.0)
            trial.wait_progress(f"with node {receiver} not hearing node {sender}")
            network.heal()
            cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "one-way cuts", faults)


@scenario(network="namespaces")
def chain(trial):
    """Two nodes that both see the third don't see each other"""
    cluster, network = trial.cluster, trial.cluster.network
    faults = []
    for middle in range(trial.rounds(2, 3)):
        a, b = [index for index in range(cluster.count) if index != middle][:2]
        terms = [bucket["term"] for bucket in cluster.report()["buckets"]]
        faults.append((trial.fault(f"nodes {a} and {b} don't see each other"), range(BUCKETS)))
        network.cut_both(a, b)
        trial.run_for(6.0)
        trial.wait_progress("in a chain")
        later = [bucket["term"] for bucket in cluster.report(middle)["buckets"]]
        trial.say(f"chain with node {middle} in the middle: terms {terms} -> {later}")
        network.heal()
        cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "chain", faults)


@scenario(network="namespaces")
def lossy(trial):
    """50 ms more on every link, 10 ms of it random, and 5 % of packets lost, for 20 s"""
    cluster, network = trial.cluster, trial.cluster.network
    before = elections(cluster)
    start = trial.fault("delay and loss")
    for index in range(cluster.count):
        for other in range(cluster.count):
            if other != index:
                network.lose(other, index, 0.05)
        network.delay(index, 50, 10)
    trial.run_for(20.0)
    trial.wait_progress("with delay and loss", least=5)
    end = now()
    changes = elections(cluster) - before
    network.heal()
    cluster.wait_settled()
    trial.healed()
    trial.finish()
    latencies = trial.latencies(range(BUCKETS), start + SECOND, end)
    per_s = sum(1 for times in trial.times for t in times if start <= t <= end) / ((end - start) / SECOND)
    trial.say(f"lossy: {per_s:.0f} appends/s; probes p50 {percentile(latencies, 0.5) * 1000:.0f} ms, p99 "
              f"{percentile(latencies, 0.99) * 1000:.0f} ms; {changes} terms more in all buckets")
    trial.expect(per_s > 20, "appends go on with delay and loss")
    trial.expect(changes <= 6 * BUCKETS, "few changes of leaders")


def elections(cluster):
    return sum(bucket["term"] for bucket in cluster.report()["buckets"])


@scenario(network="namespaces")
def flapping(trial):
    """One link goes off and on every half second, for 20 s"""
    cluster, network = trial.cluster, trial.cluster.network
    index = busiest(cluster)
    before, start = elections(cluster), trial.fault(f"links of node {index} flap")
    while now() - start < 20 * SECOND:
        network.isolate(index)
        trial.run_for(0.5)
        network.heal()
        trial.run_for(0.5)
    end = now()
    cluster.wait_settled()
    changes = elections(cluster) - before
    trial.healed()
    trial.finish()
    per_s = sum(1 for times in trial.times for t in times if start <= t <= end) / ((end - start) / SECOND)
    trial.say(f"flapping: {per_s:.0f} appends/s meanwhile, {changes} terms more in all buckets")


@scenario()
def no_quorum(trial):
    """Two of three nodes are killed: writes are refused at once, reads and subscriptions go on; then they return"""
    cluster = trial.cluster
    left = cluster.nodes[0]
    start = trial.fault("two nodes killed")
    for node in cluster.nodes[1:]:
        node.kill()
    minority(trial, left, start)
    trial.run_for(max(0.0, 11.0 - (now() - start) / SECOND))
    stale_reads(trial, left)
    for node in cluster.nodes[1:]:
        node.start()
    begin = time.monotonic()
    trial.wait_progress("after the return")
    trial.say(f"no quorum: writes flow {time.monotonic() - begin:.2f} s after the others' start")
    cluster.wait_settled()
    trial.healed()
    trial.finish()
