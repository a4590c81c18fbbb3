"""Somebody in the nodes' network who announces them at wrong addresses, says goodbye in their names and sends garbage.

  mdns_liar.py CLUSTER_ID COUNT SEED SENDER...

Each sender is an address of this machine in that network. There it listens at two ports: connections to the one are
taken and never answered, those to the other are closed at once. Prints "ready", then for each line of its input what it
has done, in JSON; ends with its input."""

import json
import random
import selectors
import socket
import struct
import sys
import time

GROUP, PORT = "224.0.0.251", 5353
SERVICE = "_sierradb._tcp.local"
PTR, TXT, SRV, A, CNAME = 12, 16, 33, 1, 5
PACKETS_S = 300


def name(text):
    return b"".join(bytes([len(label)]) + label for label in text.encode().split(b".")) + b"\0"


def record(owner, kind, ttl, data):
    return name(owner) + struct.pack(">HHIH", kind, 0x8001, ttl, len(data)) + data


def response(records):
    return struct.pack(">6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def announcement(cluster, node, label, host, port, ttl=120):
    instance = f"{label}.{SERVICE}"
    texts = [b"v=1", b"cluster=liar", b"id=" + cluster.encode(), b"node=%d" % node]
    return response([
        record(SERVICE, PTR, ttl, name(instance)),
        record(instance, SRV, ttl, struct.pack(">HHH", 0, 0, port) + name(f"{label}.local")),
        record(instance, TXT, ttl, b"".join(bytes([len(text)]) + text for text in texts)),
        record(f"{label}.local", A, ttl, socket.inet_aton(host))])


class Sender:
    def __init__(self, host):
        self.host = host
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        self.sock.bind((host, PORT))
        self.silent, self.closing = self.listen(), self.listen()

    def listen(self):
        listener = socket.socket()
        listener.bind((self.host, 0))
        listener.listen(64)
        listener.setblocking(False)
        return listener

    def send(self, packet):
        self.sock.sendto(packet, (GROUP, PORT))


class Liar:
    def __init__(self, cluster, count, seed, hosts):
        self.cluster, self.count, self.rng = cluster, count, random.Random(seed)
        self.senders = [Sender(host) for host in hosts]
        self.kept = []
        self.done = {"packets": 0, "silent": 0, "closed": 0}

    def packet(self, sender):
        node = self.rng.randrange(self.count)
        label = f"sierradb-{node}-{self.rng.randrange(1 << 60):016x}"
        what = self.rng.randrange(10)
        if what < 3:
            return announcement(self.cluster, node, label, sender.host, sender.silent.getsockname()[1])
        if what < 5:
            return announcement(self.cluster, node, label, sender.host, sender.closing.getsockname()[1])
        if what < 6:  # where nobody is
            return announcement(self.cluster, node, label, sender.host.rsplit(".", 1)[0] + ".200", 9190)
        if what < 7:
            return announcement(self.cluster, node, label, sender.host, 1, 0)
        if what < 8:  # names that lead in circles
            return response([record(SERVICE, CNAME, 2, name(SERVICE)), record("a.local", CNAME, 2, name("b.local")),
                             record("b.local", CNAME, 2, name("a.local"))])
        packet = bytearray(announcement(self.cluster, node, label, sender.host, 9190))
        for _ in range(self.rng.randrange(1, 30)):
            packet[self.rng.randrange(len(packet))] = self.rng.randrange(256)
        return bytes(packet[:self.rng.randrange(1, len(packet) + 1)])

    def take(self, listener, silent):
        connection, _ = listener.accept()
        self.done["silent" if silent else "closed"] += 1
        if silent:
            self.kept.append(connection)
        else:
            connection.close()

    def run(self):
        selector = selectors.DefaultSelector()
        selector.register(sys.stdin, selectors.EVENT_READ, None)
        for sender in self.senders:
            selector.register(sender.silent, selectors.EVENT_READ, True)
            selector.register(sender.closing, selectors.EVENT_READ, False)
        print("ready", flush=True)
        begin = time.monotonic()
        while True:
            for key, _ in selector.select(1 / PACKETS_S):
                if key.fileobj is not sys.stdin:
                    self.take(key.fileobj, key.data)
                elif sys.stdin.readline():
                    print(json.dumps(self.done), flush=True)
                else:
                    return
            while self.done["packets"] < (time.monotonic() - begin) * PACKETS_S:
                sender = self.rng.choice(self.senders)
                sender.send(self.packet(sender))
                self.done["packets"] += 1


if __name__ == "__main__":
    Liar(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]).run()
