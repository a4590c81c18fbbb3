"""The benchmark behind tests/bench/run: our node and a Redis in turn, medians of several rounds, one table.

Appends are driven by redis-benchmark in both: a 203-byte JSON payload to one of 100,000 streams chosen at random.
Everything else by bench-load (tests/bench/load.c), since redis-benchmark can't vary event ids or count
events. Both servers keep their data below one temporary folder (--folder, on the disk that is to be measured).
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from tests.support.node import Node, process_rss, wait_for  # noqa: E402

STREAMS = 100000
PAYLOAD = ('{"order":"o-7736201","customer":"c-99812","amount":129.95,"currency":"EUR","items":[{"sku":"A-1001",'
           '"qty":2},{"sku":"B-2002","qty":1}],"ship":{"city":"Wien","zip":"1070"},"note":"ring the bell twice ok"}')
assert len(PAYLOAD) == 203
# The same with numbers that differ from event to event, for bytes on disk.
PAYLOAD_VARIED = PAYLOAD.replace("o-7736201", "__rand_int__").replace("c-99812", "c-__rand_int__")

# name: connections, pipeline, requests in a full round
APPENDS = {
    "append 1 connection": (1, 1, 10000),
    "append 50 connections": (50, 1, 120000),
    "append 50 connections -P 16": (50, 16, 600000),
    "append 500 connections": (500, 1, 150000),
}


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.load = os.path.join(options.build, "tests", "bench", "bench-load")
        self.rows = []
        self.results = {}    # (case, server) -> list of dicts
        self.number = 0

    def wanted(self, case):
        return not self.options.only or any(word in case for word in self.options.only)

    def scaled(self, count):
        return max(1, count // (8 if self.options.quick else 1))

    def say(self, text):
        print(text, file=sys.stderr, flush=True)

    # --- servers ---

    @contextlib.contextmanager
    def node(self, **config):
        self.number += 1
        config = {"append.strict_versioning": False, **{k.replace("__", "."): v for k, v in config.items()}}
        node = Node(os.path.join(self.folder, f"node{self.number}"), self.options.port, config,
                    build=self.options.build)
        try:
            yield node
            node.stop()
        finally:
            if os.path.exists(node.log_path) and self.options.keep:
                shutil.copy(node.log_path, self.options.keep)
            node.remove()

    @contextlib.contextmanager
    def redis(self):
        self.number += 1
        folder = os.path.join(self.folder, f"redis{self.number}")
        os.makedirs(folder)
        # Debian's redis-tools hold the server's program under another name.
        program = os.path.join(folder, "redis-server")
        os.symlink(shutil.which("redis-server") or shutil.which("redis-check-rdb"), program)
        port = self.options.redis_port
        process = subprocess.Popen([program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
                                    "--save", "", "--appendonly", "yes", "--appendfsync", "always"],
                                   stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        try:
            wait_for("redis", lambda: connects(port))
            yield process
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder, ignore_errors=True)

    # --- measuring ---

    def keep_result(self, case, server, result):
        self.results.setdefault((case, server), []).append(result)

    def median(self, case, server, key):
        values = [r[key] for r in self.results.get((case, server), []) if r.get(key) is not None]
        return statistics.median(values) if values else None

    def bench_load(self, *words):
        done = subprocess.run([self.load, *map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"bench-load {words}: {done.stderr}")
        return json.loads(done.stdout)

    def redis_benchmark(self, port, connections, pipeline, count, *command):
        """One run; rps and p50 in ms."""
        done = subprocess.run(
            ["redis-benchmark", "-h", "127.0.0.1", "-p", str(port), "-c", str(connections), "-P", str(pipeline),
             "-n", str(count), "-r", str(STREAMS), "--csv", *command],
            capture_output=True, text=True, check=False)
        # The command stands in the first field as it is, quotes and all: the figures are the last seven.
        figures = re.findall(r'"([\d.]+)"', done.stdout.rstrip().rpartition('\n')[2])[-7:]
        if done.returncode or len(figures) < 7:
            raise RuntimeError(f"redis-benchmark: {done.returncode}\n{done.stdout}{done.stderr}")
        return {"rate": float(figures[0]), "p50_ms": float(figures[3]), "p99_ms": float(figures[5])}

    def profile(self, node, case):
        if not self.options.perf:
            return contextlib.nullcontext()
        return Profile(node, case, self.folder)


def connects(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Profile:
    """perf record of all the node's processes; prints the top symbols at the end."""

    def __init__(self, node, case, folder):
        self.node, self.case = node, case
        self.data = os.path.join(folder, "perf.data")

    def __enter__(self):
        pids = ",".join(str(pid) for pid in self.node.children().values())
        self.process = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "999", "-g", "-o", self.data,
                                         "-p", pids], stderr=subprocess.DEVNULL)

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        print(f"\nperf: {self.case}")
        for sort in ("comm,dso", "comm,symbol"):
            report = subprocess.run(["perf", "report", "--stdio", "--no-children", "-g", "none", "-q", "-i", self.data,
                                     "--sort", sort], capture_output=True, text=True, check=False).stdout
            lines = [line.rstrip() for line in report.splitlines() if line.strip()]
            print("\n".join(lines[:12 if sort == "comm,dso" else 40]), flush=True)
        os.unlink(self.data)


# --- statistics of the node ------------------------------------------------------------------------

def flushes(node):
    """(flushes, flushed events) of all buckets, or None where status doesn't tell."""
    total = [0, 0]
    for process in node.status().get("processes", []):
        stats = process.get("stats", process)
        if "flushes" not in stats:
            continue
        total[0] += int(stats["flushes"])
        total[1] += int(stats["flushed_events"])
    return tuple(total) if total[0] else None


def memory_mib(node):
    return {str(name): process_rss(pid) / 2**20
            for name, pid in {"supervisor": node.pid, **node.children()}.items()}


# --- appends ------------------------------------------------------------------------------------------

OURS = ["EAPPEND", "stream-__rand_int__", "Ev", "EXPECTED_VERSION", "any", "PAYLOAD", PAYLOAD]
REDIS = ["XADD", "stream-__rand_int__", "*", "name", "Ev", "payload", PAYLOAD]


def append_round(bench, cases, number):
    def ours():
        with bench.node() as node:
            bench.redis_benchmark(bench.options.port, 10, 1, 2000, *OURS)
            for case in cases:
                connections, pipeline, count = APPENDS[case]
                before = flushes(node)
                with bench.profile(node, case):
                    result = bench.redis_benchmark(bench.options.port, connections, pipeline,
                                                   bench.scaled(count), *OURS)
                time.sleep(1.1)  # the supervisor asks its children for their counters once a second
                after = flushes(node)
                if before and after and after[0] > before[0]:
                    result["group"] = (after[1] - before[1]) / (after[0] - before[0])
                bench.keep_result(case, "ours", result)
                bench.say(f"  round {number} ours   {case}: {result['rate']:,.0f}/s p50 {result['p50_ms']} ms")

    def theirs():
        with bench.redis():
            bench.redis_benchmark(bench.options.redis_port, 10, 1, 2000, *REDIS)
            for case in cases:
                connections, pipeline, count = APPENDS[case]
                result = bench.redis_benchmark(bench.options.redis_port, connections, pipeline,
                                               bench.scaled(count), *REDIS)
                bench.keep_result(case, "redis", result)
                bench.say(f"  round {number} redis  {case}: {result['rate']:,.0f}/s p50 {result['p50_ms']} ms")

    for run in ((ours, theirs) if number % 2 else (theirs, ours)):
        run()


def appends(bench):
    cases = [case for case in APPENDS if bench.wanted(case)]
    if not cases:
        return
    for number in range(1, bench.options.rounds + 1):
        append_round(bench, cases, number)
    for case in cases:
        bench.rows.append((case, "appends/s", bench.median(case, "ours", "rate"),
                           bench.median(case, "redis", "rate"), bench.median(case, "ours", "p50_ms"),
                           bench.median(case, "redis", "p50_ms"), bench.median(case, "ours", "group")))


# --- reads ----------------------------------------------------------------------------------------------

def preload(bench, port, count, payload=PAYLOAD):
    command = [*OURS[:-1], payload]
    bench.redis_benchmark(port, 50, 16, count, *command)


def collect(port, limit):
    """Some ids, streams and each partition's length, by EPSCAN."""
    import hiredis
    sock = socket.create_connection(("127.0.0.1", port))
    reader = hiredis.Reader()

    def call(*words):
        words = [str(word).encode() for word in words]
        sock.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
        while True:
            value = reader.gets()
            if value is not False:
                return value
            reader.feed(sock.recv(65536))

    partitions = call("HELLO", "3")[b"num_partitions"]
    ids, streams, lengths = [], set(), {}
    for partition in range(partitions):
        last = call("EPSEQ", partition)
        lengths[partition] = 0 if last is None else last + 1
        start, want = 0, limit // partitions
        while want > 0:
            reply = call("EPSCAN", partition, start, "+", "COUNT", min(1000, want))
            for event in reply[b"events"]:
                ids.append(event[b"event_id"].decode())
                streams.add(event[b"stream_id"].decode())
                start = event[b"partition_sequence"] + 1
            want -= len(reply[b"events"])
            if not reply[b"has_more"] or not reply[b"events"]:
                break
    sock.close()
    return ids, sorted(streams), lengths


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    return path


READS = {
    "EGET 1 connection": ("eget", 1, 1, 40000),
    "EGET 50 connections": ("eget", 50, 1, 300000),
    "EGET 50 connections -P 16": ("eget", 50, 16, 1000000),
    "ESCAN short stream, 50 connections": ("escan", 50, 1, 200000),
    "EPSCAN COUNT 100, 1 connection": ("epscan", 1, 1, 20000),
    "EPSCAN COUNT 100, 50 connections": ("epscan", 50, 1, 50000),
}


def reads(bench):
    cases = [case for case in READS if bench.wanted(case)]
    live = [case for case in ("live event, append sent -> push received", "fan-out to 1,000 subscribers")
            if bench.wanted(case)]
    if not cases and not live:
        return
    count = bench.scaled(400000)
    with bench.node() as node:
        bench.say(f"  loading {count:,} events")
        if cases:
            preload(bench, bench.options.port, count)
            files = read_files(bench, bench.options.port)
        for case in cases:
            kind, connections, pipeline, requests = READS[case]
            for number in range(1, bench.options.rounds + 1):
                with bench.profile(node, case):
                    result = bench.bench_load("requests", bench.options.port, files[kind], connections, pipeline,
                                              bench.scaled(requests))
                bench.keep_result(case, "ours", result)
                bench.say(f"  round {number} {case}: {result['per_second']:,.0f} requests/s, "
                          f"{result['events_per_second']:,.0f} events/s, p50 {result['p50_us']} µs")
            key, unit = (("events_per_second", "events/s") if kind == "epscan" else ("per_second", "requests/s"))
            bench.rows.append((case, unit, bench.median(case, "ours", key), None,
                               bench.median(case, "ours", "p50_us") / 1000, None, None))
        for case in live:
            live_case(bench, node, case)


def read_files(bench, port):
    ids, streams, lengths = collect(port, 100000)
    rng = random.Random(1)
    starts = []
    for _ in range(20000):
        partition = rng.choice(list(lengths))
        starts.append((partition, rng.randrange(max(1, lengths[partition] - 100))))
    path = bench.folder
    return {
        "eget": write_lines(os.path.join(path, "eget"), [f"EGET {ident}" for ident in ids]),
        "escan": write_lines(os.path.join(path, "escan"), [f"ESCAN {stream} - +" for stream in streams]),
        "epscan": write_lines(os.path.join(path, "epscan"), [f"EPSCAN {p} {s} + COUNT 100" for p, s in starts]),
    }


def live_case(bench, node, case):
    for number in range(1, bench.options.rounds + 1):
        with bench.profile(node, case):
            if case.startswith("live"):
                result = bench.bench_load("live", bench.options.port, bench.scaled(4000))
            else:
                result = bench.bench_load("fanout", bench.options.port, 1000, bench.scaled(400))
        bench.keep_result(case, "ours", result)
        bench.say(f"  round {number} {case}: p50 {result['p50_us']} µs, p99 {result['p99_us']} µs, "
                  f"{result['events_per_second']:,.0f} pushes/s")
    bench.rows.append((case, "pushes/s", bench.median(case, "ours", "events_per_second"), None,
                       bench.median(case, "ours", "p50_us") / 1000, None, None))


# --- restart, memory, disk --------------------------------------------------------------------------------

def restart(bench):
    case = "restart of a bucket"
    if not bench.wanted(case):
        return
    count = bench.scaled(1000000)
    with bench.node(bucket__count=1) as node:
        idle = memory_mib(node)
        bench.say(f"  loading {count:,} events into one bucket")
        preload(bench, bench.options.port, count)
        loaded = memory_mib(node)
        times = []
        with node.client() as client:
            client.cmd("EPSEQ", "0")
            for _ in range(max(3, bench.options.rounds)):
                old = node.child(0)
                start = time.monotonic()
                os.kill(old, signal.SIGKILL)
                client.cmd("EPSEQ", "0")
                times.append((time.monotonic() - start) * 1000)
                if node.wait_child_replaced(0, old) == old:
                    raise RuntimeError("the bucket was not killed")
        bench.say("  kill -9 to the first answer, ms: " + " ".join(f"{t:.0f}" for t in times))
        bench.rows.append((f"{case} of {count:,} events, kill -9 -> answer", "ms", statistics.median(times),
                           None, None, None, None))
        bench.rows.append(("memory of all processes, idle", "MiB", sum(idle.values()), None, None, None, None))
        bench.rows.append((f"memory of all processes, {count:,} events", "MiB", sum(loaded.values()), None, None,
                           None, None))


