"""Three nodes from three configuration files: they elect leaders, replace them, hand over, and tell of themselves."""

import datetime
import json
import os
import re
import signal

import pytest
from support import ids
from support.node import Node, StartError, build_dir, wait_for
from support.wrapper import wrapped_build

BUCKETS = 4
SECRET = "4bd1f8c9273a6e50"


class Cluster:
    def __init__(self, base, client_ports, cluster_ports, settings=""):
        self.nodes = []
        self.slow = os.path.join(base, "slow")  # while it exists, a bucket's process takes 4 s to begin its work
        build = wrapped_build(os.path.abspath(build_dir()), os.path.join(base, "build"),
                              f'if [ -e {self.slow} ]; then sleep 4; fi\nexec "$REAL" "$@"\n')
        peers = ",".join(f"127.0.0.1:{port}" for port in cluster_ports)
        for index, port in enumerate(client_ports):
            path = os.path.join(base, f"node{index}.yaml")
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"node: {{index: {index}}}\n"
                           f"network: {{peers: '{peers}', cluster_address: '127.0.0.1:{cluster_ports[index]}'}}\n"
                           f"cluster: {{name: tests, secret: {SECRET}}}\n{settings}")
            self.nodes.append(Node(os.path.join(base, f"node{index}"), port, args=["-c", path], build=build,
                                   wait=None))

    def start(self):
        for node in self.nodes:
            node.start(wait=False)
        self.wait_ok()

    def report(self, index):
        node = self.nodes[index]
        return json.loads(node.cli("cluster", "status", "--json", "-d", node.dir).stdout)

    def is_ok(self, index):
        node = self.nodes[index]
        if node.process.poll() is not None:
            raise StartError(node.log_tail())
        done = node.cli("cluster", "status", "--json", "-d", node.dir, check=False)
        return done.returncode == 0 and json.loads(done.stdout)["state"] == "ok"

    def wait_ok(self, timeout=30.0):
        """Every node sees all of them, a leader for each bucket, and all replicas up to date."""
        for index, node in enumerate(self.nodes):
            if node.process is not None:
                wait_for(f"node {index} sees a whole cluster", lambda i=index: self.is_ok(i), timeout, 0.05)

    def leaders(self, index):
        return {bucket["bucket"]: bucket["leader"] for bucket in self.report(index)["buckets"]}

    def close(self):
        for node in self.nodes:
            node.kill()


@pytest.fixture(scope="module")
def make_cluster(tmp_path_factory, next_port):
    made = []

    def make(settings=""):
        ports = [next_port() for _ in range(6)]
        cluster = Cluster(str(tmp_path_factory.mktemp("cluster")), ports[:3], ports[3:], settings)
        made.append(cluster)
        return cluster

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="module")
def cluster(make_cluster):
    # Leadership wanders to where it should be after 30 timeouts: later than these tests.
    cluster = make_cluster("replication: {election_timeout_ms: 2000}\n")
    cluster.start()
    return cluster


def test_every_bucket_has_one_leader_and_all_nodes_agree(cluster):
    for index in range(3):
        report = cluster.report(index)
        assert report["state"] == "ok" and report["problems"] == []
        assert (report["node"], report["node_count"], report["cluster"]) == (index, 3, "tests")
        assert [node["self"] for node in report["nodes"]] == [i == index for i in range(3)]
        assert all(node["alive"] and node["health"] == "healthy" for node in report["nodes"])
        assert sum(node["leads"] for node in report["nodes"]) == BUCKETS
        for bucket in report["buckets"]:
            roles = {replica["node"]: replica["role"] for replica in bucket["replicas"]}
            assert sorted(roles) == [0, 1, 2]
            assert [node for node, role in roles.items() if role == "leader"] == [bucket["leader"]]
            assert all(replica["ready"] for replica in bucket["replicas"])
    assert cluster.leaders(0) == cluster.leaders(1) == cluster.leaders(2)
    ages = [[node["started_ms"] for node in cluster.report(index)["nodes"]] for index in range(3)]
    assert ages[0] == ages[1] == ages[2] and min(ages[0]) > 1.6e12


def test_the_tables_print(cluster):
    node = cluster.nodes[0]
    table = node.cli("cluster", "status", "-d", node.dir).stdout
    assert table.startswith("cluster tests as node 0 of 3 sees it: ok\n") and table.endswith("\nnothing is wrong\n")
    assert len(re.findall(r"^\d( \(here\))? +127\.0\.0\.1:\d+ +127\.0\.0\.1:\d+ +healthy ", table, re.M)) == 3
    assert len(re.findall(r"^ +\d+ +[012] +\d+ +\d+  [012], [012], [012]$", table, re.M)) == BUCKETS
    leaders = cluster.leaders(0)
    processes = {p["index"]: p for p in node.status()["processes"] if p["kind"] == "bucket"}
    for bucket, leader in leaders.items():
        assert processes[bucket]["leader"] == leader and processes[bucket]["term"] > 0
        assert processes[bucket]["role"] == ("leader" if leader == 0 else "follower")
    assert re.search(r"LEADER +LAG  LINK$", node.cli("status", "-d", node.dir).stdout, re.M)
    wrong = node.cli("cluster", "-d", node.dir, check=False)
    assert wrong.returncode == 2 and "expected `cluster status`" in wrong.stderr


def times(node, event, process):
    """When the node's log tells of this event."""
    pattern = rf"^ts=(\S+)Z level=\w+ proc={process} event={event}\b"
    return [datetime.datetime.fromisoformat(ts) for ts in re.findall(pattern, node.log_text(), re.M)]


def test_a_killed_leader_is_replaced_and_comes_back(cluster):
    bucket, leader = 2, cluster.leaders(0)[2]
    asked = (leader + 1) % 3
    open(cluster.slow, "w", encoding="utf-8").close()
    pid = cluster.nodes[leader].kill_child(bucket)

    def replaced():
        now = cluster.leaders(asked)[bucket]
        return now is not None and now != leader
    wait_for("another leader", replaced, 10.0, 0.02)
    os.unlink(cluster.slow)
    cluster.nodes[leader].wait_child_replaced(bucket, pid)
    cluster.wait_ok()
    replicas = {r["node"]: r for r in cluster.report(asked)["buckets"][bucket]["replicas"]}
    assert replicas[leader]["role"] == "follower" and replicas[leader]["ready"]
    # The others are told of the end: they don't find out by the timeout of 2 s, heard of a tick at most 0.1 s before.
    ended = times(cluster.nodes[leader], "process.ended", "supervisor")[-1]
    begun = max(time for node in cluster.nodes for time in times(node, "leader.begins", f"bucketd-{bucket}"))
    assert datetime.timedelta(0) < begun - ended < datetime.timedelta(seconds=1.7)


@pytest.mark.parametrize("hello", [2, 3])
def test_ecluster(cluster, hello):
    def pairs(value):
        return dict(value) if hello == 3 else dict(zip(value[0::2], value[1::2]))
    yes = True if hello == 3 else 1
    with cluster.nodes[1].client(hello) as client:
        summary = pairs(client.cmd("ECLUSTER"))
        assert (summary[b"state"], summary[b"mode"], summary[b"cluster"]) == (b"ok", b"cluster", b"tests")
        assert [summary[name] for name in (b"node", b"nodes", b"nodes_alive", b"replication_factor", b"buckets",
                                           b"buckets_led", b"partitions", b"problems")] == [1, 3, 3, 3, 4, 4, 32, []]
        nodes = [pairs(node) for node in client.cmd("ecluster", "nodes")]
        assert [node[b"node"] for node in nodes] == [0, 1, 2]
        assert [node[b"self"] == yes for node in nodes] == [False, True, False]
        assert all(node[b"alive"] == yes and node[b"buckets"] == BUCKETS for node in nodes)
        assert all(re.fullmatch(rb"127\.0\.0\.1:\d+", node[b"name"]) for node in nodes)
        assert [node[b"found"] for node in nodes] == [b"peers", b"", b"peers"]
        buckets = [pairs(bucket) for bucket in client.cmd("ECLUSTER", "PARTITIONS")]
        assert [bucket[b"bucket"] for bucket in buckets] == [0, 1, 2, 3]
        assert sorted(p for bucket in buckets for p in bucket[b"partitions"]) == list(range(32))
        assert buckets[3][b"partitions"] == list(range(3, 32, 4))
        leaders = cluster.leaders(1)
        for bucket in buckets:
            assert bucket[b"leader"] == leaders[bucket[b"bucket"]]
            replicas = [pairs(replica) for replica in bucket[b"replicas"]]
            assert sorted(replica[b"node"] for replica in replicas) == [0, 1, 2]
            assert all(replica[b"commit_idx"] > 0 and replica[b"ready"] == yes for replica in replicas)
        assert client.cmd("ECLUSTER", "SLOTS") == (
            b"INVALIDARG unexpected string: expected NODES, PARTITIONS or end of input")
        assert client.cmd("ECLUSTER", "NODES", "1") == b"INVALIDARG unexpected string: expected end of input"


def test_a_client_is_told_of_the_cluster(cluster):
    with cluster.nodes[2].client() as client:
        assert client.cmd("HELLO", 3)["mode"] == b"cluster"
        info = client.cmd("INFO", "cluster").decode()
        assert "cluster_enabled:1\r\n" in info and "cluster_node:2\r\n" in info and "cluster_state:ok\r\n" in info
        assert "redis_mode:cluster\r\n" in client.cmd("INFO", "server").decode()


