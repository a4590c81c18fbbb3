"""A raw RESP client that keeps every type and every byte apart, so that a test can tell + from $."""

import select
import socket
import time


class ProtocolError(Exception):
    """Bytes that are no RESP."""


class Closed(Exception):
    """The server closed the connection."""


class Simple(bytes):
    """+text"""

    def __repr__(self):
        return "Simple(" + bytes.__repr__(self) + ")"


class Error(bytes):
    """-CODE text"""

    def __repr__(self):
        return "Error(" + bytes.__repr__(self) + ")"

    @property
    def code(self):
        return self.split(b" ", 1)[0].decode()

    @property
    def text(self):
        return self.decode("utf-8", "replace")


class Map(list):
    """%n: pairs in the order sent."""

    def get(self, key, default=None):
        key = key.encode() if isinstance(key, str) else key
        for name, value in self:
            if name == key:
                return value
        return default

    def __getitem__(self, key):
        if isinstance(key, (int, slice)):
            return list.__getitem__(self, key)
        wanted = key.encode() if isinstance(key, str) else key
        for name, value in self:
            if name == wanted:
                return value
        raise KeyError(key)

    def keys(self):
        return [name for name, _ in self]


class Push(list):
    """>n"""


class NullArray:
    """*-1 (RESP2)"""


NULL_ARRAY = NullArray()


def encode(*args):
    """A request: an array of bulk strings."""
    out = [b"*%d\r\n" % len(args)]
    for arg in args:
        if isinstance(arg, bytes):
            data = arg
        elif isinstance(arg, int):
            data = b"%d" % arg
        else:
            data = str(arg).encode()
        out.append(b"$%d\r\n" % len(data))
        out.append(data)
        out.append(b"\r\n")
    return b"".join(out)


class Parser:
    """Bytes in, frames out; goes on where it stopped, so that its work is linear in the bytes."""

    def __init__(self):
        self.buffer = b""
        self.at = 0
        self.stack = []  # of [kind, values still to come, values]

    def feed(self, data):
        self.buffer = self.buffer[self.at:] + data if self.at else self.buffer + data
        self.at = 0

    def next(self):
        """(True, frame) or (False, None) when more bytes are needed."""
        while True:
            found, value = self._value()
            if not found:
                return False, None
            while True:
                if not self.stack:
                    return True, value
                top = self.stack[-1]
                top[2].append(value)
                top[1] -= 1
                if top[1]:
                    break
                self.stack.pop()
                value = self._aggregate(top[0], top[2])

    @staticmethod
    def _aggregate(kind, values):
        if kind == b"%":
            return Map(zip(values[0::2], values[1::2]))
        return Push(values) if kind == b">" else values

    def _value(self):
        """A value without parts; an aggregate with parts goes on the stack."""
        while True:
            end = self.buffer.find(b"\r\n", self.at)
            if end < 0:
                return False, None
            kind = self.buffer[self.at:self.at + 1]
            rest = self.buffer[self.at + 1:end]
            if kind in b"*%>~" and kind:
                count = int(rest)
                self.at = end + 2
                if count < 0:
                    return True, NULL_ARRAY
                if count == 0:
                    return True, self._aggregate(kind, [])
                self.stack.append([kind, count * (2 if kind == b"%" else 1), []])
                continue
            if kind in b"$=" and kind and not rest.startswith(b"-"):
                stop = end + 2 + int(rest)
                if stop + 2 > len(self.buffer):
                    return False, None
                if self.buffer[stop:stop + 2] != b"\r\n":
                    raise ProtocolError("a bulk string without CRLF at its end")
                self.at = stop + 2
                return True, self.buffer[end + 2:stop]
            self.at = end + 2
            return True, self._scalar(kind, rest)

    @staticmethod
    def _scalar(kind, rest):
        if kind == b"+":
            return Simple(rest)
        if kind == b":":
            return int(rest)
        if kind == b"-":
            return Error(rest)
        if (kind == b"$" and rest == b"-1") or (kind == b"_" and not rest):
            return None
        if kind == b"#" and rest in (b"t", b"f"):
            return rest == b"t"
        if kind == b",":
            return float(rest)
        raise ProtocolError(f"a frame that begins with {(kind + rest)[:40]!r}")


def is_push(frame):
    """Pushes, and in RESP2 the arrays that stand for them."""
    if isinstance(frame, Push):
        return True
    return (type(frame) is list and len(frame) in (3, 4) and isinstance(frame[0], (bytes, Simple))
            and frame[0] in (b"message", b"subscribe"))


