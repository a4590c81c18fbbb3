"""A random mixture of faults, in parts of some minutes: each part has a cluster, a configuration and a mixture of its
own, made from the seed, and ends with the verdict on everything."""

import os
import random
import signal

from checker import SECOND
from history import now
from network import CLIENT
from nodes import BUCKETS
from scenario import Scenario

PART_S = 150.0


def parts(minutes, seed):
    """Scenarios for so many minutes."""
    rng = random.Random(seed)
    count = max(1, round(minutes * 60 / PART_S))
    return [part(rng.randrange(2**31), number, minutes * 60 / count) for number in range(count)]


def part(seed, number, seconds):
    rng = random.Random(seed)
    config = {"segment.size_bytes": rng.choice([131072, 262144, 1 << 20, 16 << 20]),
              "cluster.balance_leaders": rng.random() < 0.8}

    def run(trial):
        Mixture(trial, random.Random(seed)).run(seconds)
    run.__doc__ = f"random faults for {seconds:.0f} s, {config}"
    run.__name__ = f"soak_{number}"
    return Scenario(run, "namespaces", False, {"config": config, "nodes": rng.choice([3, 3, 3, 5]),
                                               "pause_ms": rng.choice([10.0, 25.0, 60.0])})


class Mixture:
    """Faults one after the other, some of them two at a time; each is undone before the next begins."""

    def __init__(self, trial, rng):
        self.trial, self.cluster, self.rng = trial, trial.cluster, rng
        self.network = trial.cluster.network
        self.kinds = [self.kill_bucketd, self.kill_netd, self.kill_node, self.pause_bucketd, self.pause_node,
                      self.pause_netd, self.isolate, self.one_way, self.lossy, self.kill_all, self.restart,
                      self.wipe, self.cut_clients, self.kill_two_bucketds]
        rng.shuffle(self.kinds)
        self.kinds = self.kinds[:rng.randrange(4, len(self.kinds) + 1)]  # each part has its own mixture
        self.undo = []
        self.done = {}

    def run(self, seconds):
        start = now()
        while now() - start < seconds * SECOND:
            first = self.rng.choice(self.kinds)
            self.act(first)
            if self.rng.random() < 0.25:
                self.trial.run_for(self.rng.random() * 1.5)
                self.act(self.rng.choice(self.kinds))
            self.trial.run_for(self.rng.choice([0.3, 1.0, 3.0, 6.0]) * self.rng.random() * 2)
            while self.undo:
                self.undo.pop()()
            self.trial.wait_progress(f"behind {self.trial.faults[-1][1]}", timeout=60.0)
            if self.rng.random() < 0.5:
                self.cluster.wait_settled(60.0)
        self.trial.say("faults: " + ", ".join(f"{count} {name}" for name, count in sorted(self.done.items())))
        self.cluster.wait_settled(60.0)
        self.trial.healed()
        self.trial.finish()

    def act(self, kind):
        name = kind.__name__.replace("_", " ")
        self.trial.fault(name)
        self.done[name] = self.done.get(name, 0) + 1
        kind()

    def some_node(self):
        alive = [node for node in self.cluster.nodes if node.process is not None]
        return self.rng.choice(alive)

    def some_child(self, node, which):
        """Its pid; None where it has none just now."""
        return node.children().get(which)

    def kill_child(self, which):
        node = self.some_node()
        pid = self.some_child(node, self.rng.randrange(BUCKETS) if which == "bucketd" else which)
        if pid:
            kill(pid, signal.SIGKILL)

    def kill_bucketd(self):
        self.kill_child("bucketd")

    def kill_two_bucketds(self):
        bucket = self.rng.randrange(BUCKETS)
        for node in self.rng.sample(self.cluster.nodes, 2):
            pid = self.some_child(node, bucket) if node.process is not None else None
            if pid:
                kill(pid, signal.SIGKILL)

    def kill_netd(self):
        self.kill_child("netd")

    def kill_node(self):
        node = self.some_node()
        node.kill()
        self.undo.append(node.start)

    def restart(self):
        node = self.some_node()
        node.stop()
        self.undo.append(node.start)

    def wipe(self):
        """Only where all others are whole: a cluster that loses more disks than it may has lost."""
        if self.undo:
            return
        self.cluster.wait_settled(60.0)
        node = self.some_node()
        node.kill()
        node.wipe()
        node.start()
        self.cluster.wait_settled(60.0)

    def kill_all(self):
        for node in self.cluster.nodes:
            if node.process is not None:
                node.kill()
                self.undo.append(node.start)

    def pause_bucketd(self):
        self.pause(self.rng.randrange(BUCKETS))

    def pause_netd(self):
        self.pause("netd")

    def pause_node(self):
        self.pause(None)

    def pause(self, which):
        node = self.some_node()
        if which is None or self.some_child(node, which):
            self.undo.append(node.pause(which))

    def isolate(self):
        self.network.isolate(self.rng.randrange(self.cluster.count), self.rng.random() < 0.3)
        self.undo.append(self.network.heal)

    def one_way(self):
        self.network.cut(*self.rng.sample(range(self.cluster.count), 2))
        self.undo.append(self.network.heal)

    def cut_clients(self):
        self.network.cut_both(self.rng.randrange(self.cluster.count), CLIENT)
        self.undo.append(self.network.heal)

    def lossy(self):
        for index in range(self.cluster.count):
            for other in range(self.cluster.count):
                if other != index:
                    self.network.lose(other, index, self.rng.choice([0.01, 0.05, 0.1]))
            if index not in self.network.delays:
                self.network.delay(index, self.rng.choice([5, 20, 50]), self.rng.choice([0, 10]))
        self.undo.append(self.network.heal)


def kill(pid, sig):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass
