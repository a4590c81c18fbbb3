"""What is done to clusters under load. Each scenario is one function of a Trial that runs; what it finds goes to
trial.expect and trial.say. SCENARIOS lists them with their network, and whether `--quick` runs them."""

import os
import random
import shutil
import signal
import time

import hiredis

from checker import SECOND
from history import now
from network import CLIENT
from nodes import BUCKETS, replicas_of, wait_for
from support import ids
from trial import Direct, percentile
from workload import ACTIVE, KEYS

GAP_LEADER_S = 2.0   # writes to a bucket whose leader was killed flow again
GAP_GOAL_S = 1.0
PAUSE_OTHERS_S = 0.5  # p99 of the other buckets' probes meanwhile
READY_S = 3.0        # a node that returns answers from its own replicas
NO_QUORUM_S = 0.3    # a refusal without a quorum is no timeout
RELAXED = 2.0 if os.environ.get("CI") else 1.0  # a shared machine under CI is slower than the clock says

SCENARIOS = {}


class Scenario:
    def __init__(self, run, network, quick, options):
        self.name = run.__name__.replace("_", "-")
        self.run, self.network, self.quick, self.options = run, network, quick, options
        self.text = run.__doc__.split("\n")[0]


def scenario(network="loopback", quick=False, **options):
    """options: of the Trial (config, tmpfs, load), and nodes."""
    def add(run):
        made = Scenario(run, network, quick, options)
        SCENARIOS[made.name] = made
        return run
    return add


# --- Deaths ---

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
    trial.expect(max(hit, default=0) < GAP_LEADER_S * RELAXED, f"{label}: writes flow again in {GAP_LEADER_S} s")
    if others and rest:
        trial.expect(slow < PAUSE_OTHERS_S * RELAXED, f"{label}: p99 of the other buckets below {PAUSE_OTHERS_S} s")


def led_by(cluster, index):
    return [bucket for bucket, node in cluster.leaders().items() if node == index]


def busiest(cluster):
    """The node that leads most buckets."""
    leaders = list(cluster.leaders().values())
    return max(set(leaders), key=leaders.count)


@scenario(quick=True)
def bucketd_killed(trial):
    """SIGKILL of the leader's bucketd, one bucket after the other"""
    faults = []
    for number in range(trial.rounds(4, 12)):
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
    trial.expect(max(ready) < READY_S * RELAXED, f"a returning node is ready in {READY_S} s")
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
    wait_for("the children's end", lambda: not any(os.path.exists(f"/proc/{pid}/exe") and alive(pid)
                                                   for pid in children), 5.0, 0.005)
    trial.say(f"supervisor killed: its children are gone after {time.monotonic() - begin:.2f} s")
    node.kill()
    trial.wait_progress("after the kill")
    node.start()
    trial.cluster.wait_settled()
    trial.healed()
    trial.finish()
    outage(trial, "supervisor killed", faults)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@scenario(quick=True, config={"segment.size_bytes": 1 << 20})
def all_killed(trial):
    """All nodes killed at once, and started"""
    longest = []
    for _ in range(trial.rounds(2, 10)):
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


# --- Networks ---

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
    trial.expect(time.monotonic() - begin < 3.0 * RELAXED, "logs are equal 3 s after the cut has ended")
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
    trial.expect(max(times) < NO_QUORUM_S * RELAXED, f"-READONLY at once, within {NO_QUORUM_S} s")


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


# --- Disks ---

@scenario(tmpfs={0: 96}, config={"segment.size_bytes": 131072})
def disk_full(trial):
    """The disk of one node is full for 8 s"""
    cluster = trial.cluster
    node = cluster.nodes[0]
    led = led_by(cluster, 0)
    start = trial.fault("disk of node 0 full")
    filler = node.fill()
    trial.run_for(8.0)
    full = now()
    os.unlink(filler)
    trial.fault("room again")
    begin = time.monotonic()
    trial.wait_progress("with room again")
    trial.say(f"disk full: node 0 led {led}; appends in every bucket {time.monotonic() - begin:.2f} s after there was "
              "room")
    cluster.wait_settled(60.0)
    trial.healed()
    trial.finish()
    per_s = [sum(1 for t in times if start <= t <= full) / ((full - start) / SECOND) for times in trial.times]
    trial.say("disk full: appends/s meanwhile, by bucket: " + ", ".join(f"{rate:.0f}" for rate in per_s)
              + f"; clients were told {trial.refusals(None, start, full)}")


