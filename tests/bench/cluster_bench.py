"""The benchmark behind tests/bench/cluster: three nodes with three copies of everything beside one node alone, in turn,
medians of several rounds.

All run on this machine, client included, so three nodes share the processors and the disk that one has for itself.
Appends are driven by redis-benchmark as in tests/bench/run, at one node of the three: what others lead goes there
first. Bytes on peer links are those that the nodes have counted themselves, heartbeats included."""

import argparse
import os
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "cluster"))
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bench import APPENDS, OURS, ROOT, Bench, sync_us  # noqa: E402
from network import Loopback  # noqa: E402
from nodes import Cluster  # noqa: E402
from support.node import build_dir, first_port  # noqa: E402

CONFIG = {"append.strict_versioning": False, "segment.size_bytes": 256 << 20}


class Sizes:
    """One size of cluster, through all rounds."""

    def __init__(self, bench, options, count):
        self.bench, self.options, self.count = bench, options, count
        self.results = {case: [] for case in APPENDS}

    def run(self, number):
        base = tempfile.mkdtemp(dir=self.bench.folder)
        network = Loopback(self.count, self.options.port)
        with Cluster(network, base, CONFIG, self.options.build) as cluster:
            cluster.start()
            cluster.wait_settled()
            port = network.client_port(0)
            self.bench.redis_benchmark(port, 10, 1, 2000, *OURS)
            for case, (connections, pipeline, count) in APPENDS.items():
                if not self.bench.wanted(case):
                    continue
                count = self.bench.scaled(count // (1 if self.count == 1 else 3))
                before = sent_bytes(cluster)
                result = self.bench.redis_benchmark(port, connections, pipeline, count, *OURS)
                result["peer_bytes"] = (sent_bytes(cluster) - before) / count
                self.results[case].append(result)
                self.bench.say(f"  round {number} {self.count} nodes {case}: {result['rate']:,.0f}/s p50 "
                               f"{result['p50_ms']} ms p99 {result['p99_ms']} ms, {result['peer_bytes']:,.0f} B")

    def median(self, case, key):
        return statistics.median(result[key] for result in self.results[case])


def sent_bytes(cluster):
    """By all nodes to all others."""
    total = 0
    for node in cluster.nodes:
        if cluster.count > 1:
            total += sum(peer["bytes_out"] for peer in node.report()["nodes"])
    return total


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/cluster", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--quick", action="store_true", help="an eighth of the requests")
    parser.add_argument("--only", action="append", metavar="TEXT", help="cases whose name holds TEXT; may be repeated")
    parser.add_argument("--nodes", type=int, default=3, help="default 3")
    parser.add_argument("--folder", help="where the data lies meanwhile (default: beside the project)")
    parser.add_argument("--build", default=build_dir())
    parser.add_argument("--port", type=int, default=first_port(9200))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.folder or ROOT) as folder:
        bench = Bench(options, folder)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, write + fdatasync of 512 bytes "
              f"{sync_us(folder):.0f} µs, {time.strftime('%Y-%m-%d %H:%M')}", flush=True)
        sizes = [Sizes(bench, options, 1), Sizes(bench, options, options.nodes)]
        for number in range(1, options.rounds + 1):
            for size in sizes if number % 2 else sizes[::-1]:
                size.run(number)
    one, many = sizes
    head = f"{options.nodes} nodes"
    print(f"\n{'case':32} {'1 node/s':>10} {head + '/s':>10} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7} "
          f"{'p50 ms':>7} {'p99 ms':>7} {'peer bytes/event':>17}")
    for case in filter(bench.wanted, APPENDS):
        rates = one.median(case, "rate"), many.median(case, "rate")
        latencies = [size.median(case, key) for size in sizes for key in ("p50_ms", "p99_ms")]
        print(f"{case:32} {rates[0]:10,.0f} {rates[1]:10,.0f} {rates[1] / rates[0]:6.2f} "
              + " ".join(f"{ms:7.2f}" for ms in latencies) + f" {many.median(case, 'peer_bytes'):17,.0f}")


if __name__ == "__main__":
    main()
