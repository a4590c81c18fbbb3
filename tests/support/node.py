"""One node under test: started from a build directory, watched, stopped or killed by its process ids."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time

from . import resp

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def build_dir():
    return os.path.abspath(os.environ.get("SIERRADB_BUILD", os.path.join(ROOT, "build")))


def first_port(default):
    """Where the ports of this run begin: tests that run side by side get ranges of their own."""
    return int(os.environ.get("SIERRADB_TEST_PORT", default))


def sanitized(build=None):
    """Whether the binaries hold AddressSanitizer: then memory says nothing, and all is some times slower."""
    with open(os.path.join(build or build_dir(), "netd", "sierradb-netd"), "rb") as file:
        return b"__asan_init" in file.read()


def wait_for(what, condition, timeout=10.0, every=0.01):
    """Polls until the condition gives something true, and returns that."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(every)


def process_stat(pid):
    """(state, ppid, cpu seconds) of a process, or None."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return fields[0], int(fields[1]), (int(fields[11]) + int(fields[12])) / ticks


def process_alive(pid):
    stat = process_stat(pid)
    return stat is not None and stat[0] not in "ZX"


def process_argv(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [part.decode("utf-8", "replace") for part in file.read().split(b"\0")[:-1]]
    except (FileNotFoundError, ProcessLookupError):
        return []


def process_children(pid):
    out = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = process_stat(int(name))
            if stat and stat[1] == pid and stat[0] not in "ZX":
                out.append(int(name))
    return out


def process_rss(pid):
    """Resident bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


class StartError(Exception):
    """The node ended instead of getting ready; the text is what it printed."""


class Node:
    """config: dotted keys, given as SIERRADB_<SECTION>_<KEY>; args: further command line; prefix: what runs it."""

    def __init__(self, data_dir, port, config=None, build=None, args=(), wait=True, password=None, log_path=None,
                 prefix=()):
        self.build = build or build_dir()
        self.dir = str(data_dir)
        self.port = port
        self.config = dict(config or {})
        self.args = list(args)
        self.prefix = list(prefix)
        self.password = password
        self.process = None
        logs = os.environ.get("SIERRADB_TEST_LOGS")
        if logs and not log_path:
            log_path = os.path.join(logs, f"node-{port}-{os.getpid()}-{time.monotonic_ns()}.log")
        self.log_path = log_path or self.dir.rstrip("/") + ".log"
        os.makedirs(os.path.dirname(self.log_path), exist_ok=True)
        if wait is not None:
            self.start(wait)

    @property
    def binary(self):
        return os.path.join(self.build, "supervisor", "sierradb")

    def environment(self):
        env = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": os.environ.get("HOME", "/")}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"):
            if name in os.environ:
                env[name] = os.environ[name]
        for key, value in self.config.items():
            if isinstance(value, bool):
                value = "true" if value else "false"
            env["SIERRADB_" + key.replace(".", "_").upper()] = str(value)
        return env

    def start(self, wait=True, timeout=20.0):
        assert self.process is None, "already started"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, self.binary, "-d", self.dir, "--client-address", f"127.0.0.1:{self.port}", *self.args],
                env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        if wait:
            self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=20.0):
        """Answers PING, and every bucket answers a read."""
        deadline = time.monotonic() + timeout
        last = None
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                code = self.process.returncode
                self.process = None
                raise StartError(f"ended with {code}:\n{self.log_tail()}")
            try:
                with resp.Client(self.port, timeout=max(0.1, deadline - time.monotonic())) as client:
                    if self.password is not None:
                        client.ok("AUTH", self.password)
                    assert client.cmd("PING") == b"PONG"
                    for bucket in range(int(self.config.get("bucket.count", 4))):
                        last = client.cmd("EPSEQ", bucket)
                        if isinstance(last, resp.Error):
                            raise ConnectionError(last.text)
                    return self
            except (OSError, resp.Closed) as error:
                last = error
            time.sleep(0.005)
        raise TimeoutError(f"not ready in {timeout} s ({last}):\n{self.log_tail()}")

    def log_tail(self, lines=40):
        try:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                return "".join(file.readlines()[-lines:])
        except FileNotFoundError:
            return ""

    def log_text(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def pid(self):
        return self.process.pid

    def children(self):
        """{"netd": pid, 0: pid of bucket 0, ...} of the children that live now."""
        out = {}
        for pid in process_children(self.pid):
            argv = process_argv(pid)
            index = [int(arg.partition("=")[2]) for arg in argv if arg.startswith("--index=")]
            if any(arg.endswith("sierradb-netd") for arg in argv[:2]):
                out["netd"] = pid
            elif any(arg.endswith("sierradb-bucketd") for arg in argv[:2]) and index:
                out[index[0]] = pid
        return out

    def child(self, which, timeout=5.0):
        return wait_for(f"a process of {which}", lambda: self.children().get(which), timeout)

    def kill_child(self, which, sig=signal.SIGKILL):
        """Kills netd or a bucket's process; returns the pid that was."""
        pid = self.child(which)
        os.kill(pid, sig)
        return pid

    def wait_child_replaced(self, which, old_pid, timeout=10.0):
        return wait_for(f"a new process of {which}",
                        lambda: (lambda pid: pid if pid and pid != old_pid else None)(
                            self.children().get(which)), timeout)

    def cli(self, *args, timeout=30.0, check=True):
        """`sierradb ARGS`; returns the finished process, output as text."""
        done = subprocess.run([self.binary, *args], env=self.environment(), capture_output=True,
                              text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if check:
            assert done.returncode == 0, f"{args}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def status(self):
        return json.loads(self.cli("status", "--json", "-d", self.dir).stdout)

    def verify(self):
        """`sierradb verify` of the stopped node; returns (clean, output)."""
        done = self.cli("verify", self.dir, timeout=120.0, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    def client(self, hello=None, **options):
        return resp.Client(self.port, hello, **options)

    def stop(self, timeout=20.0):
        """SIGTERM; exit code 0 and nobody left behind."""
        if self.process is None:
            return
        pids = list(self.children().values())
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        left = [pid for pid in pids if process_alive(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert code == 0, f"exit code {code}:\n{self.log_tail()}"
        assert not left, f"children outlived the supervisor: {left}"

    def kill(self):
        """SIGKILL to all processes of the node, as near to at once as can be."""
        if self.process is None:
            return
        pids = list(self.children().values())
        for pid in [self.process.pid, *pids]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(10.0)
        self.process = None
        wait_for("all children are gone", lambda: not any(process_alive(pid) for pid in pids))

    def remove(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if os.path.exists(self.log_path):
            os.unlink(self.log_path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def port_free(port):
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False
