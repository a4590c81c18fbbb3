"""Builds the image and runs it as users would; tests/cluster/image says more.

  - the build: size, what a change of the last layer builds anew
  - `docker run`: no root, a read-only root file system, any --user, no capabilities; refused starts say why
  - the environments of all compose and Kubernetes nodes are configurations that sierradb accepts
  - one node by compose: healthy; down and up; SIGKILL of the whole container under load; a clean stop; a netd that
    hangs is seen by the health check; no process left behind
"""

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support import resp  # noqa: E402
from support.node import wait_for  # noqa: E402
from support.report import Result  # noqa: E402

import image_files  # noqa: E402
import image_health  # noqa: E402
import image_scenarios  # noqa: E402
from image_cluster import IMAGE, compose_tool, inspect, run  # noqa: E402

ROOT = image_files.ROOT
BASE = "debian:bookworm-slim"
PROJECT = f"sierradb-image-test-{os.getpid()}"
SIZE_MB_MAX = 150
LAST_LAYER_SECONDS_MAX = 60
HEALTHY_SECONDS_MAX = 30
STOP_SECONDS_MAX = 5
EVENTS = 500


def main():
    parser = argparse.ArgumentParser(prog="tests/cluster/image")
    parser.add_argument("--forms-only", action="store_true", help="only what needs no Docker")
    parser.add_argument("--no-build", action="store_true", help=f"take the image {IMAGE} as it is")
    parser.add_argument("--port", type=int, default=9590, help="the first of four")
    parser.add_argument("--cluster", nargs="*", metavar="SCENARIO",
                        help=f"only three nodes under load, or these of {', '.join(image_scenarios.SCENARIOS)}")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    result = Result()
    if options.cluster is not None:
        result.run(lambda: clusters(options, result))
        result.finish()
    result.run(lambda: image_files.check(result))
    result.run(lambda: image_health.check(result))
    if not options.forms_only:
        if options.no_build or build(result):
            result.run(lambda: alone(options, result))
            result.run(lambda: configurations(result))
            result.run(lambda: composed(options, result))
            result.run(lambda: compose_files(result))
            result.run(lambda: made_secret(result))
            result.run(lambda: clusters(options, result))
    result.finish()


def clusters(options, result):
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    unknown = set(options.cluster or []) - set(image_scenarios.SCENARIOS)
    result.expect(not unknown, f"no scenario {' '.join(unknown)}")
    names = options.cluster or image_scenarios.runnable()
    for name in sorted(image_scenarios.SCENARIOS.keys() - set(names)) if not options.cluster else []:
        print(f"not run, it needs root: {name}")
    print(f"three nodes under load, seed {seed}", flush=True)
    image_scenarios.check(result, PROJECT, options.port + 1, seed, names)



# --- The build --------------------------------------------------------------------------------------------

def build(result):
    """From a copy of what the Dockerfile takes: the same sources for both builds, whoever works in the tree."""
    folder = tempfile.mkdtemp(prefix="sierradb-image-")
    try:
        return result.expect(build_in(folder, result), "the image isn't built")
    except Exception as error:
        return result.expect(False, f"build: {error}")
    finally:
        shutil.rmtree(folder)


def build_in(folder, result):
    for name in ("meson.build", "meson_options.txt", ".dockerignore", "tests/check_core_symbols.py"):
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), os.path.join(folder, name))
    for name in ("common", "proto", "bucketd", "netd", "supervisor", "deploy"):
        shutil.copytree(os.path.join(ROOT, name), os.path.join(folder, name))
    seconds = 0.0
    if run("docker", "image", "inspect", BASE, check=False).returncode != 0:
        start = time.monotonic()
        run(os.path.join(ROOT, "deploy", "base-image"), timeout=1200)
        seconds = time.monotonic() - start
    made = f"made in {seconds:.0f} s" if seconds else "it was there"
    print(f"base image {BASE}: {inspect(BASE, '.Size') / 1e6:.1f} MB, {made}", flush=True)
    command = ("docker", "build", "--force-rm", "-f", os.path.join(folder, "deploy", "Dockerfile"), "-t")
    start = time.monotonic()
    run(*command, IMAGE, folder, timeout=1800)
    size = inspect(IMAGE, ".Size") / 1e6
    print(f"image {IMAGE}: {size:.1f} MB (at most {SIZE_MB_MAX}), built in {time.monotonic() - start:.0f} s",
          flush=True)
    result.expect(size < SIZE_MB_MAX, f"the image has {size:.1f} MB")

    with open(os.path.join(folder, "deploy", "sierradb-health"), "a", encoding="utf-8") as file:
        file.write("# changed\n")
    start = time.monotonic()
    run(*command, PROJECT, folder, timeout=1800)
    seconds = time.monotonic() - start
    print(f"built again with a changed health check: {seconds:.1f} s", flush=True)
    result.expect(seconds < LAST_LAYER_SECONDS_MAX, f"packages or programs were built again: {seconds:.1f} s")
    result.expect(inspect(PROJECT, ".Id") != inspect(IMAGE, ".Id"), "the change isn't in the image")
    run("docker", "rmi", PROJECT)
    return True


