"""The cluster of deploy/docker-compose.yml under test: its containers as the nodes of a trial (trial.py)."""

import json
import os
import shutil
import subprocess
import time

import hiredis

from nodes import Cluster, wait_for
from trial import Direct

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = os.path.join(ROOT, "deploy", "docker-compose.yml")
IMAGE = "sierradb"
COUNT = 3
STOP_SECONDS = 30
ANSWER_SECONDS = 2.0


def run(*command, check=True, timeout=120, env=None, apart=False):
    """Output of a command as text; with check=False the finished process. apart: what it says on standard error isn't
    part of its output."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, timeout=timeout, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE if apart else subprocess.STDOUT, check=False)
    if not check:
        return done
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout.strip()


def inspect(what, path):
    return json.loads(run("docker", "inspect", "--format", "{{json " + path + "}}", what))


def compose_tool():
    return ("docker-compose",) if shutil.which("docker-compose") else ("docker", "compose")


class Published:
    """The containers' client ports as the machine sees them."""

    kind = "docker"
    count = COUNT

    def __init__(self, first_port):
        self.first_port = first_port

    def host(self, index):
        return "127.0.0.1"

    def client_port(self, index):
        return self.first_port + index


class Container:
    """One node. What it is asked goes through its client port, so that asking costs little."""

    def __init__(self, cluster, index):
        self.cluster, self.index = cluster, index
        self.host, self.port = cluster.network.host(index), cluster.network.client_port(index)
        self.service = f"node{index}"
        self.runs = False

    @property
    def process(self):
        """None: it was stopped or killed."""
        return self if self.runs else None

    @property
    def id(self):
        """Changes when the container is made anew."""
        return run("docker", "ps", "-aq", "--no-trunc", "--filter",
                   f"label=com.docker.compose.project={self.cluster.project}", "--filter",
                   f"label=com.docker.compose.service={self.service}")

    @property
    def volume(self):
        return f"{self.cluster.project}_data{self.index}"

    @property
    def pid(self):
        """Of its first process, on this machine."""
        return inspect(self.id, ".State.Pid")

    @property
    def address(self):
        return inspect(self.id, f'(index .NetworkSettings.Networks "{self.cluster.bridge}").IPAddress')

    def check_runs(self):
        """A container that ended by itself is seen by its restarts, not here."""

    def wait_answers(self, timeout=20.0):
        return wait_for(f"node {self.index} answers", lambda: self.report() is not None, timeout, 0.05)

    def wait_healthy(self, timeout=60.0):
        container = self.id
        try:
            wait_for("healthy", lambda: inspect(container, ".State.Health.Status") == "healthy", timeout, 0.2)
        except TimeoutError:
            raise TimeoutError(f"node {self.index} isn't healthy: {inspect(container, '.State.Health')}") from None

    def report(self):
        """As `sierradb cluster status --json` has it; None where the node doesn't answer."""
        try:
            with Direct(self, ANSWER_SECONDS) as direct:
                return {"nodes": text_of(direct.cmd("ECLUSTER", "NODES")),
                        "buckets": text_of(direct.cmd("ECLUSTER", "PARTITIONS"))}
        except (OSError, hiredis.ProtocolError):
            return None

    def kill(self):
        if self.runs:
            self.runs = False
            run("docker", "kill", self.id)

    def start(self):
        self.runs = True
        run("docker", "start", self.id)

    def stop(self):
        """SIGTERM and time enough; exit status 0."""
        self.runs = False
        container = self.id
        run("docker", "stop", "-t", str(STOP_SECONDS), container)
        code = inspect(container, ".State.ExitCode")
        assert code == 0, f"exit status {code}\n{self.log_tail()}"

    def pause(self, which=None):
        """All of it; returns how to go on."""
        assert which is None
        run("docker", "pause", self.id)
        return lambda: run("docker", "unpause", self.id)

    def remove(self, volume):
        """A stopped node's container goes, and its data with it where that is wished."""
        assert not self.runs
        run("docker", "rm", self.id)
        if volume:
            run("docker", "volume", "rm", self.volume)

    def make(self):
        """By compose, as `remove` left it."""
        self.runs = True
        self.cluster.compose("up", "-d", "--no-build", self.service)

    def iptables(self, *words):
        run("nsenter", "-t", str(self.pid), "-n", "iptables", "-w", *words)

    def log_tail(self, lines=40):
        return run("docker", "logs", "--tail", str(lines), self.id, check=False).stdout

    # --- of a stopped node ---

    def cli(self, *words, check=True, timeout=60.0):
        return run("docker", "exec", self.cluster.reader, "sierradb", *words, check=check, timeout=timeout, apart=True)

    def segments(self):
        folder = f"/node{self.index}/buckets"
        paths = run("docker", "exec", self.cluster.reader, "find", folder, "-name", "data.evts").split()
        out = {}
        for path in sorted(paths):
            out.setdefault(int(path[len(folder) + 1:].split("/")[0]), []).append(path)
        return out

    def verify(self):
        done = self.cli("verify", f"/node{self.index}", check=False, timeout=120.0)
        return done.returncode == 0, done.stdout + done.stderr


