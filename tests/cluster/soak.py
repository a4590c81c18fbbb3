"""Random mixtures of faults: two scenarios of a minute, and parts of some minutes for --soak: each part has a cluster,
a configuration and a mixture of its own, made from the seed, and ends with the verdict on everything."""

import os
import random
import signal

import clock
import disk
from checker import SECOND
from history import now
from network import CLIENT
from nodes import BUCKETS
from scenario import Scenario, scenario

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
    options = {"config": config, "nodes": rng.choice([3, 3, 3, 5]), "pause_ms": rng.choice([10.0, 25.0, 60.0]),
               "power": not disk.why_not() and rng.random() < 0.6, "clocks": not clock.why_not() and rng.random() < 0.6}

    def run(trial):
        Mixture(trial, random.Random(seed)).run(seconds)
    run.__doc__ = f"random faults for {seconds:.0f} s, {options}"
    run.__name__ = f"soak_{number}"
    return Scenario(run, "namespaces", False, options)


def mixture(trial, number):
    Mixture(trial, random.Random(trial.seed + number), everything=True).run(60.0)
    trial.say(f"mixture: {trial.operations} operations under faults (goal of both: >= 50000)")


@scenario(network="namespaces", quick=True, power=True, clocks=True, pause_ms=10.0, subscribers=24, mixed=True,
          config={"segment.size_bytes": 1 << 20})
def mixture_a(trial):
    """60 s of random faults of all kinds, small segments"""
    mixture(trial, 1)


@scenario(network="namespaces", power=True, clocks=True, pause_ms=10.0, hot=0.6, config={"segment.size_bytes": 262144})
def mixture_b(trial):
    """60 s of random faults of all kinds, mostly on streams that all writers share"""
    mixture(trial, 2)


class Mixture:
    """Faults one after the other, some of them two at a time; each is undone before the next begins."""

    def __init__(self, trial, rng, everything=False):
        self.trial, self.cluster, self.rng = trial, trial.cluster, rng
        self.network = trial.cluster.network
        self.kinds = [self.kill_bucketd, self.kill_netd, self.kill_node, self.pause_bucketd, self.pause_node,
                      self.pause_netd, self.isolate, self.one_way, self.lossy, self.kill_all, self.restart,
                      self.wipe, self.cut_clients, self.kill_two_bucketds, self.pause_supervisor]
        if self.cluster.power:
            self.kinds += [self.power_cut, self.power_cut_all, self.slow_disk]
        if self.cluster.clocks:
            self.kinds += [self.jump, self.jump_all]
        rng.shuffle(self.kinds)
        if not everything:
            self.kinds = self.kinds[:rng.randrange(4, len(self.kinds) + 1)]  # each part has its own mixture
        self.deck = []
        self.pauses_s = [0.2, 0.5, 1.0, 3.0] if everything else [0.3, 1.0, 3.0, 6.0]
        self.undo = []
        self.done = {}

    def run(self, seconds):
        start = now()
        while now() - start < seconds * SECOND:
            self.act(self.next_kind())
            if self.rng.random() < 0.25 and self.cluster.alive():
                self.trial.run_for(self.rng.random() * 1.5)
                self.act(self.next_kind())
            self.trial.run_for(self.rng.choice(self.pauses_s) * self.rng.random() * 2)
            while self.undo:
                self.undo.pop()()
            self.trial.wait_progress(f"behind {self.trial.faults[-1][1]}", timeout=60.0)
            if self.rng.random() < 0.5:
                self.cluster.wait_settled(60.0)
        self.trial.say("faults: " + ", ".join(f"{count} {name}" for name, count in sorted(self.done.items())))
        self.cluster.wait_settled(60.0)
        self.trial.healed()
        self.trial.finish()

    def next_kind(self):
        """At random, but none again before all have had their turn."""
        if not self.deck:
            self.deck = self.rng.sample(self.kinds, len(self.kinds))
        return self.deck.pop()

    def act(self, kind):
        name = kind.__name__.replace("_", " ")
        self.trial.fault(name)
        self.done[name] = self.done.get(name, 0) + 1
        kind()

    def some_node(self):
        return self.rng.choice(self.cluster.alive())

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

    def pause_supervisor(self):
        self.pause("supervisor")

    def pause_node(self):
        self.pause(None)

    def pause(self, which):
        node = self.some_node()
        if which in (None, "supervisor") or self.some_child(node, which):
            self.undo.append(node.pause(which))

    def power_cut(self):
        self.lose_power([self.some_node()])

    def power_cut_all(self):
        self.lose_power([node for node in self.cluster.nodes if node.process is not None])

    def lose_power(self, nodes):
        for node in nodes:
            node.kill()
        for node in nodes:
            node.disk.cut(self.rng.randrange(1 << 31) if self.rng.random() < 0.6 else 0)
            self.undo.append(node.start)

    def slow_disk(self):
        node = self.some_node()
        node.disk.slow(self.rng.choice([20, 100, 300]))
        self.undo.append(lambda: node.disk.slow(0))

    def jump(self):
        self.jump_some([self.some_node()])

    def jump_all(self):
        self.jump_some(self.cluster.nodes)

    def jump_some(self, nodes):
        for node in nodes:
            node.clock.set(self.rng.choice(["+3600", "-3600", "+10y", "-10y", "+86400", "-1"]))
        if self.rng.random() < 0.5:  # otherwise they stay so until the next jump
            self.undo.extend(lambda node=node: node.clock.set("+0") for node in nodes)

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
