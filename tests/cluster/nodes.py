"""A cluster of real nodes: started, watched, killed, paused, wiped; waiting for what `sierradb cluster status` says."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from clock import Clock  # noqa: E402
from disk import Disk  # noqa: E402
from support import node as support_node  # noqa: E402
from support import resp  # noqa: E402
from support.node import process_alive, process_rss, process_stat, wait_for  # noqa: E402

SECRET = "6f1d0c2a94b7e85339d1f0a7c46e2b58"
PARTITIONS, BUCKETS = 32, 4
# Gossip tells of other nodes' logs once a second.
LAG_MAX = 2000


class ClusterNode(support_node.Node):
    """One node; its host is the network's."""

    def __init__(self, cluster, index):
        self.cluster, self.index = cluster, index
        self.host = cluster.network.host(index)
        self.mounted = False
        self.disk = self.clock = None
        super().__init__(os.path.join(cluster.base, f"n{index}"), cluster.network.client_port(index),
                         build=cluster.build, wait=None, log_path=os.path.join(cluster.base, f"n{index}.log"))
        self.config = dict(cluster.config)
        self.config.update(self.addresses())
        if cluster.clocks:
            self.clock = Clock(os.path.join(cluster.base, f"clock{index}"), self.build)
            self.build = self.clock.build
        if cluster.power:
            self.disk = Disk(self.dir, cluster.build)

    def addresses(self):
        network = self.cluster.network
        if self.cluster.count == 1:
            return {}
        if self.config.get("network.mdns"):  # then nobody is named
            return {"node.index": self.index, "node.count": self.cluster.count, "cluster.secret": SECRET,
                    "network.cluster_address": f"0.0.0.0:{network.cluster_port(self.index)}"}
        peers = ",".join(f"{network.host(i)}:{network.cluster_port(i)}" for i in range(self.cluster.count))
        return {"node.index": self.index, "network.peers": peers, "cluster.secret": SECRET,
                "network.cluster_address": f"{self.host}:{network.cluster_port(self.index)}"}

    def start(self, wait=False, timeout=20.0):
        assert self.process is None, "already started"
        command = self.cluster.network.prefix(self.index) + [
            self.binary, "-d", self.dir, "--client-address", f"{self.host}:{self.port}"]
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True)
        if wait:
            self.wait_answers(timeout)
        return self

    def wait_answers(self, timeout=20.0):
        """It answers clients."""
        def ping():
            self.check_runs()
            try:
                with self.client(timeout=1.0) as client:
                    return client.cmd("PING") == b"PONG"
            except (OSError, resp.Closed):
                return False
        return wait_for(f"node {self.index} answers", ping, timeout)

    def check_runs(self):
        if self.process is not None and self.process.poll() is not None:
            raise support_node.StartError(f"node {self.index} ended with {self.process.returncode}:\n{self.log_tail()}")

    def client(self, hello=None, **options):
        return resp.Client(self.port, hello, host=self.host, **options)

    def pids(self):
        """All of the node's processes, the supervisor first."""
        return [self.pid, *self.children().values()] if self.process is not None else []

    def pause(self, which=None):
        """SIGSTOP to one process (netd, "supervisor", a bucket's number) or to all; returns how to go on."""
        pids = self.pids() if which is None else [self.pid if which == "supervisor" else self.child(which)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

        def go_on():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    pass
        return go_on

    def kill(self):
        for pid in self.pids():  # a stopped process dies of SIGKILL as well
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        super().kill()

    def wipe(self):
        """Everything that a stopped node has stored is gone."""
        assert self.process is None
        if self.disk is not None:
            self.disk.wipe()
            return
        for name in os.listdir(self.dir):
            path = os.path.join(self.dir, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)

    def mount(self, mib):
        """The data directory of a node that never ran lies on a small file system of its own."""
        os.makedirs(self.dir, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "sierradb-test", self.dir], check=True)
        self.mounted = True

    def environment(self):
        return super().environment() | (self.clock.environment() if self.clock else {})

    def unmount(self):
        if self.disk is not None:
            self.disk.close()
        if self.mounted:
            subprocess.run(["umount", "-l", self.dir], check=False)
            self.mounted = False
        self.disk = self.clock = None

    def fill(self):
        """Not a byte is left on its file system; returns the path of the file that takes the room."""
        path = os.path.join(self.dir, "filler")
        with open(path, "wb", buffering=0) as file:
            block = b"\0" * (1 << 20)
            while block:
                try:
                    if file.write(block) < len(block):
                        block = block[:len(block) // 2]
                except OSError:
                    block = block[:len(block) // 2]
        return path

    def report(self):
        """`sierradb cluster status --json`; None where the node doesn't tell."""
        if self.process is None:
            return None
        done = self.cli("cluster", "status", "--json", "-d", self.dir, check=False)
        try:
            return json.loads(done.stdout) if done.returncode in (0, 1) and done.stdout else None
        except json.JSONDecodeError:
            return None

    def segments(self):
        """Paths of the logs by bucket: {bucket: [path, ...]} in order."""
        out = {}
        base = os.path.join(self.dir, "buckets")
        for bucket in sorted(os.listdir(base)) if os.path.isdir(base) else []:
            folder = os.path.join(base, bucket, "segments")
            if not bucket.isdigit() or not os.path.isdir(folder):
                continue
            out[int(bucket)] = [os.path.join(folder, name, "data.evts") for name in sorted(os.listdir(folder))
                                if os.path.exists(os.path.join(folder, name, "data.evts"))]
        return out


class Cluster:
    """The nodes of a network; config: further keys for all of them. tmpfs: {node: MiB} of a file system of its own.
    power: disks whose power can be cut (disk.py); clocks: that can be set (clock.py)."""

    def __init__(self, network, base, config=None, build=None, tmpfs=None, power=False, clocks=False):
        self.network, self.base, self.count = network, base, network.count
        self.power, self.clocks = power, clocks
        self.build = build or support_node.build_dir()
        self.config = dict(config or {})
        os.makedirs(base, exist_ok=True)
        self.nodes = [ClusterNode(self, index) for index in range(self.count)]
        for index, mib in (tmpfs or {}).items():
            self.nodes[index].mount(mib)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for node in self.nodes:
            node.kill()
        for node in self.nodes:
            node.unmount()

    def start(self, timeout=30.0):
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_answers(timeout)
        self.wait_settled(timeout)
        return self

    def stop(self, timeout=20.0):
        """SIGTERM to all at once; returns what went wrong."""
        problems = []
        for node in self.nodes:
            if node.process is not None:
                node.process.send_signal(signal.SIGTERM)
        for node in self.nodes:
            try:
                node.stop(timeout)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                problems.append(f"node {node.index}: {error}")
                node.kill()
        return problems

    def alive(self):
        return [node for node in self.nodes if node.process is not None]

    def report(self, ask=None):
        """The report of one node that lives."""
        for node in [self.nodes[ask]] if ask is not None else self.alive():
            report = node.report()
            if report is not None:
                return report
        return None

    def leaders(self, ask=None):
        """{bucket: node index} of the leaders that a report knows."""
        report = self.report(ask)
        return leaders_of(report) if report else {}

    def leader(self, bucket, ask=None, timeout=20.0):
        def known():
            leaders = self.leaders(ask)
            return (leaders[bucket],) if bucket in leaders else None
        return wait_for(f"a leader of bucket {bucket}", known, timeout, 0.05)[0]

    def wait_settled(self, timeout=30.0, nodes=None, lag_max=LAG_MAX):
        """Each of these nodes (all that run, unless named) sees all of them, a leader for each bucket, and all replicas
        ready and level."""
        nodes = self.alive() if nodes is None else nodes
        state = {}

        def settled():
            for node in nodes:
                node.check_runs()
                state["why"] = unsettled(node.report(), {other.index for other in nodes}, lag_max)
                if state["why"]:
                    state["why"] = f"node {node.index}: {state['why']}"
                    return False
            return True
        try:
            return wait_for("the cluster has settled", settled, timeout, 0.05)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {state.get('why')}") from None

    def wait_ready(self, index, timeout=60.0):
        """The replicas of this node may answer reads, says the node itself; returns the seconds it took."""
        begin = time.monotonic()

        def ready():
            self.nodes[index].check_runs()
            report = self.nodes[index].report()
            own = [r for r in replicas_of(report) if r["node"] == index] if report else []
            return bool(own) and all(r["ready"] for r in own)
        wait_for(f"node {index} is ready", ready, timeout, 0.02)
        return time.monotonic() - begin

    def offline(self):
        """What the stopped nodes' logs hold: {node: {bucket: OfflineLog}}."""
        return {node.index: {bucket: OfflineLog(node, paths) for bucket, paths in node.segments().items()}
                for node in self.nodes}

    def logs_tail(self):
        return "\n".join(f"--- node {node.index}\n{node.log_tail(15)}" for node in self.nodes)


def leaders_of(report):
    return {bucket["bucket"]: bucket["leader"] for bucket in report["buckets"] if bucket["leader"] is not None}


def replicas_of(report):
    """Each with its bucket's number."""
    return [dict(replica, bucket=bucket["bucket"]) for bucket in report["buckets"] for replica in bucket["replicas"]]


def unsettled(report, nodes, lag_max=LAG_MAX):
    """Why a report isn't that of a cluster where all is well on these nodes; empty: it is."""
    if report is None:
        return "no report"
    dead = [n["node"] for n in report["nodes"] if n["node"] in nodes and not n["alive"]]
    if dead:
        return f"nodes {dead} aren't seen"
    leaders = leaders_of(report)
    for replica in replicas_of(report):
        if replica["node"] not in nodes:
            continue
        where = f"bucket {replica['bucket']} on node {replica['node']}"
        if leaders.get(replica["bucket"]) not in nodes:
            return f"bucket {replica['bucket']} has no leader"
        if not replica["ready"] or replica["damaged"]:
            return f"{where} isn't ready"
        if (replica["lag"] or 0) > lag_max:
            return f"{where} is {replica['lag']} entries behind"
    return ""


class OfflineLog:
    """One replica's log of one bucket from its files, as `sierradb dump` tells them; what was cut is left out."""

    def __init__(self, node, paths):
        self.entries = []   # (index, term, chain, partition or None, key, transaction id, events)
        self.problems = []
        for path in paths:
            done = node.cli("dump", path, check=False, timeout=120.0)
            if done.returncode != 0:
                self.problems.append(f"dump {path}: {done.returncode}: " + "; ".join(
                    line for line in done.stdout.split("\n") if "DAMAGED" in line or "TORN" in line)[:500]
                    + done.stderr[:200])
            self.take(done.stdout)

    def take(self, text):
        for line in text.split("\n"):
            if line.startswith("    @"):
                self.take_event(line)
            elif line.startswith("  @"):
                self.take_record(line)

    def take_record(self, line):
        what = line.split(" ", 3)[3]
        if what.startswith("entry "):
            head, _, rest = what.partition(": ")
            parts = rest.split(", ")
            facts = dict(part.rsplit(" ", 1) for part in parts[1:] if " " in part)
            transaction = parts[0] == "transaction"
            self.entries.append([int(head[6:]), int(facts["term"]), facts["chain"],
                                 int(facts["partition"]) if transaction else None,
                                 facts.get("key"), facts.get("id"), []])
        elif what.startswith("cut: "):
            start = int(what.split("idx ")[1].split(" ")[0])
            while self.entries and self.entries[-1][0] >= start:
                self.entries.pop()

    def take_event(self, line):
        """`    @OFFSET event ID: sequence N, version N, TIME, stream "S", name "N", metadata N, payload N`"""
        event_id = line.split(" event ", 1)[1][:36]
        facts, _, names = line.split(": ", 1)[1].partition(', stream "')
        stream, _, rest = names.partition('", name "')
        numbers = facts.split(", ")
        self.entries[-1][6].append((int(numbers[0][9:]), event_id, rest.partition('", metadata ')[0], stream,
                                    int(numbers[1][8:])))

    def raft(self):
        """The entries up to the last transaction: when all nodes are told to stop at once, a last leader may begin a
        term that the others never hear of."""
        last = max((i for i, entry in enumerate(self.entries) if entry[3] is not None), default=-1)
        return [[entry[0], entry[1], entry[2]] for entry in self.entries[:last + 1]]

    def partitions(self):
        """{partition: [[sequence, id, name, stream, key, version, transaction id, None], ...]}"""
        out = {}
        for _, _, _, partition, key, transaction, events in self.entries:
            if partition is not None:
                out.setdefault(partition, []).extend(
                    [sequence, event_id, name, stream, key, version, transaction, None]
                    for sequence, event_id, name, stream, version in events)
        return out


def kill_pids(pids):
    for pid in pids:
        if process_alive(pid):
            os.kill(pid, signal.SIGKILL)
