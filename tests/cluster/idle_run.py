"""What idle nodes cost; see tests/cluster/idle."""

import argparse
import os
import re
import shutil
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from network import Loopback  # noqa: E402
from nodes import SECRET, Cluster  # noqa: E402
from support.node import Node, build_dir, first_port, wait_for  # noqa: E402
from support.report import Result  # noqa: E402

# After a start leaders move to where they belong when all have been up for 30 s; quiet is a second later.
SETTLE_S = 33.0
# Lines that a node may log in a minute while it waits for others.
LONELY_LINES_MAX = 4
# From then on those that don't answer are tried less often.
LONELY_SETTLE_S = 65.0
LONELY_NODES, LONELY_BUCKETS = 100, 256
LONELY_RSS_MAX = 16 << 20  # of a process


def main():
    parser = argparse.ArgumentParser(prog="tests/cluster/idle", description="what idle nodes cost")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--buckets", default="4,32", help="a run for each of these")
    parser.add_argument("--partitions", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=60.0, help="so long it is measured")
    parser.add_argument("--limit", type=float, default=1.0, help="percent of a core for each node")
    parser.add_argument("--lonely", action="store_true", help="only the node whose peers don't answer")
    parser.add_argument("--port", type=int, default=first_port(27000))
    parser.add_argument("--build", default=build_dir())
    options = parser.parse_args()
    result = Result()
    base = tempfile.mkdtemp(prefix="sierradb-idle-")
    try:
        if options.lonely:
            lonely(options, base, result)
        else:
            for buckets in [int(word) for word in options.buckets.split(",")]:
                idle_cluster(options, os.path.join(base, str(buckets)), buckets, result)
    finally:
        shutil.rmtree(base)
    result.finish()


class Sample:
    """What the kernel has counted for a process so far."""

    def __init__(self, pid):
        self.cpu_s, self.wakes, self.rss = 0.0, 0, 0
        tasks = f"/proc/{pid}/task"
        for task in os.listdir(tasks):
            # Exact, where utime and stime are sampled by the tick.
            self.cpu_s += int(read(f"{tasks}/{task}/schedstat").split()[0]) / 1e9
            self.wakes += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", read(f"{tasks}/{task}/status"), re.M)[1])
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        self.ticks = int(fields[11]) + int(fields[12])
        status = read(f"/proc/{pid}/status")
        self.rss = int(re.search(r"^VmRSS:\s+(\d+)", status, re.M)[1]) * 1024


def read(path):
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def processes(node):
    """{kind: [pid, ...]}"""
    children = node.children()
    return {"supervisor": [node.pid], "netd": [children["netd"]],
            "buckets": [pid for name, pid in children.items() if name != "netd"]}


def stats(node):
    return next(p["stats"] for p in node.status()["processes"] if p["kind"] == "netd")


def measure(nodes, seconds):
    """For each node {kind: (CPU percent, wake-ups/s, resident bytes)} and its CPU by the clock tick."""
    pids = [processes(node) for node in nodes]
    before = [{pid: Sample(pid) for kind in of.values() for pid in kind} for of in pids]
    begin = time.monotonic()
    time.sleep(seconds)
    out = []
    for of, old in zip(pids, before):
        passed, row, ticks = time.monotonic() - begin, {}, 0
        for kind, group in of.items():
            now = {pid: Sample(pid) for pid in group}
            ticks += sum(now[pid].ticks - old[pid].ticks for pid in group)
            row[kind] = (100 * sum(now[pid].cpu_s - old[pid].cpu_s for pid in group) / passed,
                         sum(now[pid].wakes - old[pid].wakes for pid in group) / passed,
                         sum(now[pid].rss for pid in group))
        row["all"] = tuple(sum(row[kind][i] for kind in of) for i in range(3))
        out.append((row, 100 * ticks / os.sysconf("SC_CLK_TCK") / passed))
    return out


def print_rows(index, row, ticks, processes_of):
    for kind, (cpu, wakes, rss) in row.items():
        count = len(processes_of[kind]) if kind in processes_of else sum(len(p) for p in processes_of.values())
        print(f"  node {index} {kind:10} {count:4} processes  {cpu:6.3f} % of a core  {wakes:7.1f} wake-ups/s  "
              f"{rss / (1 << 20):7.1f} MiB")
    print(f"  node {index} utime and stime: {ticks:.2f} %", flush=True)


