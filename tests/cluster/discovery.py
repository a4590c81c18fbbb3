"""The scenario of nodes that find one another by multicast DNS, whoever else talks in their network."""

import json
import os
import signal
import subprocess
import sys
import time

from network import CLIENT
from scenario import scenario
from support.node import process_rss

HERE = os.path.dirname(os.path.abspath(__file__))
FOUND_S = 5.0   # a node with a new address, in a quiet network
LIARS_S = 30.0  # and where three liars have to be tried first
LIARS = (251, 252, 253)
RSS_MORE = 4 << 20
MDNS_PORT = 5353


class Liar:
    """mdns_liar.py, with addresses of its own in the nodes' network."""

    def __init__(self, trial):
        network = trial.cluster.network
        cluster = trial.cluster.report()["cluster_id"].replace("-", "")
        hosts = [network.add_address(CLIENT, number) for number in LIARS]
        self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "mdns_liar.py"), cluster,
                                         str(trial.cluster.count), str(trial.seed), *hosts],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise OSError("the liar didn't start")

    def done(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.wait(5.0)
        self.process.stdout.close()


def datagram_ports(node):
    """Local ports of all UDP sockets in the node's namespace."""
    ports = set()
    for name in ("udp", "udp6"):
        with open(f"/proc/{node.pid}/net/{name}", encoding="ascii") as file:
            ports |= {int(line.split()[1].rpartition(":")[2], 16) for line in file.readlines()[1:]}
    return ports


def log_count(cluster, word):
    count = 0
    for node in cluster.nodes:
        with open(node.log_path, encoding="utf-8", errors="replace") as file:
            count += sum(word in line for line in file)
    return count


def expect_found(trial, when):
    for node in trial.cluster.nodes:
        others = [other for other in node.report()["nodes"] if not other["self"]]
        trial.expect(all(other["alive"] and other["found"] == "mdns" and not other["name"] for other in others),
                     f"{when}: node {node.index} found the others by multicast DNS: {others}")


def settled_after(trial, what, limit_s, step):
    trial.fault(what)
    step()
    begin = time.monotonic()
    trial.cluster.wait_settled(60.0)
    took = time.monotonic() - begin
    trial.say(f"mdns: {what}: all is well after {took:.2f} s (goal < {limit_s:.0f})")
    trial.goal(took < limit_s, f"{what}: all is well in {limit_s} s")
    trial.wait_progress(f"after: {what}")
    expect_found(trial, what)


def move(trial, index, number):
    """The node comes back with another address; at the old one nobody answers any more, as if it were gone."""
    network, node = trial.cluster.network, trial.cluster.nodes[index]
    port = network.cluster_port(index)
    node.kill()
    old = node.config["network.cluster_address"].rpartition(":")[0]
    old = network.host(index) if old == "0.0.0.0" else old
    network.rules(index, "-A", "INPUT", "-d", old, "-p", "tcp", "--dport", str(port), "-j", "DROP")
    node.config["network.cluster_address"] = f"{network.add_address(index, number)}:{port}"
    node.start()


def restart(node):
    node.stop(20.0)
    node.start()


@scenario(network="namespaces", config={"network.mdns": True})
def mdns(trial):
    """Nodes without network.peers find one another, one of them at a new address, with liars in their network"""
    cluster = trial.cluster
    expect_found(trial, "the start")
    trial.expect(all(datagram_ports(node) == {MDNS_PORT} for node in cluster.nodes), "one port for multicast DNS")
    settled_after(trial, "node 1 has another address", FOUND_S, lambda: move(trial, 1, 52))
    expect_found(trial, "another address")
    quiet = log_count(cluster, "event=peer.down")
    before = [process_rss(node.child("netd")) for node in cluster.nodes]
    liar = Liar(trial)
    try:
        trial.fault("liars")
        trial.run_for(trial.rounds(8.0, 60.0))
        trial.wait_progress("among liars")
        trial.expect(log_count(cluster, "event=peer.down") == quiet, "no session ended among liars")
        after = [process_rss(node.child("netd")) for node in cluster.nodes]
        settled_after(trial, "node 2 is started again among liars", LIARS_S, lambda: restart(cluster.nodes[2]))
        settled_after(trial, "netd of node 0 is killed among liars", LIARS_S,
                      lambda: os.kill(cluster.nodes[0].child("netd"), signal.SIGKILL))
        settled_after(trial, "node 1 has yet another address among liars", LIARS_S, lambda: move(trial, 1, 53))
        done = liar.done()
    finally:
        liar.stop()
    trial.say(f"mdns: liars sent {done['packets']} packets, were dialled {done['silent'] + done['closed']} times; netd "
              f"took {before} bytes before, {after} after")
    trial.expect(done["silent"] > 0 and done["closed"] > 0, "liars were dialled at all")
    trial.expect(max(a - b for a, b in zip(after, before)) < RSS_MORE, f"netd's memory: {before}, then {after}")
    trial.expect(log_count(cluster, "event=mdns.") < 100, "liars don't fill the logs")
    trial.healed()
    trial.finish()
