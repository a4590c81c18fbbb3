"""What is done to the cluster of deploy/docker-compose.yml while 16 writers, readers and subscribers use all of its
nodes. Each ends with the verdict of tests/cluster on everything that clients saw and the replicas hold."""

import os
import shutil
import tempfile
import time

import redis

import scenarios_client
import scenarios_process
from checker import SECOND
from history import now
from image_cluster import COUNT, IMAGE, Composed, Published, run
from nodes import BUCKETS, wait_for
from scenario import GAP_LEADER_S, busiest, led_by, outage
from trial import Trial, percentile
from workload import KEYS

HEALTHY_SECONDS_MAX = 30.0
LEVEL_SECONDS_MAX = 3.0
CUT_SECONDS = 5.0


def check(result, project, first_port, seed, names):
    """All of them, or those of these names; each on a cluster of its own."""
    for name, scenario in SCENARIOS.items():
        if not names or name in names:
            result.run(lambda s=scenario, n=name: one(result, project, first_port, seed, n, s))


def one(result, project, first_port, seed, name, scenario):
    print(f"--- {name}: {scenario.__doc__.splitlines()[0]}", flush=True)
    begin, before = time.monotonic(), result.failed
    base = tempfile.mkdtemp(prefix=f"sierradb-image-{name}-")
    network = Published(first_port)
    with Trial(base, network, seed, result, cluster=Composed(network, project)) as trial:
        try:
            trial.begin()
            trial.say(f"three nodes healthy {trial.cluster.healthy_s:.1f} s after `up`")
            trial.goal(trial.cluster.healthy_s < HEALTHY_SECONDS_MAX, f"{name}: healthy in time")
            scenario(trial)
        except Exception:
            print(trial.cluster.logs_tail(), flush=True)
            print(f"    kept: {base}", flush=True)
            raise
    if result.failed == before:
        shutil.rmtree(base)
    print(f"    {name}: {'good' if result.failed == before else 'FAILED'} in {time.monotonic() - begin:.0f} s",
          flush=True)


def level(trial, label):
    """All replicas are level again; the seconds that it took."""
    begin = time.monotonic()
    trial.cluster.wait_settled(60.0)
    took = time.monotonic() - begin
    trial.say(f"{label}: all replicas level after {took:.2f} s")
    return took


def gaps(trial, label, faults, seconds=10.0, goal=None):
    """The longest write gap of any bucket behind each fault; faults: their times."""
    found = [max(trial.gap(bucket, start, start + seconds * SECOND) for bucket in range(BUCKETS)) for start in faults]
    trial.say(f"{label}: longest write gap of a bucket: p50 {percentile(found, 0.5):.2f} s, max {max(found):.2f} s")
    if goal:
        trial.goal(max(found) < goal, f"{label}: writes flow again in {goal} s")


def use(trial):
    """No faults: any client uses any node for everything"""
    redis_clients(trial)
    scenarios_client.answers(trial)