# --- docker run -------------------------------------------------------------------------------------------

def in_image(*arguments, options=()):
    """A container that ends by itself."""
    try:
        return run("docker", "run", "--rm", "--name", PROJECT, *options, IMAGE, *arguments, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        run("docker", "rm", "-f", "-v", PROJECT)
        raise


def alone(options, result):
    """Without compose, and with as few rights as there can be."""
    result.expect(inspect(IMAGE, ".Config.User") not in ("", "0", "root"), "the image's user")
    done = in_image("--version")
    result.expect(done.returncode == 0 and done.stdout.startswith("sierradb "), f"--version: {done.stdout}")
    done = in_image("--no-such-option")
    result.expect(done.returncode == 2, f"a wrong option: exit status {done.returncode}")
    with tempfile.TemporaryDirectory(prefix="sierradb-image-") as folder:
        os.chmod(folder, 0o755)
        done = in_image(options=("-v", f"{folder}:/data", "--user", "4242"))
        result.expect(done.returncode == 1 and "/data/lock: open: Permission denied" in done.stdout,
                      f"a folder of somebody else: {done.returncode} {done.stdout}")

    name, volume, port = PROJECT + "-node", PROJECT, options.port
    rights = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "4242:4343")
    try:
        # As on a fresh file system of its own.
        run("docker", "run", "--rm", "--user", "4242", "--entrypoint", "mkdir", "-v", f"{volume}:/data", IMAGE,
            "/data/lost+found")
        run("docker", "run", "-d", "--name", name, *rights, "-p", f"127.0.0.1:{port}:9090", "-v", f"{volume}:/data",
            IMAGE)
        wait_healthy(name, result, "--read-only --user")
        reply = run("redis-cli", "-p", str(port), "EAPPEND", "alone", "Made", "EXPECTED_VERSION", "empty")
        result.expect("stream_version" in reply, f"EAPPEND: {reply}")
        users = {uid for _, uid, _ in processes(name)}
        result.expect(users == {"4242"}, f"processes of users {users}")
        seconds, code = stop(name)
        result.expect(code == 0 and seconds < STOP_SECONDS_MAX, f"stop: exit status {code} after {seconds:.1f} s")
        done = in_image("verify", "/data", options=("-v", f"{volume}:/data", "--user", "4242"))
        result.expect(done.returncode == 0, f"verify: {done.stdout}")
    finally:
        run("docker", "rm", "-f", "-v", name, check=False)
        run("docker", "volume", "rm", volume, check=False)


def wait_healthy(container, result, what):
    start = time.monotonic()
    try:
        wait_for("healthy", lambda: inspect(container, ".State.Health.Status") == "healthy", HEALTHY_SECONDS_MAX, 0.1)
    except TimeoutError:
        result.expect(False, f"{what}: not healthy: {inspect(container, '.State.Health')}"
                      f"\n{run('docker', 'logs', '--tail', '20', container, check=False).stdout}")
        raise
    result.expect(True, what)
    print(f"{what}: healthy after {time.monotonic() - start:.1f} s", flush=True)


def processes(container):
    """(pid, uid, name) of each, the dead that nobody has waited for among them."""
    return [line.split(None, 2) for line in run("docker", "top", container, "-eo", "pid,uid,comm").splitlines()[1:]]


def stop(container):
    """SIGTERM, and SIGKILL where that doesn't help. Seconds until it has ended, exit status."""
    start = time.monotonic()
    run("docker", "stop", "-t", "30", container)
    return time.monotonic() - start, inspect(container, ".State.ExitCode")


