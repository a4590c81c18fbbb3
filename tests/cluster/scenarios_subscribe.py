"""Many subscribers while things go wrong, and one that reads a byte a second."""

import os
import signal
import socket
import threading

import hiredis

from history import now
from nodes import process_rss
from scenario import busiest, scenario
from trial import percentile
from workload import ACTIVE

SUBSCRIBERS = 100
OUTPUT_MAX = 64 << 20  # network.output_buffer_bytes


class SlowSubscriber:
    """Follows everything from its beginning, and reads one byte a second."""

    def __init__(self, node):
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect((node.host, node.port))
        self.sock.sendall(hiredis.pack_command(("HELLO", "3")) + hiredis.pack_command(
            ("EPSUB", f"0-{ACTIVE - 1}", "FROM", "MAP", *(f"{p}=0" for p in range(ACTIVE)), "WINDOW", "1000000")))
        self.bytes, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        while not self.ended.wait(1.0):
            try:
                self.bytes += len(self.sock.recv(1))
            except OSError:
                return

    def close(self):
        self.ended.set()
        self.thread.join()
        self.sock.close()


@scenario(subscribers=SUBSCRIBERS, mixed=True, writers=10, probers=4, pause_ms=60.0, probe_ms=60.0,
          config={"network.output_buffer_bytes": OUTPUT_MAX})
def subscribers(trial):
    """100 subscribers on all nodes: one that hardly reads delays nobody; faults of all kinds lose and repeat nothing"""
    cluster = trial.cluster
    spans = []
    node = cluster.nodes[busiest(cluster)]
    seconds = trial.rounds(5.0, 30.0)
    for slow in (False, True, False, True, False, True):
        rss = process_rss(node.child("netd"))
        reader = SlowSubscriber(node) if slow else None
        trial.run_for(1.5)  # what it is sent at first, as anyone who begins at the beginning
        begin = now()
        trial.run_for(seconds)
        spans.append((slow, begin, now(), process_rss(node.child("netd")) - rss))
        if reader:
            trial.expect(reader.bytes > 0, "the slow subscriber reads")
            reader.close()
    faults(trial)
    trial.healed()
    trial.finish()
    for part in (0.5, 0.99):
        values = [percentile([latency for slow, start, end, _ in spans if slow == which
                              for latency in trial.delivered(start, end)], part) * 1000 for which in (False, True)]
        trial.say(f"{SUBSCRIBERS} subscribers: append to delivery p{part * 100:.0f} {values[0]:.1f} ms, beside one "
                  f"that reads 1 B/s {values[1]:.1f} ms ({values[1] / values[0]:.2f} times, goal <= 1.1)")
    grown = [rss for slow, _, _, rss in spans if slow]
    trial.say(f"its node's netd grew by {max(grown) / 1024:.0f} KiB at most beside it, by "
              f"{max(rss for slow, _, _, rss in spans if not slow) / 1024:.0f} KiB without")
    trial.expect(max(grown) < OUTPUT_MAX, "a subscriber that doesn't read costs no more than its output buffer")


def faults(trial):
    cluster = trial.cluster
    node = cluster.nodes[cluster.leader(0)]
    trial.fault("a leader's bucketd killed")
    os.kill(node.child(0), signal.SIGKILL)
    trial.wait_progress("after the kill")
    for index in range(cluster.count):
        trial.fault(f"netd of node {index} killed")
        os.kill(cluster.nodes[index].child("netd"), signal.SIGKILL)
        trial.wait_progress("after the kill")
        cluster.wait_settled()
    index = busiest(cluster)
    trial.fault(f"node {index} killed")
    cluster.nodes[index].kill()
    trial.wait_progress("after the kill")
    cluster.nodes[index].start()
    cluster.wait_settled()
    index = busiest(cluster)
    trial.fault(f"netd of node {index} paused")
    go_on = cluster.nodes[index].pause("netd")
    trial.run_for(trial.rounds(5.0, 10.0))
    go_on()
    trial.wait_progress("after the pause")
    cluster.wait_settled()
    trial.fault(f"SIGTERM to node {index}")
    cluster.nodes[index].stop()
    cluster.nodes[index].start()
    cluster.wait_settled()
    trial.fault("all nodes killed")
    for node in cluster.nodes:
        node.kill()
        node.start()
    trial.wait_progress("after all were killed")
    cluster.wait_settled()
