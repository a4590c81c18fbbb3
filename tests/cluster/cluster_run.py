"""Scenarios on real clusters; see tests/cluster/run."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import soak  # noqa: E402
from checker_self_test import self_test  # noqa: E402
from network import Loopback, Namespaces  # noqa: E402
from scenarios import SCENARIOS  # noqa: E402
from support.node import build_dir, first_port  # noqa: E402
from support.report import Result  # noqa: E402
from trial import Trial  # noqa: E402


def main():
    parser = argparse.ArgumentParser(prog="tests/cluster/run", description="scenarios on real clusters")
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help="only these (see --list)")
    parser.add_argument("--quick", action="store_true", help="a few, on loopback, in under 4 minutes")
    parser.add_argument("--long", action="store_true", help="more rounds of each")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="a random mixture of faults for so long")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--build", default=build_dir())
    parser.add_argument("--port", type=int, default=first_port(22000))
    parser.add_argument("--dir", default=None, help="where the nodes' directories are; kept when something fails")
    options = parser.parse_args()
    if options.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:18} {scenario.network:11} {'quick ' if scenario.quick else '      '} {scenario.text}")
        return 0
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {' '.join(unknown)}; see --list")
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    runner = Runner(options, seed)
    if options.soak:
        runner.run_soak(options.soak)
    else:
        runner.self_test()
        for name in options.names or [name for name, s in SCENARIOS.items() if s.quick or not options.quick]:
            runner.run(SCENARIOS[name])
    return runner.finish()


class Runner:
    def __init__(self, options, seed):
        self.options, self.seed = options, seed
        self.result = Result()
        self.failed = []
        self.operations = 0
        self.level = "long" if options.long else "quick" if options.quick else "normal"

    def self_test(self):
        passed, failed, messages, kinds = self_test(2)
        self.result.expect(failed == 0, "the checker's self-test: " + "; ".join(messages))
        print(f"the checker: {kinds} mutations, {passed} checks", flush=True)

    def run(self, scenario):
        """One scenario on a cluster of its own; nothing that goes wrong in it keeps the next one from running."""
        print(f"--- {scenario.name}: {scenario.text}", flush=True)
        why = scenario.why_not()
        if why:
            print(f"    SKIPPED: {scenario.name} was not run: {why}", flush=True)
            self.result.skipped += 1
            return
        begin, before = time.monotonic(), self.result.failed
        base = tempfile.mkdtemp(prefix=f"sierradb-{scenario.name}-", dir=self.options.dir)
        options = dict(scenario.options)
        kind = Namespaces if scenario.network == "namespaces" else Loopback
        trial = network = None
        try:
            network = kind(options.pop("nodes", 3), self.options.port)
            trial = Trial(base, network, self.seed, self.result, build=os.path.abspath(self.options.build),
                          level=self.level, **options)
            with trial:
                trial.begin()
                scenario.run(trial)
        except Exception as error:
            if not isinstance(error, TimeoutError):
                traceback.print_exc(file=sys.stdout)
            self.result.expect(False, f"{scenario.name}: {type(error).__name__}: {error}")
            if trial is not None:
                print(trial.cluster.logs_tail(), flush=True)
        finally:
            if network is not None:
                network.close()
        self.operations += trial.operations if trial else 0
        bad = self.result.failed > before
        if bad:
            self.failed.append(scenario.name)
            print(f"    kept: {base}")
        else:
            shutil.rmtree(base)
        print(f"    {scenario.name}: {'FAILED' if bad else 'good'} in {time.monotonic() - begin:.0f} s", flush=True)

    def run_soak(self, minutes):
        for scenario in soak.parts(minutes, self.seed):
            self.run(scenario)

    def finish(self):
        print(f"{self.operations} operations checked")
        if self.failed:
            print("failed: " + " ".join(self.failed))
        self.result.finish()


if __name__ == "__main__":
    sys.exit(main())