def idle_cluster(options, base, buckets, result):
    print(f"{options.nodes} nodes, {buckets} buckets, {options.partitions} partitions, {options.seconds:.0f} s",
          flush=True)
    config = {"bucket.count": buckets, "partition.count": options.partitions, "segment.size_bytes": "4MiB"}
    with Cluster(Loopback(options.nodes, options.port), base, config, build=options.build) as cluster:
        cluster.start(60.0)
        time.sleep(SETTLE_S)
        begin, before = time.monotonic(), [stats(node) for node in cluster.nodes]
        rows = measure(cluster.nodes, options.seconds)
        after = [stats(node) for node in cluster.nodes]
        passed = time.monotonic() - begin
        for node, (row, ticks) in zip(cluster.nodes, rows):
            print_rows(node.index, row, ticks, processes(node))
            moved = {name: (after[node.index][name] - before[node.index][name]) / passed
                     for name in ("peer_frames_out", "peer_frames_in", "peer_items_out", "peer_bytes_out")}
            print(f"  node {node.index} to others: {moved['peer_frames_out']:.1f} frames/s, "
                  f"{moved['peer_items_out']:.1f} items/s, {moved['peer_bytes_out']:.0f} bytes/s; "
                  f"{moved['peer_frames_in']:.1f} frames/s in")
            result.expect(row["all"][0] < options.limit,
                          f"node {node.index} of {options.nodes} with {buckets} buckets takes {row['all'][0]:.2f} % "
                          f"of a core when idle (at most {options.limit})")
            result.expect(moved["peer_frames_out"] > 0, f"node {node.index} speaks with the others")
        for problem in cluster.stop():
            result.expect(False, problem)


def listen_mutely(host, port):
    """What connects there waits: nobody ever says a word."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(8)
    return listener


def lonely(options, base, result):
    """Of the others some refuse connections, some take them and say nothing, some aren't reachable, and the names of
    some can't be resolved."""
    kinds = [lambda i: f"127.0.2.{i}:{options.port + 2}", lambda i: f"127.0.1.{i}:{options.port + 2}",
             lambda i: f"240.0.0.{i}:9190", lambda i: f"node{i}.invalid:9190"]
    peers = [f"127.0.0.1:{options.port + 1}"] + [kinds[i % len(kinds)](i) for i in range(1, LONELY_NODES)]
    mute = [listen_mutely(f"127.0.1.{i}", options.port + 2) for i in range(1, LONELY_NODES, len(kinds))]
    config = {"node.count": LONELY_NODES, "node.index": 0, "bucket.count": LONELY_BUCKETS,
              "partition.count": options.partitions, "replication.factor": 3, "network.peers": ",".join(peers),
              "cluster.secret": SECRET, "network.cluster_address": peers[0], "segment.size_bytes": "4MiB",
              "network.client_address": f"127.0.0.1:{options.port}"}
    node = Node(os.path.join(base, "lonely"), options.port, config, build=options.build, wait=None)
    print(f"one node of {LONELY_NODES} with {LONELY_BUCKETS} buckets, the others don't answer", flush=True)
    try:
        node.start(wait=False)
        wait_for("its processes are up", lambda: node.children().get("netd") and
                 all(p["state"] == "up" for p in status(node)), 30.0, 0.2)
        time.sleep(LONELY_SETTLE_S)
        lines = len(node.log_text().splitlines())
        (row, ticks), = measure([node], options.seconds)
        new = node.log_text().splitlines()[lines:]
        print_rows(0, row, ticks, processes(node))
        descriptors = {kind: max(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
                       for kind, pids in processes(node).items()}
        print(f"  {len(new)} lines of log in {options.seconds:.0f} s; descriptors of a process: {descriptors}")
        print("".join(f"    {line}\n" for line in new[:8]), end="", flush=True)
        result.expect(row["all"][0] < options.limit,
                      f"it takes {row['all'][0]:.2f} % of a core (at most {options.limit})")
        lines_max = LONELY_LINES_MAX * max(options.seconds / 60, 1)
        result.expect(len(new) <= lines_max, f"{len(new)} lines in its log, expected at most {lines_max:.0f}")
        mean = row["buckets"][2] / max(len(processes(node)["buckets"]), 1)
        result.expect(max(mean, row["netd"][2]) < LONELY_RSS_MAX,
                      f"a bucket's process takes {mean / (1 << 20):.1f} MiB, netd {row['netd'][2] / (1 << 20):.1f} MiB")
    finally:
        node.kill()
        for listener in mute:
            listener.close()


def status(node):
    """Of its processes; a first entry that isn't up where the node doesn't tell."""
    try:
        return node.status()["processes"]
    except (AssertionError, ValueError):
        return [{"state": "not heard"}]


if __name__ == "__main__":
    sys.exit(main())