def configurations(result):
    for name, environment in image_files.cluster_environments():
        done = in_image("--check-config", options=environment_options(environment))
        result.expect(done.returncode == 0, f"{name}: {done.stdout}")
        del environment["SIERRADB_CLUSTER_SECRET"]
        path = environment["SIERRADB_CLUSTER_SECRET_FILE"]
        done = in_image("--check-config", options=environment_options(environment))
        result.expect(done.returncode == 1 and f"got '{path}': No such file" in done.stdout,
                      f"{name} without a secret: {done.returncode} {done.stdout}")
    if os.geteuid() == 0:
        mounted_secret(environment, path, result)


def mounted_secret(environment, path, result):
    """As Kubernetes mounts it for an fsGroup: of root and that group, mode 0440."""
    user = image_files.Facts().user
    with tempfile.TemporaryDirectory(prefix="sierradb-image-") as folder:
        os.chmod(folder, 0o755)
        file = os.path.join(folder, os.path.basename(path))
        with open(file, "w", encoding="utf-8") as out:
            out.write("0123456789abcdef0123456789abcdef")
        os.chown(file, 0, user)
        for mode, well in ((0o440, True), (0o444, False)):
            os.chmod(file, mode)
            done = in_image("--check-config", options=("-v", f"{folder}:{os.path.dirname(path)}:ro",
                                                       *environment_options(environment)))
            result.expect((done.returncode == 0) == well and (well or "nobody else may use" in done.stdout),
                          f"a mounted secret of mode {mode:o}: {done.returncode} {done.stdout}")


def environment_options(environment):
    return [word for key, value in environment.items() for word in ("-e", f"{key}={value}")]


# --- One node by compose ----------------------------------------------------------------------------------

def compose(*words, file="docker-compose.single.yml", check=True, env=None):
    return run(*compose_tool(), "-p", PROJECT, "-f", os.path.join(ROOT, "deploy", file), *words, check=check, env=env)


def compose_files(result):
    for name in ("docker-compose.single.yml", "docker-compose.yml"):
        done = compose("config", "-q", file=name, check=False)
        result.expect(done.returncode == 0, f"{name}: {done.stdout}")


def made_secret(result):
    """The cluster's secret: made once, for the nodes' user alone, and kept."""
    def look():
        return in_image("-c", "stat -c %a:%u /data/cluster && cat /data/cluster",
                        options=("--entrypoint", "sh", "-v", f"{PROJECT}_secret:/data:ro")).stdout.split("\n")
    user = image_files.Facts().user
    try:
        compose("run", "--rm", "secret", file="docker-compose.yml")
        first = look()
        result.expect(first[0] == f"600:{user}" and re.fullmatch("[0-9a-f]{64}", first[1]), f"the secret: {first}")
        compose("run", "--rm", "secret", file="docker-compose.yml")
        result.expect(look() == first, "the secret is another one at the second time")
    finally:
        compose("down", "-v", file="docker-compose.yml")


def composed(options, result):
    env = {"SIERRADB_PORT": f"127.0.0.1:{options.port}"}
    node = ComposedNode(options.port, env, result)
    try:
        node.up("compose up")
        reply = run("redis-cli", "-p", str(options.port), "PING")
        result.expect(reply == "PONG", f"PING: {reply}")
        node.append(EVENTS)
        node.check("after the appends")
        compose("down", env=env)
        node.up("compose up after down")
        node.check("after down and up")
        container_killed(node, result)
        netd_hangs(node, result)
        # Supervisor, netd, four buckets: no check has left anything behind.
        wait_for("six processes and no more", lambda: len(processes(node.container)) == 6)
        result.expect(True, "six processes")
        stop_under_load(node, result)
    finally:
        node.writing = False
        compose("down", "-v", "--remove-orphans", env=env)
    left = run("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={PROJECT}")
    result.expect(left == "", f"containers left: {left}")


