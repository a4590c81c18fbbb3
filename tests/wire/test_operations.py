"""The operator's side: status, restart, start and stop, refusals, configuration, killed processes."""

import json
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from support import ids, resp
from support.node import Node, StartError, build_dir, process_alive, wait_for
from support.resp import Error
from support.wrapper import wrapped_build

BINARY = os.path.join(build_dir(), "supervisor", "sierradb")


def run(*args, env=None):
    return subprocess.run([BINARY, *args], capture_output=True, text=True, timeout=20,
                          env={"PATH": os.environ["PATH"], **(env or {})}, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def own(start):
    """A node of this module's own, since its processes are killed."""
    node = start({"supervisor.restart_backoff_ms_max": 100, "supervisor.crash_limit": 1000})
    yield node
    node.stop()


def test_version_and_help():
    done = run("--version")
    assert done.returncode == 0 and re.search(r"sierradb \d+\.\d+\.\d+", done.stdout)
    assert run("-V").stdout == done.stdout
    done = run("--help")
    assert done.returncode == 0
    for word in ("--dir", "--config", "--client-address", "--cluster-address", "--check-config", "status", "restart",
                 "verify", "dump"):
        assert word in done.stdout, word
    assert run("-h").stdout == done.stdout


def test_bad_arguments():
    for args in (("--nonsense",), ("nonsense",), ("-c",), ("-c", "/does/not/exist"), ("-d",)):
        done = run(*args)
        assert done.returncode not in (0, -6, -11), args
        assert done.stderr.strip(), args
        assert "/does/not/exist" not in args or "/does/not/exist" in done.stderr


GOOD = """dir: /tmp/never-created
bucket:
  count: 8
segment:
  size_bytes: 1048576
  compression: false
append:
  strict_versioning: false
"""

# text, line, what must be in the message
BAD = [
    ("bucket:\n  count: 3\n", 2, ("bucket.count", "power of two")),
    ("bucket:\n  count: 64\n", 2, ("bucket.count", "partition.count")),
    ("bucket:\n  count: many\n", 2, ("bucket.count",)),
    ("bucket:\n  count: 0\n", 2, ("bucket.count",)),
    ("bucket:\n  cuont: 4\n", 2, ("cuont",)),
    ("nonsense: 1\n", 1, ("nonsense",)),
    ("segment:\n  size_bytes: 1000\n", 2, ("segment.size_bytes", "131072")),
    ("dir: /tmp\nappend:\n  strict_versioning: perhaps\n", 3, ("append.strict_versioning",)),
    ("network:\n  client_address: nowhere\n", 2, ("network.client_address",)),
    ("network:\n  default_protocol: 4\n", 2, ("network.default_protocol",)),
    ("heartbeat:\n  interval_ms: 6000\n  timeout_ms: 6000\n", None, ("heartbeat.timeout_ms",)),
    ("replication:\n  factor: 5\n", None, ("replication.factor",)),
    ("node:\n  index: 3\n", None, ("node.index",)),
    ("bucket: 4\n", 1, ("bucket",)),
    ("bucket:\n  count: [1, 2]\n", 2, ("bucket.count",)),
    ("a: b: c: d\n  - x\n", None, ()),
    ("\tbucket:\n", None, ()),
]


def test_check_config_good(tmp_path):
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    done = run("--check-config", "-c", str(path))
    assert done.returncode == 0, done
    assert not os.path.exists("/tmp/never-created")
    path = tmp_path / "good.json"
    path.write_text(json.dumps({"bucket": {"count": 8}, "segment": {"size_bytes": 1048576}}))
    assert run("--check-config", "-c", str(path)).returncode == 0


@pytest.mark.parametrize("text,line,wanted", BAD, ids=lambda value: repr(value)[:30])
def test_check_config_errors(tmp_path, text, line, wanted):
    """The file, the line, the key and what was expected; and the node doesn't start with it either."""
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    for extra in (("--check-config",), ("-d", str(tmp_path / "data"))):
        done = run("-c", str(path), *extra)
        assert done.returncode not in (0, -6, -11), done
        assert "bad.yaml" in done.stderr, done.stderr
        if line is not None:
            assert re.search(rf"bad\.yaml[: ,a-z]*{line}\b", done.stderr), done.stderr
        for word in wanted:
            assert word in done.stderr, done.stderr
    assert not (tmp_path / "data").exists() or not (tmp_path / "data" / "meta.json").exists()


def test_check_config_environment(tmp_path):
    done = run("--check-config", env={"SIERRADB_BUCKET_COUNT": "3"})
    assert done.returncode != 0 and ("bucket.count" in done.stderr or "SIERRADB_BUCKET_COUNT" in done.stderr)
    done = run("--check-config", env={"SIERRADB_NO_SUCH": "3"})
    assert done.returncode != 0 and "SIERRADB_NO_SUCH" in done.stderr
    assert run("--check-config", env={"SIERRADB_BUCKET_COUNT": "8"}).returncode == 0


def test_layers(start, tmp_path, next_port):
    """Command line over environment over file over defaults."""
    path = tmp_path / "c.yaml"
    path.write_text("bucket:\n  count: 2\npartition:\n  count: 16\nsegment:\n  size_bytes: 262144\n"
                    f"network:\n  client_address: 127.0.0.1:1\ncache:\n  capacity_bytes: 1048576\n")
    node = start({"segment.size_bytes": 131072, "bucket.count": 2}, args=("-c", str(path)))
    with node.client() as client:
        shown = resp.as_dict(client.ok("CONFIG", "GET", "*"))
        assert shown["bucket.count"] == b"2" and shown["partition.count"] == b"16"
        assert shown["segment.size_bytes"] == b"131072" and shown["cache.capacity_bytes"] == b"1048576"
        assert shown["append.strict_versioning"] in (b"true", b"yes")
        assert shown["network.client_address"] == f"127.0.0.1:{node.port}".encode()
        assert resp.as_dict(client.ok("HELLO", 3))["num_partitions"] == 16
    assert set(node.children()) == {"netd", 0, 1}
    node.stop()


def find_rows(status):
    """The list of process objects of `status --json`, wherever it stands."""
    if isinstance(status, list):
        return status
    for value in status.values():
        if isinstance(value, list) and value and isinstance(value[0], dict) and "pid" in value[0]:
            return value
    raise AssertionError(f"no processes in {status}")


def test_status(own, name):
    with own.client() as client:
        for i in range(20):
            client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
    rows = find_rows(own.status())
    pids = {row["pid"] for row in rows}
    assert set(own.children().values()) <= pids
    for row in rows:
        for field in ("uptime_ms", "restarts", "rss_bytes"):
            assert isinstance(row[field], int), (field, row)
    wait_for("the first figures", lambda: any("events" in row for row in find_rows(own.status())), 5.0, 0.1)
    table = own.cli("status", "-d", own.dir).stdout
    for pid in own.children().values():
        assert str(pid) in table
    for word in ("pid", "uptime", "restarts", "memory"):
        assert word in table.lower()
    assert "netd" in table

    def counted():
        with own.client() as client:
            wanted = client.ok("DBSIZE")
        total = sum(value for row in find_rows(own.status()) for key, value in row.items()
                    if key == "events" and isinstance(value, int))
        return total >= min(wanted, 20)

    wait_for("the events to be counted", counted, 5.0, 0.2)


def test_status_tells_whether_the_node_is_ready(tmp_path, next_port):
    """Not while a bucket still recovers; one that is down for good holds the others back no longer."""
    slow, broken = tmp_path / "slow", tmp_path / "broken"
    build = wrapped_build(os.path.abspath(build_dir()), str(tmp_path / "build"), f"""case " $* " in *" --index=1 "*)
    while [ -e {slow} ]; do sleep 0.02; done; if [ -e {broken} ]; then exit 1; fi;; esac
exec "$REAL" "$@"
""")
    slow.touch()
    with Node(tmp_path / "data", next_port(), {"supervisor.restart_backoff_ms_max": 100}, build=build,
              wait=False) as node:
        def buckets_ready():
            return {row["index"]: row["ready"] for row in node.status()["processes"] if row["kind"] == "bucket"}

        def ready():
            done = node.cli("status", "--json", "-d", node.dir, check=False)
            return done.returncode == 0 and json.loads(done.stdout)["ready"]

        wait_for("three ready buckets", lambda: os.path.exists(os.path.join(node.dir, "run", "control.sock")) and
                 buckets_ready() == {0: True, 1: False, 2: True, 3: True}, 10.0, 0.05)
        status = node.status()
        assert not status["ready"] and status["waits_for"] == ["bucketd-1 is starting"]
        assert "\n! not ready: bucketd-1 is starting\n" in node.cli("status", "-d", node.dir).stdout
        slow.unlink()
        wait_for("a ready node", ready, 10.0, 0.05)
        assert node.status()["waits_for"] == [] and all(row.get("ready", True) for row in node.status()["processes"])
        broken.touch()
        node.kill_child(1)
        wait_for("the bucket is given up", lambda: "event=process.down process=bucketd-1" in node.log_text(), 10.0)
        assert ready() and buckets_ready() == {0: True, 1: False, 2: True, 3: True}
        broken.unlink()
        wait_for("all is well", lambda: all(buckets_ready().values()), 10.0, 0.05)
        node.stop()


def test_open_files(tmp_path, next_port):
    """The soft limit of open files is raised to the hard one; where that is too low, clients leave the files alone
    that links need, and the log says so."""
    def limited(soft, hard):
        return ["prlimit", f"--nofile={soft}:{hard}"]

    def netd_limit(node):
        with open(f"/proc/{node.child('netd')}/limits", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("Max open files"))
        return [int(word) for word in line.split()[3:5]]

    config = {"network.max_clients": 1000}
    with Node(tmp_path / "enough", next_port(), config, prefix=limited(256, 4096)) as node:
        assert netd_limit(node) == [4096, 4096]
        assert "clients.limited" not in node.log_text()
        with node.client() as client:
            assert "maxclients:1000\r\n" in client.cmd("INFO", "clients").decode()
        node.stop()
    with Node(tmp_path / "few", next_port(), config, prefix=limited(200, 300)) as node:
        assert netd_limit(node) == [300, 300]
        said = re.search(r"event=clients.limited clients=(\d+) configured=1000 open_files=300 ", node.log_text())
        assert said, node.log_text()
        clients_max = int(said[1])
        assert 100 < clients_max < 300
        clients = [node.client() for _ in range(clients_max)]
        assert all(client.cmd("PING") == b"PONG" for client in clients)
        assert f"maxclients:{clients_max}\r\n" in clients[0].cmd("INFO", "clients").decode()
        with node.client() as refused:
            assert refused.reply().text == "ERR max number of clients reached"
        # There are files left for a bucket that begins anew.
        node.wait_child_replaced(0, node.kill_child(0))
        assert clients[0].ok("EPSEQ", "0") is None
        for client in clients:
            client.close()
        node.stop()


def test_status_without_a_node(tmp_path):
    done = run("status", "-d", str(tmp_path))
    assert done.returncode != 0 and done.stderr.strip()


def test_restart_bucket_under_load(own, names):
    """A clean restart by command: no client sees an error."""
    streams = [ids.stream_in_partition(names(), partition) for partition in (0, 1, 2, 3)]
    stop = threading.Event()
    errors, counts = [], [0] * 4

    def write(i):
        try:
            with own.client(timeout=20.0) as client:
                while not stop.is_set():
                    expected = "empty" if counts[i] == 0 else counts[i] - 1
                    reply = client.cmd("EAPPEND", streams[i], "E", "EXPECTED_VERSION", expected)
                    if isinstance(reply, Error):
                        errors.append(reply)
                        return
                    counts[i] += 1
        except Exception as error:  # shown by the test's thread
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            for bucket in (3, 0):
                before = own.child(bucket)
                own.cli("restart", "bucket", str(bucket), "-d", own.dir)
                own.wait_child_replaced(bucket, before)
                floor = counts[bucket]
                wait_for("progress in the restarted bucket", lambda: errors or counts[bucket] > floor + 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors, errors
    with own.client() as client:
        for i, stream in enumerate(streams):
            assert client.ok("ESVER", stream) == counts[i] - 1
    done = own.cli("restart", "bucket", "99", "-d", own.dir, check=False)
    assert done.returncode != 0 and done.stderr.strip()


def test_killed_bucket_waits_and_others_go_on(own, names, slowness):
    """kill -9 of one bucketd: its requests wait and succeed, the others don't notice."""
    away, other = (ids.stream_in_partition(names(), partition) for partition in (4, 5))
    with own.client(timeout=20.0) as one, own.client(timeout=20.0) as two:
        one.ok("EAPPEND", away, "E", "EXPECTED_VERSION", "empty")
        two.ok("EAPPEND", other, "E", "EXPECTED_VERSION", "empty")
        for i in range(20):
            pid = own.child(0)
            os.kill(pid, signal.SIGSTOP)
            one.send("EAPPEND", away, "E", "EXPECTED_VERSION", i)
            begin = time.monotonic()
            two.ok("EAPPEND", other, "E", "EXPECTED_VERSION", i)
            assert time.monotonic() - begin < 0.5 * slowness, "another bucket waited"
            os.kill(pid, signal.SIGKILL)
            reply = one.reply()
            assert not isinstance(reply, Error) and reply["stream_version"] == i + 1, reply
            assert one.ok("ESVER", away) == i + 1
        _, events = resp.scan(one.ok("ESCAN", away, "-", "+"))
        assert len(events) == 21


def test_a_process_that_asks_to_be_started_again(tmp_path, next_port):
    """Exit status 75: nothing went wrong, and nobody waits."""
    again = tmp_path / "again"
    build = wrapped_build(os.path.abspath(build_dir()), str(tmp_path / "build"), f"""case " $* " in *" --index=1 "*)
    if [ -e {again} ]; then rm {again}; exit 75; fi;; esac
exec "$REAL" "$@"
""")
    again.touch()
    with Node(tmp_path / "data", next_port(), build=build) as node:
        bucket = [p for p in node.status()["processes"] if p.get("index") == 1 and p["kind"] == "bucket"][0]
        assert bucket["restarts"] == 1 and not again.exists()
        ended = [line for line in node.log_text().splitlines() if "event=process.ended" in line]
        assert len(ended) == 1
        assert re.search(r'level=info .* process=bucketd-1 .* how="to start again"', ended[0])
        node.stop()


def test_killed_netd(own, name, slowness):
    """Clients are disconnected and can connect again within 1 s; the buckets live on."""
    buckets = {bucket: pid for bucket, pid in own.children().items() if bucket != "netd"}
    with own.client() as client:
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
    for _ in range(5):
        client = own.client()
        client.ok("PING")
        begin = time.monotonic()
        own.kill_child("netd")
        assert client.closed(1.0)

        def again():
            try:
                with own.client(timeout=1.0) as fresh:
                    return fresh.cmd("ESVER", name) == 0
            except (OSError, resp.Closed):
                return False

        wait_for("a new connection", again, 5.0, 0.005)
        took = time.monotonic() - begin
        assert took < 1.0 * slowness, f"{took:.2f} s"
    assert {bucket: pid for bucket, pid in own.children().items() if bucket != "netd"} == buckets


def test_second_instance_is_refused(own, next_port):
    before = own.children()
    port = next_port()
    with pytest.raises(StartError) as error:
        Node(own.dir, port, wait=True)
    assert re.search(r"(in use|already|another|lock)", str(error.value)), error.value
    assert own.children() == before
    with own.client() as client:
        assert client.ok("PING") == b"PONG"


def test_port_in_use_is_said(own, tmp_path):
    """Another directory, the same port: says so, and doesn't pretend to serve."""
    second = Node(tmp_path / "other", own.port, {"bucket.count": 1}, wait=False)
    try:
        wait_for("a word about the address",
                 lambda: re.search(r"(in use|EADDRINUSE|listen|bind)", second.log_tail(200)), 10.0)
    finally:
        second.kill()


@pytest.mark.parametrize("changed", [{"bucket.count": 8}, {"partition.count": 64}], ids=str)
def test_changed_counts_are_refused(start, next_port, changed, name):
    node = start({"bucket.count": 4})
    with node.client() as client:
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
    node.stop()
    key, value = next(iter(changed.items()))
    with pytest.raises(StartError) as error:
        Node(node.dir, next_port(), changed)
    assert key in str(error.value) and str(value) in str(error.value)
    assert ("4" if key == "bucket.count" else "32") in str(error.value)
    node.start()
    with node.client() as client:
        assert client.ok("ESVER", name) == 0
    node.stop()


def test_segment_size_may_change(start, name):
    node = start({"segment.size_bytes": 131072, "bucket.count": 1})
    with node.client() as client:
        for i in range(300):
            expected = "empty" if i == 0 else i - 1
            client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", expected, "PAYLOAD", os.urandom(1000))
    node.stop()
    node.config["segment.size_bytes"] = 1 << 20
    node.start()
    with node.client() as client:
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", 299)
        assert len(resp.scan(client.ok("ESCAN", name, "-", "+", "COUNT", 1000))[1]) == 301
    node.stop()
    clean, output = node.verify()
    assert clean, output


def test_stop_answers_what_is_in_flight(start, names):
    """SIGTERM under load: every append was answered, or surely isn't there and the connection ended."""
    node = start({"bucket.count": 2})
    streams = [names() for _ in range(4)]
    acked = [-1] * 4

    def write(i):
        try:
            with node.client(timeout=20.0) as client:
                sent = 0
                while True:
                    commands = [("EAPPEND", streams[i], "E", "EXPECTED_VERSION", "empty" if v == 0 else v - 1)
                                for v in range(sent, sent + 10)]
                    for reply in client.pipeline(commands):
                        if isinstance(reply, Error):
                            return
                        acked[i] = reply["stream_version"]
                    sent += 10
        except (OSError, resp.Closed):
            pass

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    wait_for("some load", lambda: min(acked) > 50)
    begin = time.monotonic()
    node.stop()
    assert time.monotonic() - begin < 6.0
    for thread in threads:
        thread.join()
    node.start()
    with node.client() as client:
        for stream, last in zip(streams, acked):
            assert client.ok("ESVER", stream) >= last
    node.stop()
    clean, output = node.verify()
    assert clean, output


def test_sigint_stops_too(start):
    node = start({"bucket.count": 1})
    node.process.send_signal(signal.SIGINT)
    assert node.process.wait(10) == 0
    node.process = None


def test_dead_supervisor_takes_its_children_along(start):
    node = start({"bucket.count": 2})
    children = list(node.children().values())
    assert len(children) == 3
    os.kill(node.pid, signal.SIGKILL)
    node.process.wait()
    node.process = None
    wait_for("the children's end", lambda: not any(process_alive(pid) for pid in children), 1.0)
    node.start()
    node.stop()


def test_paths_too_long_are_refused(tmp_path, next_port):
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    with pytest.raises(StartError) as error:
        Node(deep, next_port())
    assert "run_dir" in str(error.value)


def test_directory_is_private(own):
    assert os.stat(os.path.join(own.dir, "run")).st_mode & 0o077 == 0


def test_processes_tell_their_role(own):
    from support.node import process_argv

    for which, pid in own.children().items():
        argv = process_argv(pid)
        if which != "netd":
            assert f"--index={which}" in argv


def test_verify_and_dump(start, name):
    node = start({"segment.size_bytes": 131072, "bucket.count": 1, "append.strict_versioning": False})
    with node.client() as client:
        for _ in range(40):
            client.pipeline([("EAPPEND", name, "Name", "PAYLOAD", os.urandom(900))] * 10)
    node.stop()
    clean, output = node.verify()
    assert clean and "400" in output, output
    segments = os.path.join(node.dir, "buckets", "00000", "segments")
    first = os.path.join(segments, sorted(os.listdir(segments))[0])
    for file in sorted(os.listdir(first)):
        done = node.cli("dump", os.path.join(first, file))
        assert done.stdout.strip(), file
        if file == "data.evts":
            assert name in done.stdout and "Name" in done.stdout
    path = os.path.join(first, "data.evts")
    with open(path, "r+b") as data:
        data.seek(40000)
        byte = data.read(1)[0]
        data.seek(40000)
        data.write(bytes([byte ^ 1]))
    clean, output = node.verify()
    assert not clean and "data.evts" in output, output
    node.start()
    with node.client() as client:
        statuses = set()
        for version in range(400):
            reply = client.cmd("ESCAN", name, version, version)
            statuses.add(reply.code if isinstance(reply, Error) else len(resp.scan(reply)[1]))
        assert "READERR" in statuses and 1 in statuses and 0 not in statuses, statuses
        assert client.ok("EAPPEND", name, "E")["stream_version"] == 400
    node.stop()


def test_verify_of_nothing(tmp_path):
    done = run("verify", str(tmp_path / "none"))
    assert done.returncode != 0 and done.stderr.strip()
    done = run("dump", str(tmp_path / "none"))
    assert done.returncode != 0 and done.stderr.strip()
