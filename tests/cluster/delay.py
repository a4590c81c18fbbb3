"""Holds packets back: the far end of an NFQUEUE (this kernel has no netem). Run in the namespace whose rule queues:
    delay.py QUEUE DELAY_MS JITTER_MS
Packets keep their order; each leaves DELAY_MS + (0 to JITTER_MS) after it came, or right behind the one before it. Ends
with its standard input. A rule with --queue-bypass lets packets pass when this doesn't run."""

import collections
import os
import random
import select
import socket
import struct
import sys
import time

NETLINK_NETFILTER = 12
SUBSYSTEM = 3  # NFNL_SUBSYS_QUEUE
PACKET, VERDICT, CONFIG, VERDICT_BATCH = 0, 1, 2, 3
REQUEST, ACK = 1, 4
BIND, COPY_META, ACCEPT = 1, 1, 1
CFG_CMD, CFG_PARAMS, CFG_MAXLEN, CFG_MASK, CFG_FLAGS = 1, 2, 3, 4, 5
FAIL_OPEN, GSO = 1, 4
PACKET_HDR, VERDICT_HDR = 1, 2
QUEUE_LEN = 65536


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


class Queue:
    def __init__(self, number):
        self.number = number
        self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.sock.bind((0, 0))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.send(CONFIG, attribute(CFG_CMD, struct.pack("!BxH", BIND, 0)), ACK)
        self.send(CONFIG, attribute(CFG_PARAMS, struct.pack("!IB", 0, COPY_META)), ACK)
        flags = struct.pack("!I", FAIL_OPEN | GSO)
        self.send(CONFIG, attribute(CFG_MAXLEN, struct.pack("!I", QUEUE_LEN)) + attribute(CFG_FLAGS, flags)
                  + attribute(CFG_MASK, flags), ACK)

    def send(self, kind, attributes, flags=0):
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, self.number) + attributes
        self.sock.send(struct.pack("=IHHII", 16 + len(body), SUBSYSTEM << 8 | kind, REQUEST | flags, 0, 0) + body)
        if flags & ACK:
            reply = self.sock.recv(65536)
            error = struct.unpack_from("=i", reply, 16)[0]
            if error:
                raise OSError(-error, os.strerror(-error))

    def receive(self):
        """Ids of the packets that came."""
        ids, data, at = [], self.sock.recv(1 << 20), 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == SUBSYSTEM << 8 | PACKET:
                ids.append(self.packet_id(data, at + 20, at + length))
            at += (length + 3) & ~3
        return ids

    @staticmethod
    def packet_id(data, at, end):
        while at < end:
            length, kind = struct.unpack_from("=HH", data, at)
            if kind & 0x3FFF == PACKET_HDR:
                return struct.unpack_from("!I", data, at + 4)[0]
            at += (length + 3) & ~3
        raise ValueError("a packet without an id")

    def accept_up_to(self, packet_id):
        self.send(VERDICT_BATCH, attribute(VERDICT_HDR, struct.pack("!II", ACCEPT, packet_id)))


def main():
    number, delay, jitter = int(sys.argv[1]), float(sys.argv[2]) / 1000, float(sys.argv[3]) / 1000
    queue = Queue(number)
    print("ready", flush=True)
    held = collections.deque()  # (time to leave, id)
    while True:
        now = time.monotonic()
        last = None
        while held and held[0][0] <= now:
            last = held.popleft()[1]
        if last is not None:
            queue.accept_up_to(last)
        readable = select.select([queue.sock, sys.stdin], [], [], max(0.0, held[0][0] - now) if held else None)[0]
        if sys.stdin in readable:
            break
        if queue.sock in readable:
            now = time.monotonic()
            for packet_id in queue.receive():
                leave = now + delay + jitter * random.random()
                held.append((max(leave, held[-1][0]) if held else leave, packet_id))
    if held:
        queue.accept_up_to(held[-1][1])


if __name__ == "__main__":
    main()
