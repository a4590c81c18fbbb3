"""The steps of tests/run: what each runs, in which lane, and how its own closing line is counted.

Every step's output goes to build-logs/STEP.log. A step's counts come from the last line of its own that
has them; a step that ends badly without saying how many failed counts as one failure more, and so does
one that ends well without having counted anything.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LOGS = os.path.join(ROOT, "build-logs")
RELEASE = os.path.join(ROOT, "build")
ASAN = os.path.join(ROOT, "build", "asan")
PYTHON = sys.executable

# Steps run beside each other: each has ports of its own.
PORT_FIRST = 21000
PORTS_PER_STEP = 40

SANITIZER_REPORT = re.compile(
    rb"ERROR: (Address|Leak)Sanitizer|SUMMARY: \w+Sanitizer|: runtime error: ")


class Step:
    """needs: steps that must have passed. alone: nothing else runs beside it (it measures time)."""

    def __init__(self, name, command, build=None, needs=(), alone=False, minutes=15):
        self.name, self.command, self.build = name, command, build
        self.needs, self.alone, self.minutes = needs, alone, minutes
        self.port = 0
        self.state = "waiting"
        self.passed = self.failed = self.skipped = 0
        self.seconds = 0.0
        self.note = ""

    @property
    def log(self):
        return os.path.join(LOGS, self.name + ".log")

    @property
    def folder(self):
        return os.path.join(LOGS, self.name)


def steps(full):
    asan, release = ["build-asan"], ["build-release"]
    pytest = f"{PYTHON} -m pytest -q --color=no -p no:cacheprovider"
    example = "tests/example --kill " + ("--full" if full else "--fraction 0.1")
    return [
        Step("tidy", f"{PYTHON} tests/tidy.py", minutes=2),
        Step("docs", f"{PYTHON} tests/doc_tables.py", minutes=2),
        Step("build-asan", "tests/build asan"),
        Step("build-release", "tests/build release"),
        Step("build-tsan", "tests/build tsan"),
        Step("threads-tsan", "build/tsan/tests/unit/threads_test", None, ["build-tsan"]),
        Step("symbols", "tests/symbols", RELEASE, release, minutes=2),
        Step("model", "tests/model/run", minutes=30),
        Step("unit-asan", "meson test -C build/asan --no-rebuild --suite unit --print-errorlogs"
             " --timeout-multiplier 4", ASAN, asan),
        Step("unit-release", "meson test -C build --no-rebuild --suite unit --print-errorlogs",
             RELEASE, release),
        Step("wire-asan", f"{pytest} tests/wire", ASAN, asan),
        Step("sim", "tests/sim/run --single --seeds 1000", RELEASE, release),
        Step("sim-determinism", "tests/sim/run --single --seeds 100 --check-determinism", RELEASE, release),
        Step("sim-self-test", "tests/sim/run --single --self-test", RELEASE, release),
        Step("sim-asan", "tests/sim/run --single --seeds 50", ASAN, asan),
        Step("sim-cluster", "tests/sim/run --seeds 500 --corpus", RELEASE, release),
        Step("sim-cluster-determinism", "tests/sim/run --seeds 50 --check-determinism", RELEASE, release),
        Step("sim-cluster-plants", "tests/sim/run --self-test", RELEASE, release),
        Step("sim-cluster-asan", "tests/sim/run --seeds 30", ASAN, asan),
        Step("sim-scale", "tests/sim/scale --nodes 10 --seconds 5 --rate 500 --kills 5", RELEASE, release),
        Step("wire-release", f"{pytest} tests/wire", RELEASE, release),
        Step("fuzz", "tests/fuzz/run --seconds 20", None, []),
        Step("crash", "tests/crash/run --cycles 200 --port {port}", RELEASE, release),
        Step("crash-syscalls", "tests/crash/syscalls --port {port}", RELEASE, release),
        Step("crash-disk-full", "tests/crash/disk_full --port {port}", RELEASE, release),
        Step("crash-supervisor", "tests/crash/supervisor --port {port}", RELEASE, release),
        Step("crash-restart", "tests/crash/restart --port {port}", RELEASE, release),
        Step("cluster", "tests/cluster/run --quick --port {port}", RELEASE, release),
        Step("example-release", example, RELEASE, release),
        Step("example-asan", "tests/example --fraction 0.02", ASAN, asan),
    ]


def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def count(text):
    """(passed, failed, skipped) from a closing line, the last that is one; None where there is none."""
    found = None
    for line in text.decode("utf-8", "replace").splitlines():
        plain = re.match(r"^(?:\w+: )?(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\.?$", line.strip())
        if plain:
            found = (int(plain[1]), int(plain[2]), int(plain[3] or 0))
        elif re.search(r"\b\d+ (passed|failed|errors?|skipped)\b.* in [\d.]+s", line):
            numbers = dict((word.rstrip("s") if word.startswith("error") else word, int(number))
                           for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", line))
            found = (numbers.get("passed", 0), numbers.get("failed", 0) + numbers.get("error", 0),
                     numbers.get("skipped", 0))
    return found or count_meson(text)


def count_meson(text):
    words = dict((name.decode(), int(number)) for name, number in re.findall(
        rb"(?m)^(Ok|Expected Fail|Fail|Unexpected Pass|Skipped|Timeout):\s+(\d+)\s*$", text))
    if not words:
        return None
    return (words.get("Ok", 0) + words.get("Expected Fail", 0),
            words.get("Fail", 0) + words.get("Unexpected Pass", 0) + words.get("Timeout", 0),
            words.get("Skipped", 0))


def environment(step):
    env = dict(os.environ)
    env["SIERRADB_TEST_LOGS"] = step.folder
    env["SIERRADB_TEST_PORT"] = str(step.port)
    if step.build:
        env["SIERRADB_BUILD"] = step.build
        env["SIM"] = os.path.join(step.build, "tests", "sim", "sim")
        env["CSIM"] = os.path.join(step.build, "tests", "sim", "csim")
    if step.build == ASAN:
        report = os.path.join(step.folder, "sanitizer")
        env["ASAN_OPTIONS"] = f"log_path={report}:detect_leaks=1:abort_on_error=0"
        env["UBSAN_OPTIONS"] = f"log_path={report}:print_stacktrace=1:halt_on_error=1"
    return env


def execute(step):
    """Runs the step's command; returns its exit code, or None where it took too long."""
    with open(step.log, "wb") as log:
        try:
            words = shlex.split(step.command.format(port=step.port))
            process = subprocess.Popen(words, cwd=ROOT, env=environment(step), stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log, start_new_session=True)
        except OSError as error:
            log.write(f"cannot run {step.command}: {error.strerror}\n".encode())
            return 127
        try:
            return process.wait(step.minutes * 60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            log.write(b"\nkilled: took too long\n")
            return None


def sanitizer_reports(step):
    texts = [read(step.log)]
    for folder, _, names in os.walk(step.folder):
        texts += [read(os.path.join(folder, name)) for name in names]
    return sum(1 for text in texts if SANITIZER_REPORT.search(text))


def judge(step, code):
    counted = count(read(step.log))
    if step.name.startswith("build-") and counted is None:
        counted = (1, 0, 0) if code == 0 else (0, 1, 0)
    if counted:
        step.passed, step.failed, step.skipped = counted
    if code is None:
        step.note, step.failed = f"killed after {step.minutes} min", step.failed + 1
    elif code != 0 and step.failed == 0:
        step.note, step.failed = f"exit code {code}", 1
    elif code == 0 and step.passed + step.failed == 0:
        step.note, step.failed = "ran no test", 1
    reports = sanitizer_reports(step) if step.build == ASAN or step.name == "fuzz" else 0
    if reports:
        step.note, step.failed = f"{reports} sanitizer reports", step.failed + reports


def run_step(step, say):
    say(f"--- {step.name}: {step.command}")
    shutil.rmtree(step.folder, ignore_errors=True)
    os.makedirs(step.folder)
    start = time.monotonic()
    judge(step, execute(step))
    step.seconds = time.monotonic() - start
    step.state = "failed" if step.failed else "passed"
    say(f"    {step.name}: {step.passed} passed, {step.failed} failed, {step.skipped} skipped"
        f" in {step.seconds:.0f} s {step.note}".rstrip())
    if step.failed:
        tail = read(step.log).decode("utf-8", "replace").splitlines()[-25:]
        say("\n".join("    | " + line for line in tail))


class Lanes:
    """Two workers take the first step in order that may run now."""

    def __init__(self, chosen, lanes):
        self.steps, self.lanes = chosen, lanes
        self.changed = threading.Condition()
        self.print_lock = threading.Lock()

    def say(self, text):
        with self.print_lock:
            print(text, flush=True)

    def pick(self):
        """A step, or None where none may run now; a step whose needs failed is settled here."""
        by_name = {step.name: step for step in self.steps}
        running = [step for step in self.steps if step.state == "running"]
        for step in self.steps:
            if step.state != "waiting":
                continue
            needs = [by_name[name] for name in step.needs if name in by_name]
            if any(need.state == "failed" for need in needs):
                step.state, step.failed, step.note = "failed", 1, "not run: what it needs failed"
                continue
            if any(need.state != "passed" for need in needs):
                continue
            if any(other.alone for other in running) or (step.alone and running):
                return None
            return step
        return None

    def work(self):
        while True:
            with self.changed:
                step = self.pick()
                while step is None and any(s.state == "waiting" for s in self.steps):
                    self.changed.wait()
                    step = self.pick()
                if step is None:
                    self.changed.notify_all()
                    return
                step.state = "running"
            try:
                run_step(step, self.say)
            except Exception as error:  # a fault of this file must be a failure, not a hang
                step.state, step.failed, step.note = "failed", step.failed + 1, repr(error)
            with self.changed:
                self.changed.notify_all()

    def run(self):
        workers = [threading.Thread(target=self.work) for _ in range(self.lanes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def select(every, only):
    if not only:
        return every
    names = {step.name for step in every}
    for name in only:
        if not any(step == name or step.startswith(name + "-") for step in names):
            sys.exit(f"no step {name}; there are: {' '.join(step.name for step in every)}")
    chosen = {step.name for step in every
              if any(step.name == name or step.name.startswith(name + "-") for name in only)}
    for step in every:
        if step.name in chosen:
            chosen.update(step.needs)
    return [step for step in every if step.name in chosen]


def summary(chosen, seconds):
    print(f"\n{'step':24} {'passed':>7} {'failed':>7} {'skipped':>8} {'seconds':>8}")
    for step in chosen:
        print(f"{step.name:24} {step.passed:7} {step.failed:7} {step.skipped:8} {step.seconds:8.0f}"
              f"  {step.note}".rstrip())
    print(f"\nlogs in {LOGS}; {seconds / 60:.1f} minutes")
    passed, failed = sum(s.passed for s in chosen), sum(s.failed for s in chosen)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(prog="tests/run", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="STEP",
                        help="this step, or all whose names begin so; with what they need; may be repeated")
    parser.add_argument("--full", action="store_true", help="the example with all of its data")
    parser.add_argument("--list", action="store_true", help="show the steps and leave")
    parser.add_argument("--lanes", type=int, default=2, help="steps at the same time (default 2)")
    options = parser.parse_args()
    every = steps(options.full)
    for number, step in enumerate(every):
        step.port = PORT_FIRST + PORTS_PER_STEP * number
    if options.list:
        for step in every:
            print(f"{step.name:24} {step.command}")
        return 0
    chosen = select(every, options.only)
    os.makedirs(LOGS, exist_ok=True)
    start = time.monotonic()
    Lanes(chosen, options.lanes).run()
    return summary(chosen, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