def text_of(reply):
    """Bytes become text, at any depth."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [text_of(item) for item in reply]
    if isinstance(reply, dict):
        return {text_of(key): text_of(value) for key, value in reply.items()}
    return reply


class Composed(Cluster):
    """Made by `up`, gone with its volumes in `close`. Waiting, leaders and the rest are Cluster's."""

    def __init__(self, network, project):
        self.network, self.project, self.count = network, project, COUNT
        self.bridge = f"{project}_default"
        self.reader = f"{project}_reader"  # a container that reads the stopped nodes' files
        self.nodes = [Container(self, index) for index in range(COUNT)]

    def compose(self, *words, check=True, env=None):
        ports = {f"SIERRADB_PORT{node.index}": f"{node.host}:{node.port}" for node in self.nodes}
        return run(*compose_tool(), "-p", self.project, "-f", FILE, *words, check=check, env={**ports, **(env or {})},
                   timeout=180)

    def start(self, timeout=60.0):
        """Seconds until all three are healthy, as a user waits for it; then all replicas are level too."""
        begin = time.monotonic()
        self.compose("up", "-d", "--no-build")
        for node in self.nodes:
            node.runs = True
        for node in self.nodes:
            node.wait_healthy(timeout)
        self.healthy_s = time.monotonic() - begin
        self.wait_settled(timeout)
        return self

    def stop(self, timeout=STOP_SECONDS):
        """All at once; what is wrong with it. Then their files can be read."""
        ids = [node.id for node in self.nodes]
        run("docker", "stop", "-t", str(timeout), *ids)
        problems = []
        for node in self.nodes:
            node.runs = False
            code = inspect(node.id, ".State.ExitCode")
            if code != 0:
                problems.append(f"node {node.index}: exit status {code}\n{node.log_tail()}")
        volumes = [word for node in self.nodes for word in ("-v", f"{node.volume}:/node{node.index}")]
        run("docker", "run", "-d", "--rm", "--init", "--name", self.reader, "--network", "none", *volumes,
            "--no-healthcheck", "--entrypoint", "sleep", IMAGE, "infinity")
        return problems

    def close(self):
        for node in self.nodes:
            node.runs = False
        run("docker", "rm", "-f", "-v", self.reader, check=False)
        run("docker", "unpause", *[node.id for node in self.nodes if node.id], check=False)
        self.compose("down", "-v", "-t", "1", "--remove-orphans", check=False)

    def restarts(self):
        """How often Docker itself has started a node again: a supervisor that ended by itself."""
        return sum(inspect(node.id, ".RestartCount") for node in self.nodes)