class Client:
    """One connection. Without hello it says nothing first, as the original's clients do."""

    def __init__(self, port, hello=None, timeout=10.0, host="127.0.0.1", rcvbuf=None):
        self.timeout = timeout
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        self.sock.connect((host, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parser = Parser()
        self.pushes = []
        if hello:
            reply = self.cmd("HELLO", hello)
            assert not isinstance(reply, Error), reply

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.sock.close()

    def send_raw(self, data):
        self.sock.sendall(data)

    def send(self, *args):
        self.sock.sendall(encode(*args))

    def read(self, timeout=None):
        """The next frame, a push or not."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            found, frame = self.parser.next()
            if found:
                return frame
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError("no frame in time")
            try:
                data = self.sock.recv(1 << 20)
            except (ConnectionResetError, BrokenPipeError) as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("end of stream")
            self.parser.feed(data)

    def read_bytes(self, count, timeout=None):
        """Exactly `count` raw bytes, for golden byte tests."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        assert not self.parser.stack
        data = self.parser.buffer[self.parser.at:]
        self.parser = Parser()
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.sock], [], [], left)[0]:
                raise TimeoutError(f"only {data!r}")
            more = self.sock.recv(1 << 16)
            if not more:
                raise Closed(f"after {data!r}")
            data += more
        self.parser.feed(data[count:])
        return data[:count]

    def reply(self, timeout=None):
        """The next frame that is no push; pushes on the way are kept."""
        while True:
            frame = self.read(timeout)
            if not is_push(frame):
                return frame
            self.pushes.append(frame)

    def cmd(self, *args, timeout=None):
        self.send(*args)
        return self.reply(timeout)

    def ok(self, *args, timeout=None):
        """The reply, which is no error."""
        reply = self.cmd(*args, timeout=timeout)
        assert not isinstance(reply, Error), f"{args!r}: {reply!r}"
        return reply

    def pipeline(self, commands, timeout=None):
        """Sends all, then reads all replies. For more than the sockets can hold use pipeline_chunks."""
        commands = list(commands)
        self.sock.sendall(b"".join(encode(*command) for command in commands))
        return [self.reply(timeout) for _ in commands]

    def push(self, timeout=None):
        """The next push: a kept one, or from the wire. A reply in between is an error."""
        if self.pushes:
            return self.pushes.pop(0)
        frame = self.read(timeout)
        assert is_push(frame), f"expected a push, got {frame!r}"
        return frame

    def messages(self, count, timeout=10.0, ack=None):
        """`count` message pushes as (subscription, cursor, event). ack=n acknowledges after each n."""
        out = []
        deadline = time.monotonic() + timeout
        while len(out) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(out)} of {count} messages")
            try:
                frame = self.pushes.pop(0) if self.pushes else self.read(left)
            except TimeoutError:
                raise TimeoutError(f"{len(out)} of {count} messages") from None
            if not is_push(frame):
                assert ack and frame == b"OK", f"expected a push, got {frame!r}"
                continue
            if frame[0] != b"message":
                continue
            out.append((frame[1].decode(), frame[2], event(frame[3])))
            if ack and len(out) % ack == 0:
                self.send("EACK", frame[1].decode(), frame[2])
        return out

    def silent(self, seconds):
        """True when nothing at all comes for so long."""
        if self.pushes:
            return False
        try:
            self.pushes.append(self.read(seconds))
            return False
        except TimeoutError:
            return True

    def closed(self, timeout=5.0):
        """True when the server closes within the time; what it sends before is dropped."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                self.sock.settimeout(max(0.01, deadline - time.monotonic()))
                if not self.sock.recv(1 << 16):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False


EVENT_KEYS = [b"event_id", b"partition_key", b"partition_id", b"transaction_id", b"partition_sequence",
              b"stream_version", b"timestamp", b"stream_id", b"event_name", b"metadata", b"payload"]


def event(frame):
    """An event map (RESP3) or its flat array (RESP2) as a dict with str keys; ids as str, the rest raw."""
    if frame is None:
        return None
    pairs = frame if isinstance(frame, Map) else list(zip(frame[0::2], frame[1::2]))
    out = {name.decode(): value for name, value in pairs}
    for name in ("event_id", "partition_key", "transaction_id"):
        out[name] = out[name].decode()
    return out


def as_dict(frame):
    """A map of either protocol as a dict with str keys."""
    pairs = frame if isinstance(frame, Map) else list(zip(frame[0::2], frame[1::2]))
    return {name.decode(): value for name, value in pairs}


def scan(frame):
    """(has_more as bool, [event dicts]) of a scan's reply."""
    assert not isinstance(frame, Error), frame
    reply = as_dict(frame)
    return bool(reply["has_more"]), [event(item) for item in reply["events"]]