def disk(bench):
    """Sealed segments with their indexes, in bytes for each event in them."""
    for compression in (False, True):
        case = f"bytes on disk per event, {'lz4' if compression else 'plain'}"
        if not bench.wanted(case):
            continue
        count = bench.scaled(800000)
        with bench.node(segment__size_bytes=8 << 20, segment__compression=compression) as node:
            preload(bench, bench.options.port, count, PAYLOAD_VARIED)
            node.stop()
            size = events = 0
            for folder, _, names in os.walk(os.path.join(node.dir, "buckets")):
                if "index.eidx" in names:
                    size += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
                    events += events_of(os.path.join(folder, "data.evts"))
        own = len(PAYLOAD_VARIED) + len("Ev") + len("stream-000000000000")
        own += 2 * 12 - len("__rand_int__") * 2
        bench.say(f"  {case}: {size:,} bytes, {events:,} events in sealed segments")
        if events:
            bench.rows.append((case, f"bytes ({size / events / own:.2f} x own)", size / events, None, None, None,
                               None))


def events_of(path):
    """Events in a sealed segment: its last bytes are struct segment_footer (bucketd/core/format.h)."""
    with open(path, "rb") as file:
        file.seek(-80, os.SEEK_END)
        footer = struct.unpack("<QIIQQQQQQQQ", file.read(80))
    if footer[0] != 0x544f4f4642445253:
        raise RuntimeError(f"{path} has no footer")
    return footer[7]


# --- the whole -----------------------------------------------------------------------------------------------

def sync_us(folder):
    """Median of a 512-byte write and fdatasync into preallocated, zeroed space."""
    path = os.path.join(folder, "sync")
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, bytes(1 << 20), 0)
    os.fsync(fd)
    times = []
    for i in range(500):
        start = time.monotonic()
        os.pwrite(fd, b"x" * 512, i * 512)
        os.fdatasync(fd)
        times.append(time.monotonic() - start)
    os.close(fd)
    os.unlink(path)
    return statistics.median(times) * 1e6


def text_of(value, digits=0):
    return "" if value is None else f"{value:,.{digits}f}"


def print_table(bench):
    print(f"\n{'case':58} {'unit':22} {'SierraDB':>11} {'Redis':>9} {'ratio':>6} {'p50 ms':>8} {'Redis':>8}"
          f" {'group':>7}")
    for case, unit, ours, redis, p50, redis_p50, group in bench.rows:
        ratio = f"{ours / redis:.2f}" if ours and redis else ""
        print(f"{case:58} {unit:22} {text_of(ours):>11} {text_of(redis):>9} {ratio:>6} {text_of(p50, 3):>8}"
              f" {text_of(redis_p50, 3):>8} {text_of(group, 1):>7}")
    print("\ngroup: events made durable by one flush. Medians of the rounds. Redis: 7 with appendfsync always.")


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--quick", action="store_true", help="an eighth of the requests")
    parser.add_argument("--only", action="append", metavar="TEXT",
                        help="cases whose name holds TEXT; may be repeated")
    parser.add_argument("--perf", action="store_true", help="perf record of the node's processes for each case")
    parser.add_argument("--folder", help="where the data lies meanwhile (default: beside the project)")
    parser.add_argument("--keep", help="a folder to keep the nodes' logs in")
    parser.add_argument("--build", default=os.path.join(ROOT, "build"), help="build directory (default: build)")
    parser.add_argument("--port", type=int, default=9180)
    parser.add_argument("--redis-port", type=int, default=9170)
    return parser.parse_args()


def main():
    options = arguments()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.folder or ROOT) as folder:
        bench = Bench(options, folder)
        load = os.getloadavg()[0]
        print(f"{os.cpu_count()} cores, load {load:.1f} at the start"
              f"{' (NOT IDLE: figures are too low)' if load > 0.7 else ''}, write + fdatasync of 512 bytes"
              f" {sync_us(folder):.0f} µs, {time.strftime('%Y-%m-%d %H:%M')}", flush=True)
        try:
            appends(bench)
            reads(bench)
            restart(bench)
            disk(bench)
        finally:
            print_table(bench)


if __name__ == "__main__":
    main()
