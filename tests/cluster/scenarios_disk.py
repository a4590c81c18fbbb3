"""Disks that are full, lost, old, damaged, slow, or without power."""

import os
import random
import re
import shutil
import time

from checker import SECOND
from history import now
from nodes import BUCKETS
from scenario import busiest, led_by, scenario, show_votes


@scenario(tmpfs={0: 96}, config={"segment.size_bytes": 131072})
def disk_full(trial):
    """The disk of one node is full for 8 s"""
    cluster = trial.cluster
    node = cluster.nodes[0]
    led = led_by(cluster, 0)
    start = trial.fault("disk of node 0 full")
    filler = node.fill()
    trial.run_for(8.0)
    full = now()
    os.unlink(filler)
    trial.fault("room again")
    begin = time.monotonic()
    trial.wait_progress("with room again")
    trial.say(f"disk full: node 0 led {led}; appends in every bucket {time.monotonic() - begin:.2f} s after there was "
              "room")
    cluster.wait_settled(60.0)
    trial.healed()
    trial.finish()
    per_s = [sum(1 for t in times if start <= t <= full) / ((full - start) / SECOND) for times in trial.times]
    trial.say("disk full: appends/s meanwhile, by bucket: " + ", ".join(f"{rate:.0f}" for rate in per_s)
              + f"; clients were told {trial.refusals(None, start, full)}")


@scenario(quick=True, config={"segment.size_bytes": 1 << 20})
def wiped(trial):
    """A killed node's data directory is deleted: it is rebuilt from its peers, and votes again"""
    cluster = trial.cluster
    for index in range(trial.rounds(1, 3)):
        node = cluster.nodes[index]
        trial.fault(f"node {index} killed and wiped")
        node.kill()
        node.wipe()
        begin = time.monotonic()
        node.start()
        trial.wait_progress("after the return of an empty node")
        cluster.wait_settled(60.0)
        took = time.monotonic() - begin
        events = sum(len(os.listdir(os.path.join(node.dir, "buckets", f"{b:05d}", "segments"))) for b in range(BUCKETS))
        trial.say(f"wiped: node {index} has all again after {took:.2f} s ({events} segments)")
    show_votes(trial, cluster.nodes[2])
    trial.healed()
    trial.finish()


@scenario(config={"segment.size_bytes": 1 << 20})
def old_copy(trial):
    """A node's disk is replaced by its own copy of some seconds ago"""
    cluster = trial.cluster
    node = cluster.nodes[1]
    node.kill()
    copy = os.path.join(trial.base, "copy")
    shutil.copytree(node.dir, copy, ignore=shutil.ignore_patterns("run"))
    node.start()
    cluster.wait_settled()
    trial.run_for(5.0)
    trial.fault("node 1 killed, its disk replaced by an old copy")
    node.kill()
    node.wipe()
    for name in os.listdir(copy):
        path = os.path.join(copy, name)
        (shutil.copytree if os.path.isdir(path) else shutil.copy2)(path, os.path.join(node.dir, name))
    node.start()
    trial.wait_progress("with an old disk")
    cluster.wait_settled(60.0)
    trial.healed()
    trial.finish()


@scenario(config={"segment.size_bytes": 1 << 20})
def flipped_byte(trial):
    """Bytes of a follower's open and sealed segments are changed while it is down: repaired from the others"""
    cluster, rng = trial.cluster, random.Random(trial.seed)
    trial.run_for(4.0)
    for round_number in range(trial.rounds(2, 6)):
        index = (busiest(cluster) + 1 + round_number) % cluster.count
        node = cluster.nodes[index]
        trial.fault(f"bytes of node {index} changed while it is down")
        node.kill()
        for bucket, paths in node.segments().items():
            if bucket % 2 == 0 or len(paths) == 1:
                flip(paths[-1], rng)
            else:
                flip_event(node, paths[0], rng)
        node.start()
        trial.wait_progress("with a damaged node")
        begin = time.monotonic()
        cluster.wait_settled(60.0)
        trial.say(f"flipped byte: node {index} is whole again after {time.monotonic() - begin:.2f} s")
    trial.healed()
    trial.finish()


@scenario(config={"segment.size_bytes": 1 << 20})
def set_aside(trial):
    """A down node's logs lose what tells their ends: they are set aside, and the node is rebuilt from the others"""
    cluster = trial.cluster
    node = cluster.nodes[(busiest(cluster) + 1) % cluster.count]
    trial.run_for(4.0)
    trial.fault(f"both copies of the newest checkpoints of node {node.index} changed while it is down")
    node.kill()
    buckets = node.segments()
    for paths in buckets.values():
        for copy in (4096, 8192):
            flip_at(paths[-1], copy + 50)
    begin = time.monotonic()
    node.start()
    trial.wait_progress("with a node that has set its logs aside")
    cluster.wait_settled(60.0)
    trial.say(f"set aside: node {node.index} is whole again after {time.monotonic() - begin:.2f} s")
    aside = [bucket for bucket in buckets
             if os.path.isdir(os.path.join(node.dir, "buckets", f"{bucket:05d}", "damaged"))]
    trial.expect(aside == list(buckets), f"all logs are set aside: {aside} of {list(buckets)}")
    show_votes(trial, cluster.nodes[(node.index + 1) % cluster.count])
    trial.healed()
    trial.finish()


def flip_at(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x40]))


def flip(path, rng):
    """Changes a byte in the first half of what is written."""
    with open(path, "rb") as file:
        end = len(file.read().rstrip(b"\0"))
    flip_at(path, rng.randrange(min(16384, end // 4), max(16385, end // 2)))


def flip_event(node, path, rng):
    """Changes a byte of an event of a sealed segment: reads notice it. What else stands there nobody reads until a
    replica is fed from it, or `sierradb verify` runs."""
    events = re.findall(r"(?m)^    @(\d+) event ", node.cli("dump", path, check=False).stdout)
    flip_at(path, int(rng.choice(events)) + rng.randrange(72))