@scenario(quick=True, config={"segment.size_bytes": 1 << 20})
def wiped(trial):
    """A killed node's data directory is deleted: it is rebuilt from its peers, and votes again"""
    cluster = trial.cluster
    for index in range(trial.rounds(1, 3)):
        node = cluster.nodes[index]
        trial.fault(f"node {index} killed and wiped")
        node.kill()
        node.wipe()
        begin = time.monotonic()
        node.start()
        trial.wait_progress("after the return of an empty node")
        cluster.wait_settled(60.0)
        took = time.monotonic() - begin
        events = sum(len(os.listdir(os.path.join(node.dir, "buckets", f"{b:05d}", "segments"))) for b in range(BUCKETS))
        trial.say(f"wiped: node {index} has all again after {took:.2f} s ({events} segments)")
    # The new disks must count: with the node that has the oldest one away there is a quorum.
    other = cluster.nodes[2]
    trial.fault("another node killed")
    other.kill()
    trial.wait_progress("with the rebuilt node's votes", timeout=15.0)
    other.start()
    cluster.wait_settled()
    trial.healed()
    trial.finish()


@scenario(config={"segment.size_bytes": 1 << 20})
def old_copy(trial):
    """A node's disk is replaced by its own copy of some seconds ago"""
    cluster = trial.cluster
    node = cluster.nodes[1]
    node.kill()
    copy = os.path.join(trial.base, "copy")
    shutil.copytree(node.dir, copy, ignore=shutil.ignore_patterns("run"))
    node.start()
    cluster.wait_settled()
    trial.run_for(5.0)
    trial.fault("node 1 killed, its disk replaced by an old copy")
    node.kill()
    node.wipe()
    for name in os.listdir(copy):
        path = os.path.join(copy, name)
        (shutil.copytree if os.path.isdir(path) else shutil.copy2)(path, os.path.join(node.dir, name))
    node.start()
    trial.wait_progress("with an old disk")
    cluster.wait_settled(60.0)
    trial.healed()
    trial.finish()


# --- Planned ---

@scenario(quick=True)
def rolling_restart(trial):
    """SIGTERM to each node in turn under load: leaders hand over first, no client sees an error"""
    cluster, faults, took = trial.cluster, [], []
    for _ in range(trial.rounds(1, 3)):
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
    trial.expect(max(gaps) < 1.5 * RELAXED, "gaps of a rolling restart below 1.5 s")


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


# --- What the original did wrong (REPLICATION.md 1) ---

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


@scenario(config={"segment.size_bytes": 1 << 20})
def flipped_byte(trial):
    """Bytes of a follower's open and sealed segments are changed while it is down: repaired from the others"""
    cluster, rng = trial.cluster, random.Random(trial.seed)
    trial.run_for(4.0)
    for round_number in range(trial.rounds(2, 6)):
        index = (busiest(cluster) + 1 + round_number) % cluster.count
        node = cluster.nodes[index]
        trial.fault(f"bytes of node {index} changed while it is down")
        node.kill()
        for bucket, paths in node.segments().items():
            path = paths[-1] if bucket % 2 == 0 else paths[0]
            flip(path, rng)
        node.start()
        trial.wait_progress("with a damaged node")
        begin = time.monotonic()
        cluster.wait_settled(60.0)
        trial.say(f"flipped byte: node {index} is whole again after {time.monotonic() - begin:.2f} s")
    trial.healed()
    trial.finish()


def flip(path, rng):
    """Changes a byte in the first half of what is written."""
    with open(path, "r+b") as file:
        data = file.read()
        end = len(data.rstrip(b"\0"))
        at = rng.randrange(min(16384, end // 4), max(16385, end // 2))
        file.seek(at)
        file.write(bytes([data[at] ^ 0x40]))
