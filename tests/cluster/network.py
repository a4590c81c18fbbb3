"""Networks for a cluster's nodes: all on loopback, or each in a network namespace of its own behind a bridge, where
links can be cut one way or both, made slow and made to lose packets.

The bridge stands in a namespace too: what the machine's own firewall does with forwarded packets doesn't matter there.
Cuts, losses and delays are rules of the receiving node, each for one sender; "client" is the machine itself, where
the tests' clients run."""

import os
import shutil
import subprocess
import sys

CLIENT = "client"
HERE = os.path.dirname(os.path.abspath(__file__))


def run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def why_not():
    """Why there can be no network namespaces here; empty: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "iptables", "unshare") if shutil.which(name) is None]
    if missing:
        return f"no {' '.join(missing)} here"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no network namespaces here"


class Loopback:
    """All nodes at 127.0.0.1, with ports of their own."""

    kind = "loopback"

    def __init__(self, count, first_port):
        self.count, self.first_port = count, first_port

    def host(self, index):
        return "127.0.0.1"

    def client_port(self, index):
        return self.first_port + 2 * index

    def cluster_port(self, index):
        return self.first_port + 2 * index + 1

    def prefix(self, index):
        return []

    def close(self):
        pass


class Namespaces:
    """Node i at 10.213.N.(i + 1), the clients at 10.213.N.254; N is made from the first port."""

    kind = "namespaces"

    def __init__(self, count, first_port):
        self.count, self.first_port = count, first_port
        self.tag = f"sct{first_port}"
        self.net = f"10.213.{first_port // 10 % 250}"
        self.delays = {}  # node -> the process that holds its packets back
        self.remove()
        try:
            self.make()
        except OSError:
            self.remove()
            raise

    def make(self):
        hub = self.tag + "h"
        run("ip", "netns", "add", hub)
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for index in range(self.count):
            name = self.name(index)
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"p{index}", "netns", hub, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", hub, "link", "set", f"p{index}", "master", "br0", "up")
            run("ip", "-n", name, "address", "add", f"{self.host(index)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "link", "add", "pc", "netns", hub, "type", "veth", "peer", "name", self.tag + "c")
        run("ip", "-n", hub, "link", "set", "pc", "master", "br0", "up")
        run("ip", "address", "add", f"{self.net}.254/24", "dev", self.tag + "c")
        run("ip", "link", "set", self.tag + "c", "up")

    def remove(self):
        """Also what an earlier run with this port left behind."""
        for delay in self.delays.values():
            self.end_delay(delay)
        self.delays = {}
        names = run("ip", "netns", "list").split("\n")
        for name in [line.split()[0] for line in names if line]:
            if name == self.tag + "h" or name.startswith(self.tag + "n"):
                run("ip", "netns", "delete", name)
        if os.path.exists(f"/sys/class/net/{self.tag}c"):
            subprocess.run(["ip", "link", "delete", self.tag + "c"], capture_output=True, check=False)

    close = remove

    def name(self, index):
        return f"{self.tag}n{index}"

    def host(self, index):
        return f"{self.net}.254" if index == CLIENT else f"{self.net}.{index + 1}"

    def add_address(self, index, number):
        """One more address of a node, or of the clients; it is returned."""
        address = f"{self.net}.{number}"
        where = ["ip"] if index == CLIENT else ["ip", "-n", self.name(index)]
        run(*where, "address", "add", f"{address}/24", "dev", self.tag + "c" if index == CLIENT else "eth0")
        return address

    def client_port(self, index):
        return 9090

    def cluster_port(self, index):
        return 9190

    def prefix(self, index):
        return ["ip", "netns", "exec", self.name(index)]

    def rules(self, index, *words):
        run("ip", "netns", "exec", self.name(index), "iptables", "-w", *words)

    def drop(self, sender, receiver, *match):
        if receiver == CLIENT:
            self.rules(sender, "-A", "OUTPUT", "-d", self.host(CLIENT), *match, "-j", "DROP")
        else:
            self.rules(receiver, "-A", "INPUT", "-s", self.host(sender), *match, "-j", "DROP")

    def cut(self, sender, receiver):
        """Nothing arrives any more, one way."""
        self.drop(sender, receiver)

    def cut_both(self, a, b):
        self.cut(a, b)
        self.cut(b, a)

    def isolate(self, index, clients=False):
        """The node sees no other one; with clients, nobody at all."""
        for other in range(self.count):
            if other != index:
                self.cut_both(index, other)
        if clients:
            self.cut_both(index, CLIENT)

    def lose(self, sender, receiver, part):
        self.drop(sender, receiver, "-m", "statistic", "--mode", "random", "--probability", str(part))

    def delay(self, index, ms, jitter_ms=0):
        """What comes to this node from the others comes so much later."""
        process = subprocess.Popen(self.prefix(index) + [sys.executable, os.path.join(HERE, "delay.py"), "1", str(ms),
                                                         str(jitter_ms)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.delays[index] = process
        if process.stdout.readline() != "ready\n":
            raise OSError("the delay didn't start")
        for other in range(self.count):
            if other != index:
                self.rules(index, "-A", "INPUT", "-s", self.host(other), "-j", "NFQUEUE", "--queue-num", "1",
                           "--queue-bypass")

    def heal(self):
        for index in range(self.count):
            self.rules(index, "-F")
        for delay in self.delays.values():
            self.end_delay(delay)
        self.delays = {}

    @staticmethod
    def end_delay(process):
        process.stdin.close()
        process.wait(5.0)
        process.stdout.close()
