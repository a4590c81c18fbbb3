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
from workload import ACTIVE, HOT, NOTHING

HERE = os.path.dirname(os.path.abspath(__file__))
SECOND = 1_000_000_000
SCAN_COUNT = 2000


class Direct:
    """One plain connection, a command at a time."""

    def __init__(self, node, timeout=10.0):
        self.sock = socket.create_connection((node.host, node.port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader(notEnoughData=NOTHING)
        self.cmd("HELLO", "3")

    def cmd(self, *words):
        self.sock.sendall(hiredis.pack_command(words))
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
    def __init__(self, base, network, seed, config=None, tmpfs=None, build=None, writers=16, readers=3, subscribers=6,
                 pause_ms=12.0, hot=0.35, timeout_s=4.0):
        self.base, self.seed = base, seed
        self.cluster = Cluster(network, base, config, build, tmpfs)
        self.clients = []
        self.load = {"w": {"writers": writers, "readers": readers},
                     "s": {"subscribers": subscribers}}
        self.common = {"pause_ms": pause_ms, "hot": hot, "timeout_s": timeout_s}
        self.faults = []    # (time, what)
        self.figures = []   # lines for people
        self.problems = []
        self.lines = []
        self.stale_s = None

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

    def acked(self):
        return {int(bucket): count for bucket, count in self.clients[0].ask("stats")["acked"].items()}

    def wait_progress(self, when, least=20, timeout=30.0, buckets=range(BUCKETS)):
        """So many more appends are acknowledged in every bucket; returns the seconds that it took."""
        begin, floor = time.monotonic(), self.acked()

        def moved():
            state = self.acked()
            return all(state[bucket] >= floor[bucket] + least for bucket in buckets)
        wait_for(f"acknowledged appends in every bucket {when}", moved, timeout, 0.02)
        return time.monotonic() - begin

    def run_for(self, seconds):
        """Lets the load go on."""
        time.sleep(seconds)

    def fault(self, what):
        """The moment at which something is done."""
        self.faults.append((now(), what))
        return self.faults[-1][0]

    def say(self, text):
        self.figures.append(text)
        print(f"    {text}", flush=True)

    def healed(self, bound_s=10.0):
        """From here on no fault is at work."""
        self.lines.append({"op": "mark", "what": "healed", "t": now(), "bound_s": bound_s})

    # --- the end ---

    def end(self, settle_s=60.0, down=()):
        """Ends the load, waits until all replicas are level, compares everything; returns the problems. down: nodes that
        stay away."""
        writer, subscriber = self.clients
        self.guard("the last appends", lambda: self.wait_progress("at the end", 5))
        stats = writer.ask("stop")
        if stats["unresolved"]:
            self.problems.append(("liveness", f"{stats['unresolved']} appends have no outcome"))
        nodes = [node for node in self.cluster.nodes if node.index not in down]
        self.guard("all replicas are level", lambda: self.cluster.wait_settled(settle_s, nodes))
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

    def acks(self):
        """(time of the answer, bucket, latency) of every acknowledged append, by time."""
        return sorted((line["ret"], line["p"] % BUCKETS, line["ret"] - line["call"]) for line in self.history
                      if line["op"] == "append" and line["result"] == "ok")

    def gap(self, acks, bucket, start, end):
        """The longest time without an answer in a bucket that ends behind start, in seconds."""
        times = [time for time, of, _ in acks if of == bucket]
        at = max(0, bisect.bisect_left(times, start) - 1)
        last = bisect.bisect_right(times, end)
        longest = max((b - a for a, b in zip(times[at:last], times[at + 1:last + 1])), default=0)
        return longest / SECOND


def percentile(values, part):
    """values in any order; nan where there are none."""
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part))] if values else float("nan")