class ComposedNode:
    """The node and what it has acknowledged: one stream, whose event number n has the payload n."""

    def __init__(self, port, env, result):
        self.port, self.env, self.result = port, env, result
        self.container, self.acknowledged, self.writing = None, 0, False

    def up(self, what):
        compose("up", "-d", "--no-build", env=self.env)
        self.container = compose("ps", "-q", "sierradb", env=self.env)
        wait_healthy(self.container, self.result, what)

    def append(self, count):
        with resp.Client(self.port, hello=3) as client:
            for _ in range(count):
                self.append_one(client)

    def append_one(self, client):
        number = self.acknowledged
        reply = client.cmd("EAPPEND", "written", "Written", "EXPECTED_VERSION", number - 1 if number else "empty",
                           "PAYLOAD", str(number))
        if isinstance(reply, resp.Error) and not self.stored(client, number):
            raise RuntimeError(f"append {number}: {reply!r}")
        self.acknowledged += 1

    def stored(self, client, number):
        """Was it stored by a try whose answer was lost?"""
        return client.cmd("ESVER", "written") == number

    def write(self):
        """Until `writing` is False, through every lost connection."""
        while self.writing:
            try:
                with resp.Client(self.port, hello=3) as client:
                    while self.writing:
                        self.append_one(client)
            except (OSError, resp.Closed, TimeoutError):
                time.sleep(0.02)  # between two tries to connect to a node that is away

    def under_load(self):
        self.writing = True
        thread = threading.Thread(target=self.write)
        thread.start()
        before = self.acknowledged
        wait_for("load", lambda: self.acknowledged >= before + 100)
        return thread

    def check(self, what):
        """Every acknowledged event is there, once, in order; at most one more, whose answer was lost."""
        payloads, more = [], True
        with resp.Client(self.port, hello=3) as client:
            while more:
                more, events = resp.scan(client.ok("ESCAN", "written", len(payloads), "+", "COUNT", 1000))
                payloads += [int(event["payload"]) for event in events]
        lost = self.acknowledged - len(payloads)
        self.result.expect(payloads == list(range(len(payloads))) and lost in (0, -1),
                           f"{what}: {len(payloads)} events, {self.acknowledged} acknowledged")
        print(f"{what}: {self.acknowledged} events acknowledged, {max(lost, 0)} of them missing", flush=True)
        self.acknowledged = len(payloads)


def container_killed(node, result):
    """SIGKILL to its first process, from outside: all of it is gone at once, and compose's restart brings it back."""
    writer = node.under_load()
    pid = inspect(node.container, ".State.Pid")
    before = node.acknowledged
    start = time.monotonic()
    try:
        os.kill(pid, 9)
        back = "restarted by itself"
    except PermissionError: # who isn't root may only ask Docker, which then doesn't restart it
        run("docker", "kill", node.container)
        run("docker", "start", node.container)
        back = "started again"
    wait_for("a new process", lambda: inspect(node.container, ".State.Pid") not in (0, pid), 30)
    wait_for("acknowledged appends", lambda: node.acknowledged > before + 100, 30)
    print(f"container killed with SIGKILL: {back}, appends acknowledged again after"
          f" {time.monotonic() - start:.1f} s", flush=True)
    node.writing = False
    writer.join()
    node.check("after SIGKILL of the container")
    wait_healthy(node.container, result, "after SIGKILL")


def netd_hangs(node, result):
    """Stopped, not dead: nobody starts it again, and only a PING can tell."""
    status = json.loads(run("docker", "exec", node.container, "sierradb", "status", "--json"))
    pid = next(process["pid"] for process in status["processes"] if process["name"] == "netd")

    def health(word, signal):
        run("docker", "exec", node.container, "bash", "-c", f"kill -{signal} {pid}")
        return run("docker", "exec", node.container, "sierradb-health", word, check=False)

    for word in ("live", "ready"):
        done = health(word, "STOP")
        result.expect(done.returncode == 1 and "no answer to PING" in done.stdout,
                      f"netd hangs: sierradb-health {word}: {done.returncode} {done.stdout}")
    done = health("ready", "CONT")
    result.expect(done.returncode == 0, f"netd goes on: {done.stdout}")


def stop_under_load(node, result):
    writer = node.under_load()
    seconds, code = stop(node.container)
    node.writing = False
    writer.join()
    log = run("docker", "logs", "--tail", "5", node.container)
    result.expect(code == 0 and seconds < STOP_SECONDS_MAX and "event=node.stopped" in log,
                  f"SIGTERM: exit status {code} after {seconds:.1f} s\n{log}")
    print(f"SIGTERM under load: exit status {code} after {seconds:.2f} s", flush=True)
    node.up("compose up after SIGTERM")
    node.check("after SIGTERM under load")


if __name__ == "__main__":
    main()