def test_a_single_node_is_a_cluster_of_one(client, node):
    summary = client.cmd("ECLUSTER")
    assert (summary["state"], summary["mode"], summary["nodes"]) == (b"ok", b"standalone", 1)
    assert (summary["buckets_led"], summary["problems"]) == (BUCKETS, [])
    assert [bucket["leader"] for bucket in client.cmd("ECLUSTER", "PARTITIONS")] == [0] * BUCKETS
    assert [entry["self"] for entry in client.cmd("ECLUSTER", "NODES")] == [True]
    assert "cluster_enabled:0\r\n" in client.cmd("INFO", "cluster").decode()
    report = json.loads(node.cli("cluster", "status", "--json", "-d", node.dir).stdout)
    assert report["state"] == "ok" and [b["leader"] for b in report["buckets"]] == [0] * BUCKETS


def test_appends_and_reads_at_any_node(cluster):
    for bucket in range(BUCKETS):
        stream = ids.stream_in_partition("cluster", bucket)
        for version in range(3):
            with cluster.nodes[version].client(3, timeout=20.0) as client:
                expected = "empty" if version == 0 else version - 1
                reply = client.ok("EAPPEND", stream, "E", "EXPECTED_VERSION", expected)
                assert reply["stream_version"] == version
                assert client.cmd("ESVER", stream) == version


def test_a_stopping_node_hands_over(cluster):
    """Nobody waits for a timeout: who leaves hands over, and is gone when another leads."""
    cluster.wait_ok()
    leaders = cluster.leaders(0)
    leaving = leaders[0]
    led = [bucket for bucket, leader in leaders.items() if leader == leaving]
    stays = (leaving + 1) % 3
    node = cluster.nodes[leaving]
    seen = len(node.log_text())
    node.stop()
    text = node.log_text()[seen:]
    for bucket in led:
        assert f"proc=bucketd-{bucket} event=leader.transfer" in text
        assert f"proc=bucketd-{bucket} event=leader.ends" in text
    assert "process.killed" not in text and text.rstrip().splitlines()[-1].count("event=node.stopped")
    now = cluster.leaders(stays)
    assert all(now[bucket] not in (None, leaving) for bucket in led), now
    report = cluster.report(stays)
    assert report["state"] == "degraded" and not report["nodes"][leaving]["alive"]
    assert re.match(rf"node {leaving} \(127\.0\.0\.1:\d+\) is away for \d+\.\d s", report["problems"][0])
    node.start(wait=False)
    cluster.wait_ok()
    assert cluster.report(stays)["nodes"][leaving]["boot"] > report["nodes"][leaving]["boot"]


def test_a_node_that_has_just_started_refuses_nothing(cluster):
    """That its buckets haven't heard of the others yet is no lack of a quorum: what comes early waits."""
    cluster.wait_ok()
    node, others = cluster.nodes[0], [other.child("netd") for other in cluster.nodes[1:]]
    streams = [ids.stream_in_partition("started", bucket) for bucket in range(BUCKETS)]
    node.stop()
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        node.start(wait=False)
        with wait_for("a connection", lambda: connection(node), every=0.001) as client:
            for stream in streams:
                client.send("EAPPEND", stream, "E", "EXPECTED_VERSION", "empty")
            silent = client.silent(0.5)
            for pid in others:
                os.kill(pid, signal.SIGCONT)
            replies = [client.reply() for _ in streams] if silent else client.read()
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)
    assert silent and [reply["stream_version"] for reply in replies] == [0] * BUCKETS
    cluster.wait_ok()


def connection(node):
    try:
        return node.client(3, timeout=20.0)
    except OSError:
        return None


def test_all_stop_cleanly(cluster):
    for node in cluster.nodes:
        node.stop()
    for node in cluster.nodes:
        clean, output = node.verify()
        assert clean, output
    cluster.start()


def waits_for(node):
    """What keeps a node from being ready; itself, where it doesn't tell yet."""
    done = node.cli("status", "--json", "-d", node.dir, check=False)
    return json.loads(done.stdout)["waits_for"] if done.returncode == 0 else ["the node"]


@pytest.mark.parametrize("nodes,event,spare,idle", [
    (3, "level=info proc=supervisor event=placement", 0, 1),
    (10, "level=warn proc=supervisor event=placement.few_buckets", 2, 6)])
