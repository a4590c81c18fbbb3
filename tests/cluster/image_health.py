"""deploy/sierradb-health against a `sierradb` that says what the test wants, and a port that answers as it wants."""

import json
import os
import socket
import subprocess
import tempfile
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SCRIPT = os.path.join(ROOT, "deploy", "sierradb-health")


class Port:
    """Answers the first line of each connection; None: takes it and says nothing."""

    def __init__(self, answer, host="127.0.0.1"):
        self.answer, self.lines, self.held = answer, [], []
        self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.bind((host, 0))
        self.listener.listen()
        self.number = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.held.append(connection)
            if self.answer is not None:
                self.lines.append(connection.makefile("rb").readline())
                connection.sendall(self.answer)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection in self.held:
            connection.close()


def status(address, waits_for=(), bucket_ready=True):
    """As jansson indents it: one bucket may well be unready in a node that is ready."""
    return json.dumps({
        "version": "0", "state": "up", "client_address": address, "ready": not waits_for, "waits_for": list(waits_for),
        "processes": [{"name": "netd", "state": "up", "ready": True},
                      {"name": "bucketd-0", "state": "up", "ready": bucket_ready}]}, indent=2)


def run(word, script):
    """Exit status and output where `sierradb` is this shell script."""
    with tempfile.TemporaryDirectory(prefix="sierradb-health-") as folder:
        path = os.path.join(folder, "sierradb")
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + script)
        os.chmod(path, 0o755)
        done = subprocess.run([SCRIPT] + word, env={"PATH": folder + ":/usr/bin:/bin"}, capture_output=True,
                              text=True, timeout=30, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()


def says(text, code=0):
    return f"cat <<'TEXT'\n{text}\nTEXT\nexit {code}\n"


def check(result):
    def expect(word, script, well, part):
        code, output = run(word, script)
        result.expect((code == 0) == well and part in output, f"sierradb-health {word}: {code} {output!r}")

    port = Port(b"+PONG\r\n")
    here = f"0.0.0.0:{port.number}"
    expect(["live"], says(status(here)), True, "live")
    expect(["ready"], says(status(here)), True, "ready")
    expect([], says(status(here)), True, "ready")
    for waits_for in (["bucketd-0 is starting"], ["bucketd-0 is starting", "bucketd-1 isn't up to date yet"]):
        expect(["live"], says(status(here, waits_for)), True, "live")
        for ready in (True, False):
            expect(["ready"], says(status(here, waits_for, ready)), False, "not ready: " + ", ".join(waits_for))
    expect(["ready"], says(status(here, bucket_ready=False)), True, "ready")
    expect(["ready"], says(f'{{\n  "client_address": "{here}"\n}}'), False, "doesn't say")
    expect(["ready"], says("no node runs on /data", 1), False, "no node runs")
    expect(["live"], "exec sleep 60\n", False, "no status")
    expect(["live"], says("{}"), False, "client_address")
    expect(["lively"], says(status(here)), False, "usage")
    result.expect(set(port.lines) == {b"PING\r\n"}, f"what was asked: {set(port.lines)}")
    port.close()
    expect(["live"], says(status(here)), False, "no answer to PING")
    for answer, well, part in ((b"-NOAUTH Authentication required.\r\n", True, "live"),
                               (b"-ERR max number of clients reached\r\n", False, "max number"),
                               (b"", False, "no answer"), (None, False, "no answer")):
        port = Port(answer)
        expect(["live"], says(status(f"127.0.0.1:{port.number}")), well, part)
        port.close()
    if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
        port = Port(b"+PONG\r\n", "::1")
        expect(["live"], says(status(f"[::]:{port.number}")), True, "live")
        expect(["live"], says(status(f"[::1]:{port.number}")), True, "live")
        port.close()