def redis_clients(trial):
    """redis-py and redis-cli: one stream by way of all nodes in turn, read and followed on each."""
    nodes, p, stream, count = trial.cluster.nodes, 3, "redis-py", 9
    clients = [redis.Redis(node.host, node.port, protocol=3) for node in nodes]
    followers = []
    for client in clients:
        followers.append(client.connection_pool.get_connection())
        followers[-1].send_command("ESUB", stream, "PARTITION_KEY", KEYS[p], "FROM", 0)
        followers[-1].read_response()
        followers[-1].read_response(push_request=True)
    names = []
    for version in range(count):
        names.append(trial.mine(p, stream, version=version))
        trial.took(clients[version % COUNT].execute_command(
            "EAPPEND", stream, names[-1], "EXPECTED_VERSION", version - 1 if version else "empty", "PARTITION_KEY",
            KEYS[p]))
    for node, client, follower in zip(nodes, clients, followers):
        # Another connection than the one that wrote: its node may hear of the last commit a moment later.
        def all_read(client=client):
            events = client.execute_command("ESCAN", stream, "-", "+", "PARTITION_KEY", KEYS[p])[b"events"]
            return [event[b"event_name"].decode() for event in events] == names
        wait_for(f"redis-py reads all at {node.service}", all_read, 2.0)
        pushed = [follower.read_response(push_request=True)[3][b"event_name"].decode() for _ in names]
        trial.expect(pushed == names, f"redis-py follows at {node.service}: {pushed}")
        try:
            client.execute_command("EAPPEND", stream, "no", "EXPECTED_VERSION", 3, "PARTITION_KEY", KEYS[p])
            trial.expect(False, f"a wrong version at {node.service}")
        except redis.ResponseError as error:
            trial.expect(f"WRONGVER current stream version is {count - 1} but expected 3" in str(error), str(error))
        last = run("redis-cli", "-p", str(node.port), "ESCAN", stream, "+", "-", "PARTITION_KEY", KEYS[p], "COUNT", "1")
        trial.expect(names[-1] in last and names[-2] not in last, f"redis-cli at {node.service}: {last}")
        follower.disconnect()
        client.close()


def killed(trial):
    """docker kill of the node that leads most, and docker start"""
    scenarios_process.node_killed(trial)


def restarted(trial):
    """docker-compose restart of each node in turn: SIGTERM, leaders hand over first"""
    spans = []
    for node in trial.cluster.nodes:
        start, begin = trial.fault(f"restart of node {node.index}"), time.monotonic()
        trial.cluster.compose("restart", node.service)
        took = time.monotonic() - begin
        node.wait_healthy()
        trial.cluster.wait_settled()
        spans.append((node.index, start, now()))
        trial.say(f"restarted: node {node.index} stopped and started in {took:.2f} s, healthy and level after "
                  f"{(spans[-1][2] - start) / SECOND:.2f} s")
    errors = [clients.ask("stats")["errors"] for clients in trial.clients]
    trial.healed()
    trial.finish()
    gaps(trial, "restarted", [start for _, start, _ in spans], goal=1.5)
    trial.expect(errors == [{}, {}], f"clients were told errors: {errors}")
    lost, bad = {}, []
    for line in trial.history:
        if line["op"] not in ("append", "read") or line["result"] not in ("fail", "unknown"):
            continue
        # What was on its way when its own node closed the connection may stay unanswered, and nothing else.
        own = [index for index, start, end in spans if start - SECOND <= line["call"] <= end and index == line["node"]]
        if not own or line.get("code"):
            bad.append(line)
        lost[line["node"]] = lost.get(line["node"], 0) + (not line.get("code"))
    trial.expect(not bad, f"restarted: {len(bad)} errors of clients, as {bad[:2]}")
    trial.say(f"restarted: answers lost with a closed connection, by the node that was restarted: {lost or 'none'}")


def disconnected(trial):
    """docker network disconnect of the node that leads most for 12 s, and connect"""
    cluster = trial.cluster
    index = busiest(cluster)
    node, buckets = cluster.nodes[index], led_by(cluster, index)
    start = trial.fault(f"node {index} disconnected")
    run("docker", "network", "disconnect", cluster.bridge, node.id)
    trial.wait_progress("without the node")
    trial.run_for(12.0)
    for word in ("live", "ready"):
        done = run("docker", "exec", node.id, "sierradb-health", word, check=False)
        trial.expect(done.returncode == 0, f"a node without a quorum is {word}: {done.stdout}")
    trial.fault("connected")
    run("docker", "network", "connect", "--alias", node.service, cluster.bridge, node.id)
    trial.goal(level(trial, "disconnected") < LEVEL_SECONDS_MAX, "level in time behind a cut")
    trial.healed()
    trial.finish()
    outage(trial, "disconnected", [(start, buckets)], others=False)


def paused(trial):
    """docker pause for 10 s of the node that leads most, and unpause"""
    scenarios_process.node_paused(trial)