def test_a_start_tells_what_the_buckets_can_use(tmp_path, next_port, nodes, event, spare, idle):
    ports = [next_port(), next_port()]
    peers = [f"127.0.0.{i + 1}:{ports[1]}" for i in range(nodes)]
    config = {"node.count": nodes, "node.index": 0, "bucket.count": BUCKETS, "network.peers": ",".join(peers),
              "network.cluster_address": peers[0], "cluster.secret": SECRET}
    node = Node(tmp_path / "data", ports[0], config, wait=None)
    try:
        node.start(wait=False)
        wait_for("it tells of the placement", lambda: " event=placement" in node.log_text(), 20.0)
        line = next(line for line in node.log_text().splitlines() if " event=placement" in line)
        assert f"{event} nodes={nodes} buckets={BUCKETS} replicas=3 " in line
        assert f" nodes_without_bucket={spare} nodes_without_lead={idle}" in line
    finally:
        node.kill()


def test_a_cluster_has_no_quorum_alone(make_cluster):
    """One of three comes up, sees nobody, and says so; the others come, and all is well."""
    cluster = make_cluster("replication: {election_timeout_ms: 500, stale_after_ms: 6000}\n")
    first = cluster.nodes[0].start(wait=False)
    wait_for("it answers", lambda: first.cli("cluster", "status", "-d", first.dir, check=False).returncode == 0)
    wait_for("its buckets are up", lambda: all(
        r["state"] == "up" for b in cluster.report(0)["buckets"] for r in b["replicas"] if r["node"] == 0), 20.0, 0.05)
    behind = [f"bucketd-{bucket} isn't up to date yet" for bucket in range(BUCKETS)]
    wait_for("its replicas may be behind for all it knows", lambda: waits_for(first) == behind, 5.0, 0.05)
    report = cluster.report(0)
    assert report["state"] == "unavailable"
    assert [b["leader"] for b in report["buckets"]] == [None] * BUCKETS
    assert any(re.match(r"node 1 \(.*\) was never heard", problem) for problem in report["problems"])
    assert "bucket 0 takes no appends: 1 of its 3 replicas are up, 2 are needed" in report["problems"]
    for node in cluster.nodes[1:]:
        node.start(wait=False)
    cluster.wait_ok()
    wait_for("all are ready", lambda: all(node.status()["ready"] for node in cluster.nodes), 10.0, 0.05)
    first.stop()

    # A node that had been level stays ready without a quorum, one that comes back is when it may tell of what it has.
    cluster.nodes[1].stop()
    report = cluster.report(2)
    assert report["state"] == "unavailable" and cluster.nodes[2].status()["ready"]
    cluster.nodes[2].stop()
    cluster.nodes[2].start(wait=False)
    wait_for("it says why it isn't ready", lambda: any("isn't up to date yet" in text for text in waits_for(
        cluster.nodes[2])), 10.0, 0.05)
    wait_for("it is ready to answer as stale", lambda: waits_for(cluster.nodes[2]) == [], 20.0, 0.05)
    assert all(row["stats"]["stale"] == 1 for row in cluster.nodes[2].status()["processes"] if row["kind"] == "bucket")

    def refused(expected, key, value):
        first.config = {key: value}
        with pytest.raises(StartError) as error:
            first.start(timeout=10.0)
        first.config = {}
        assert expected in str(error.value)
    refused("cluster.name is 'other' in the configuration, but this data directory belongs to the cluster 'tests'",
            "cluster.name", "other")
    refused("replication.factor is 1 in the configuration, but this data directory was created with 3",
            "replication.factor", 1)
    refused("It can't change yet: buckets would have to move", "replication.factor", 1)
    refused("node.index is 1 in the configuration, but this data directory was created with 0", "node.index", 1)
    refused("bucket.ids: expected all where node.count is above 1", "bucket.ids", "0,1")


def test_nodes_find_one_another_by_multicast_dns(make_cluster):
    """Without network.peers; and where those are wrong, too. On loopback, beside whoever else is there."""
    cluster = make_cluster("replication: {election_timeout_ms: 500}\n")
    for index, node in enumerate(cluster.nodes):
        node.config = {"network.peers": "", "network.mdns": True, "node.count": 3, "node.index": index,
                       "cluster.name": f"mdns-{os.getpid()}", "cluster.secret": SECRET}
    cluster.start()
    for index in range(3):
        for other in cluster.report(index)["nodes"]:
            assert other["name"] == "" and other["found"] == ("" if other["self"] else "mdns")
    node = cluster.nodes[0]
    assert " (mdns)" in node.cli("cluster", "status", "-d", node.dir).stdout
    with node.client(3) as client:
        assert sorted(entry[b"found"] for entry in client.cmd("ECLUSTER", "NODES")) == [b"", b"mdns", b"mdns"]
    cluster.nodes[2].stop()
    wait_for("node 0 says that node 2 is away", lambda: any(
        re.match(r"node 2 is away for", problem) for problem in cluster.report(0)["problems"]), 10.0)
    cluster.nodes[2].config["network.peers"] = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"
    cluster.nodes[2].start(wait=False)
    cluster.wait_ok()
    assert {other["found"] for other in cluster.report(2)["nodes"] if not other["self"]} == {"mdns"}
