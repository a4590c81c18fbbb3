"""One trial: a cluster, clients on it, faults by the scenario, and in the end the verdict on all that clients saw and
all that the replicas hold."""

import bisect
import json
import os
import socket
import subprocess
import sys
import time

import hiredis

from checker import Checker
from history import crc, load, now
from nodes import BUCKETS, Cluster, wait_for
from workload import ACTIVE, HOT, KEYS, NOTHING

HERE = os.path.dirname(os.path.abspath(__file__))
SECOND = 1_000_000_000
SCAN_COUNT = 2000


class Direct:
    """One plain connection, a command at a time."""

    def __init__(self, node, timeout=10.0):
        self.sock = socket.create_connection((node.host, node.port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader(notEnoughData=NOTHING)
        self.pushes = []
        self.cmd("HELLO", "3")

    def cmd(self, *words):
        """The reply; pushes on the way are kept."""
        self.sock.sendall(hiredis.pack_command(words))
        while True:
            reply = self.next()
            if not isinstance(reply, hiredis.PushNotification):
                return reply
            self.pushes.append(reply)

    def push(self):
        """The next message that a subscription delivers."""
        while True:
            reply = self.pushes.pop(0) if self.pushes else self.next()
            if reply[0] == b"message":
                return reply

    def next(self):
        while True:
            reply = self.reader.gets()
            if reply is not NOTHING:
                return reply
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionError("end of stream")
            self.reader.feed(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


def scan(node, partitions):
    """{partition: log as in a `final` line} by the node's own scans."""
    out = {}
    with Direct(node, 30.0) as direct:
        for p in partitions:
            out[p] = []
            more = True
            while more:
                reply = direct.cmd("EPSCAN", str(p), str(len(out[p])), "+", "COUNT", str(SCAN_COUNT))
                if isinstance(reply, hiredis.HiredisError):
                    raise ConnectionError(f"node {node.index}: {reply}")
                out[p] += [final_event(event) for event in reply[b"events"]]
                more = reply[b"has_more"]
    return out


def final_event(event):
    stream, name = event[b"stream_id"], event[b"event_name"]
    return [event[b"partition_sequence"], event[b"event_id"].decode(), name.decode(), stream.decode(),
            event[b"partition_key"].decode(), event[b"stream_version"], event[b"transaction_id"].decode(),
            crc(stream, name, event[b"payload"], event[b"metadata"])]


class Clients:
    """One process of workload.py."""

    def __init__(self, trial, name, **config):
        self.path = os.path.join(trial.base, f"history-{name}.ndjson")
        config.update(name=name, out=self.path, seed=trial.seed,
                      nodes=[[node.host, node.port] for node in trial.cluster.nodes])
        path = os.path.join(trial.base, f"clients-{name}.json")
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        with open(os.path.join(trial.base, f"clients-{name}.log"), "w", encoding="utf-8") as log:
            self.process = subprocess.Popen([sys.executable, os.path.join(HERE, "workload.py"), path], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the clients of {self.path} ended with {self.process.wait()}")
        return json.loads(line)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Trial:
    """cluster: one that is not of processes on this machine; the network is where its clients find it."""

    def __init__(self, base, network, seed, result, config=None, level="normal", tmpfs=None, build=None, cluster=None,
                 power=False, clocks=False, writers=16, readers=3, subscribers=6, probers=None, pause_ms=25.0,
                 probe_ms=30.0, hot=0.35, timeout_s=4.0, mixed=False):
        self.base, self.seed, self.result, self.level = base, seed, result, level
        self.cluster = cluster or Cluster(network, base, config, build, tmpfs, power, clocks)
        self.clients = []
        probers = BUCKETS * network.count if probers is None else probers
        self.load = {"w": {"writers": writers, "readers": readers, "probers": probers},
                     "s": {"subscribers": subscribers, "mixed": mixed}}
        self.common = {"pause_ms": pause_ms, "probe_ms": probe_ms, "hot": hot, "timeout_s": timeout_s}
        self.faults = []    # (time, what)
        self.figures = []   # lines for people
        self.problems = []
        self.lines = []
        self.own = 0        # appends by the scenario itself
        self.sent = None    # the last of them
        self.stale_s = None
        self.operations = 0
        self.counts = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for clients in self.clients:
            clients.kill()
        self.cluster.close()

    def begin(self):
        """Nodes and clients run, and writes flow in every bucket."""
        self.cluster.start()
        self.clients = [Clients(self, name, **config, **self.common) for name, config in self.load.items()]
        self.wait_progress("after the start")
        return self

    def acked_by_partition(self):
        return self.clients[0].ask("stats")["acked"]

    def acked(self):
        """By bucket."""
        counts = self.acked_by_partition()
        return [sum(counts[bucket::BUCKETS]) for bucket in range(BUCKETS)]

    def wait_progress(self, when, least=20, timeout=30.0, buckets=range(BUCKETS)):
        """So many more appends are acknowledged in every bucket; returns the seconds that it took."""
        begin, floor = time.monotonic(), self.acked()

        def moved():
            state = self.acked()
            return all(state[bucket] >= floor[bucket] + least for bucket in buckets)
        wait_for(f"acknowledged appends in every bucket {when}", moved, timeout, 0.02)
        return time.monotonic() - begin

    def wait_partitions(self):
        """One more append, sent from now on, is acknowledged in every partition."""
        goal = [count + self.load["w"]["writers"] for count in self.acked_by_partition()]
        wait_for("acknowledged appends in every partition",
                 lambda: all(count >= least for count, least in zip(self.acked_by_partition(), goal)), 30.0)

    def run_for(self, seconds):
        """Lets the load go on."""
        time.sleep(seconds)

    def fault(self, what):
        """The moment at which something is done."""
        self.faults.append((now(), what))
        return self.faults[-1][0]

    def rounds(self, few, many, quick=None):
        """few, but many with --long, and quick (where it is given) with --quick."""
        return {"long": many, "normal": few, "quick": few if quick is None else quick}[self.level]

    def goal(self, good, what):
        """Something about times: a shared machine may miss it, so that only --long insists on it."""
        if self.level == "long":
            return self.expect(good, what)
        if not good:
            self.say(f"missed here: {what}")
        return good

    def expect(self, good, what):
        return self.result.expect(good, what)

    def mine(self, p, stream, payload=b"", version=0, event_id=None):
        """The name for an event that the scenario itself appends, alone; it is in the history from now on."""
        self.own += 1
        name = f"own-{self.own}.0"
        self.sent = {"op": "append", "group": f"own-{self.own}", "conn": f"own{self.own}", "n": 1, "node": None,
                     "call": now(), "ret": None, "p": p, "key": KEYS[p], "result": "unknown",
                     "events": [[stream, version - 1 if version else "empty", event_id,
                                 crc(stream.encode(), name.encode(), payload)]]}
        self.lines.append(self.sent)
        return name

    def took(self, reply):
        """What the last of them was answered."""
        good = isinstance(reply, dict)
        self.expect(good, f"an append of {self.sent['group']}: {reply!r}")
        if good:
            self.sent.update(ret=now(), result="ok", first=reply[b"partition_sequence"],
                             versions=[reply[b"stream_version"]], ids=[reply[b"event_id"].decode()])

    def say(self, text):
        self.figures.append(text)
        print(f"    {text}", flush=True)

    def healed(self, bound_s=10.0):
        """From here on no fault is at work."""
        self.lines.append({"op": "mark", "what": "healed", "t": now(), "bound_s": bound_s})

    # --- the end ---

    def finish(self, settle_s=60.0):
        """The end of the load and the verdict."""
        problems = self.end(settle_s)
        for kind, text in problems[:20]:
            print(f"    {kind}: {text}", flush=True)
        if not self.expect(not problems, f"{len(problems)} problems, by kind: {self.counts}"):
            self.say(f"faults: {[(round((t - self.faults[0][0]) / SECOND, 2), what) for t, what in self.faults]}")
            self.say(f"the history: {self.keep()}")

    def end(self, settle_s=60.0, down=()):
        """Ends the load, waits until all replicas are level, compares everything; returns the problems. down: nodes
        that stay away."""
        writer, subscriber = self.clients
        self.guard("the last appends", self.wait_partitions)
        stats = writer.ask("stop")
        if stats["unresolved"]:
            self.problems.append(("liveness", f"{stats['unresolved']} appends have no outcome"))
        nodes = [node for node in self.cluster.nodes if node.index not in down]
        self.guard("all replicas are level", lambda: self.cluster.wait_settled(settle_s, nodes, 0))
        final = self.guard("scans on every node", lambda: self.scan_all(nodes)) or {}
        targets = {"p": {str(p): len(log) for p, log in final.items()},
                   "s": {f"{p} {stream}": sum(event[3] == stream for event in final.get(p, [])) for p, stream in HOT}}
        done = subscriber.ask("finish " + json.dumps(targets))
        if done["late"]:
            self.problems.append(("subscription", f"{done['late']} subscribers didn't reach the end in time"))
        writer.ask("finish")
        for clients in self.clients:
            clients.process.wait(20.0)
        for text in self.cluster.stop():
            self.problems.append(("stop", text))
        self.read_offline(nodes)
        return self.check()

    def guard(self, what, step):
        try:
            return step()
        except (OSError, RuntimeError, TimeoutError, AssertionError) as error:
            self.problems.append(("liveness", f"{what}: {error}"))
            return None

    def scan_all(self, nodes):
        first = None
        for node in nodes:
            final = scan(node, range(ACTIVE))
            first = first or final
            for p, log in final.items():
                self.lines.append({"op": "final", "replica": f"scan of node {node.index}", "p": p, "log": log})
        return first

    def read_offline(self, nodes):
        """Every replica's files; also `sierradb verify`."""
        logs = self.cluster.offline()
        for node in nodes:
            for bucket, log in logs[node.index].items():
                self.problems += [("files", f"node {node.index} bucket {bucket}: {text}") for text in log.problems]
                self.lines.append({"op": "raft", "replica": f"node {node.index}", "bucket": bucket,
                                   "entries": log.raft()})
                partitions = log.partitions()
                for p in range(bucket, ACTIVE, BUCKETS):
                    self.lines.append({"op": "final", "replica": f"node {node.index}", "p": p,
                                       "log": partitions.get(p, [])})
            clean, output = node.verify()
            if not clean:
                self.problems.append(("files", f"node {node.index}: sierradb verify: {output[-1500:]}"))

    def check(self):
        self.history = list(load(*[clients.path for clients in self.clients])) + self.lines
        checker = Checker(self.stale_s)
        self.problems += checker.check(self.history)
        self.counts = checker.counts
        self.operations = sum(checker.figures[kind] for kind in ("ok", "conflict", "fail", "unknown", "reads"))
        self.take_figures()
        figures = dict(checker.figures)
        codes = figures.pop("codes")
        self.say(", ".join(f"{value:.0f} {name}" for name, value in figures.items() if value))
        self.say("errors that clients saw: " + (", ".join(f"{count} {code}" for code, count in sorted(codes.items()))
                                                or "none"))
        return self.problems

    def keep(self):
        """The whole history in one file, for the checker by hand."""
        path = os.path.join(self.base, "history.ndjson")
        with open(path, "w", encoding="utf-8") as file:
            for line in self.history:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        return path

    # --- figures ---

    def take_figures(self):
        """Answers of acknowledged appends: times by bucket, and (time, latency) of the probes."""
        self.times = [[] for _ in range(BUCKETS)]
        self.probes = [[] for _ in range(BUCKETS)]
        for line in self.history:
            if line["op"] == "append" and line["result"] == "ok":
                bucket = line["p"] % BUCKETS
                self.times[bucket].append(line["ret"])
                if line["group"].startswith("probe"):
                    self.probes[bucket].append((line["call"], (line["ret"] - line["call"]) / SECOND))
        for times in self.times:
            times.sort()

    def gap(self, bucket, start, end):
        """The longest time without an acknowledged append in a bucket that overlaps [start, end], in seconds."""
        times = self.times[bucket]
        at, last = max(0, bisect.bisect_left(times, start) - 1), bisect.bisect_right(times, end)
        return max((b - a for a, b in zip(times[at:last + 1], times[at + 1:last + 1])), default=(end - start)) / SECOND

    def delivered(self, start, end):
        """Seconds from an append's call to each delivery in [start, end]."""
        calls = {event_id: line["call"] for line in self.history if line["op"] == "append" and line["result"] == "ok"
                 for event_id in line["ids"]}
        return [(time - calls[event_id]) / SECOND for line in self.history if line["op"] == "sub"
                for _, event_id, time in line["got"] if start <= time <= end and event_id in calls]

    def latencies(self, buckets, start, end):
        """Of the probes called in [start, end]."""
        return [latency for bucket in buckets for call, latency in self.probes[bucket] if start <= call <= end]

    def refusals(self, node=None, start=0, end=1 << 63):
        """{code: count} of what clients were told in [start, end]."""
        out = {}
        for line in self.history:
            if line["op"] in ("append", "read") and line["result"] in ("fail", "unknown") and \
                    node in (None, line["node"]) and start <= line["call"] <= end:
                code = line.get("code") or "no answer"
                out[code] = out.get(code, 0) + 1
        return out


def percentile(values, part):
    """values in any order; nan where there are none."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")