def one_way(trial):
    """The node that leads most hears one of the others no longer, then isn't heard by it"""
    cluster = trial.cluster
    index = busiest(cluster)
    node, other = cluster.nodes[index], cluster.nodes[(index + 1) % cluster.count]
    faults = []
    for receiver, sender in ((node, other), (other, node)):
        faults.append(trial.fault(f"cut from node {sender.index} to node {receiver.index}"))
        rule = ("INPUT", "-s", sender.address, "-j", "DROP")
        receiver.iptables("-A", *rule)
        trial.run_for(CUT_SECONDS)
        trial.wait_progress("with a link cut one way")
        receiver.iptables("-D", *rule)
        trial.fault("healed")
        level(trial, "one way")
    trial.healed()
    trial.finish()
    gaps(trial, "one way", faults, goal=GAP_LEADER_S)


def volume_removed(trial):
    """docker kill, rm and docker volume rm of a node: rebuilt from its peers; then its votes count"""
    cluster = trial.cluster
    node, other = cluster.nodes[0], cluster.nodes[1]
    trial.run_for(3.0)
    faults = [trial.fault("node 0's container and volume removed")]
    node.kill()
    node.remove(volume=True)
    trial.wait_progress("without the node")
    begin = time.monotonic()
    node.make()
    node.wait_healthy()
    trial.say(f"volume removed: node 0 healthy again {time.monotonic() - begin:.2f} s after `up`")
    level(trial, "volume removed")
    faults.append(trial.fault("node 1 killed"))
    other.kill()
    trial.wait_progress("with the rebuilt node's votes", timeout=15.0)
    other.start()
    cluster.wait_settled()
    trial.healed()
    trial.finish()
    gaps(trial, "volume removed", faults, goal=GAP_LEADER_S)


def all_killed(trial):
    """docker kill of all three, and docker start"""
    cluster, took = trial.cluster, []
    for _ in range(2):
        ids = [node.id for node in cluster.nodes]
        start = trial.fault("all killed")
        run("docker", "kill", *ids)
        run("docker", "start", *ids)
        trial.wait_progress("after all were killed")
        took.append((now() - start) / SECOND)
        level(trial, "all killed")
    trial.say(f"all killed: acknowledged appends in every bucket {max(took):.2f} s after the kill, at most")
    trial.healed()
    trial.finish()
    gaps(trial, "all killed", [start for start, what in trial.faults if what == "all killed"])


def moved(trial):
    """A node's container is made anew and gets another address: its name is resolved again"""
    cluster = trial.cluster
    index = busiest(cluster)
    node, before = cluster.nodes[index], cluster.nodes[index].address
    holder = f"{cluster.project}_holder"
    start = trial.fault(f"node {index} removed")
    try:
        node.kill()
        node.remove(volume=False)
        # Somebody else gets the address that has become free.
        run("docker", "run", "-d", "--rm", "--init", "--name", holder, "--network", cluster.bridge, "--no-healthcheck",
            "--entrypoint", "sleep", IMAGE, "infinity")
        node.make()
        after = node.address
        trial.expect(after != before, f"moved: the address is {after} again")
        begin = time.monotonic()
        node.wait_healthy()
        trial.say(f"moved: {before} is now {after}; healthy after {time.monotonic() - begin:.2f} s")
        level(trial, "moved")
    finally:
        run("docker", "rm", "-f", "-v", holder, check=False)
    trial.healed()
    trial.finish()
    gaps(trial, "moved", [start], goal=GAP_LEADER_S)


SCENARIOS = {run.__name__.replace("_", "-"): run for run in
             (use, killed, restarted, disconnected, paused, one_way, volume_removed, all_killed, moved)}
NEED_ROOT = {"one-way"}


def runnable():
    """Those that this user may run."""
    return [name for name in SCENARIOS if name not in NEED_ROOT or os.geteuid() == 0]
