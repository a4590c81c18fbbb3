"""What clients send on connecting and beside the store's commands: CLIENT, COMMAND, INFO, AUTH, RESET, ..."""

import time

from support import resp
from support.node import wait_for
from support.resp import Error, Map, Simple


def test_ping_echo(client):
    assert type(client.cmd("PING")) is Simple
    assert client.cmd("PING", "x\r\ny") == b"x\r\ny"
    assert client.cmd("ECHO", b"\x00\xff") == b"\x00\xff"
    assert client.cmd("ECHO").code in ("INVALIDARG", "ERR")
    assert client.cmd("PING", "a", "b").code in ("INVALIDARG", "ERR")


def test_client_family(node):
    with node.client() as client, node.client() as other:
        assert client.cmd("CLIENT", "GETNAME") in (None, b"")
        assert client.cmd("CLIENT", "SETNAME", "tester") == b"OK"
        assert client.cmd("CLIENT", "GETNAME") == b"tester"
        assert isinstance(client.cmd("CLIENT", "SETNAME", "with space"), Error)
        assert client.cmd("CLIENT", "SETINFO", "LIB-VER", "1.2") == b"OK"
        assert client.cmd("CLIENT", "NO-EVICT", "on") == b"OK"
        mine = client.ok("CLIENT", "ID")
        theirs = other.ok("CLIENT", "ID")
        assert isinstance(mine, int) and isinstance(theirs, int) and mine != theirs
        info = client.ok("CLIENT", "INFO").decode()
        assert f"id={mine} " in info and "name=tester" in info and "addr=127.0.0.1:" in info
        listed = client.ok("CLIENT", "LIST").decode()
        assert f"id={mine} " in listed and f"id={theirs} " in listed
        assert client.cmd("CLIENT", "KILL", "ID", theirs) == 1
        assert other.closed()
        assert isinstance(client.cmd("CLIENT", "NONSENSE"), Error)
        assert isinstance(client.cmd("CLIENT"), Error)
        assert client.ok("PING") == b"PONG"


def test_client_kill_by_address(node):
    with node.client() as client, node.client() as other:
        host, port = other.sock.getsockname()
        assert client.cmd("CLIENT", "KILL", f"{host}:{port}") == b"OK"
        assert other.closed()
        assert client.cmd("CLIENT", "KILL", "TYPE", "pubsub") == 0
        assert client.cmd("CLIENT", "KILL", "TYPE", "replica") == 0
        assert client.cmd("CLIENT", "KILL", "USER", "nobody") == 0
        assert client.ok("CLIENT", "LIST", "TYPE", "pubsub") == b""
        assert client.ok("CLIENT", "LIST", "TYPE", "normal").count(b"id=") >= 1
        assert isinstance(client.cmd("CLIENT", "KILL", "TYPE", "odd"), Error)
        assert isinstance(client.cmd("CLIENT", "KILL", "127.0.0.1:1"), Error)


def test_command_family(client):
    count = client.ok("COMMAND", "COUNT")
    listed = client.ok("COMMAND")
    assert isinstance(count, int) and count >= 13 and len(listed) == count
    names = {entry[0].lower() for entry in listed}
    assert {b"eappend", b"emappend", b"eget", b"escan", b"epscan", b"esver", b"epseq", b"esub", b"epsub",
            b"eack", b"eunsub", b"hello", b"ping", b"info"} <= names
    info = client.ok("COMMAND", "INFO", "EAPPEND", "NOPE")
    assert len(info) == 2 and info[0][0].lower() == b"eappend" and info[1] in (None, resp.NULL_ARRAY)
    assert isinstance(client.ok("COMMAND", "DOCS"), Map)
    docs = resp.as_dict(client.ok("COMMAND", "DOCS", "eappend"))
    assert list(docs) == ["eappend"] and b"summary" in docs["eappend"].keys()


def test_config_get(client):
    assert resp.as_dict(client.ok("CONFIG", "GET", "append.strict_versioning")) in (
        {"append.strict_versioning": b"true"}, {"append.strict_versioning": b"yes"})
    buckets = resp.as_dict(client.ok("CONFIG", "GET", "bucket.*"))
    assert buckets["bucket.count"] == b"4"
    everything = resp.as_dict(client.ok("CONFIG", "GET", "*"))
    assert len(everything) > 20 and "segment.size_bytes" in everything
    assert resp.as_dict(client.ok("CONFIG", "GET", "no.such.key")) == {}
    # redis-benchmark asks for these two.
    assert not isinstance(client.cmd("CONFIG", "GET", "save"), Error)
    assert not isinstance(client.cmd("CONFIG", "GET", "appendonly"), Error)
    assert isinstance(client.cmd("CONFIG"), Error)


def test_password_is_not_shown(start):
    cluster_secret = "what all nodes share and nobody else"
    node = start({"network.password": "very-secret", "bucket.count": 1, "cluster.secret": cluster_secret},
                 password="very-secret")
    with node.client() as client:
        for command in (("EAPPEND", "s", "E", "EXPECTED_VERSION", "empty"), ("ESVER", "s"),
                        ("EPSUB", "*"), ("INFO",), ("CONFIG", "GET", "*"), ("CLIENT", "LIST"), ("COMMAND",)):
            assert client.cmd(*command).code == "NOAUTH", command
        assert client.cmd("AUTH", "wrong").code == "WRONGPASS"
        assert client.cmd("AUTH", "default", "wrong").code == "WRONGPASS"
        assert client.cmd("AUTH", "somebody", "very-secret").code == "WRONGPASS"
        assert client.cmd("HELLO", 3).code == "NOAUTH"
        assert client.cmd("HELLO", 3, "AUTH", "default", "wrong").code == "WRONGPASS"
        assert client.cmd("ESVER", "s").code == "NOAUTH"
        assert client.cmd("AUTH", "very-secret") == b"OK"
        assert client.cmd("ESVER", "s") is None
        client.ok("RESET")
        assert client.cmd("ESVER", "s").code == "NOAUTH"
        client.ok("HELLO", 3, "AUTH", "default", "very-secret")
        assert client.cmd("ESVER", "s") is None
        shown = resp.as_dict(client.ok("CONFIG", "GET", "*"))
        for secret in (b"very-secret", cluster_secret.encode()):
            assert secret not in b" ".join(shown.values())
            assert secret not in client.ok("INFO")
        assert shown["cluster.secret"] == shown["network.password"] == b"(hidden)"
    with node.client() as client:
        assert client.ok("AUTH", "default", "very-secret") == b"OK"
        assert client.ok("PING") == b"PONG"
    with node.client(timeout=5.0) as client:
        client.send_raw(b"*1000\r\n$500000\r\n")
        reply = client.reply()
        assert isinstance(reply, Error), "limits are small before AUTH"
    for secret in ("very-secret", cluster_secret):
        assert secret not in node.log_text()
        assert not any(secret in " ".join(argv) for argv in command_lines(node))
    node.stop()


def command_lines(node):
    from support.node import process_argv

    return [process_argv(pid) for pid in [node.pid, *node.children().values()]]


def test_auth_without_password(client):
    """As in Redis, AUTH on a server without a password says so and does no harm."""
    reply = client.cmd("AUTH", "x")
    assert reply == b"OK" or (isinstance(reply, Error) and reply.code in ("ERR", "WRONGPASS", "INVALIDARG"))
    assert client.ok("PING") == b"PONG"


def test_select(client):
    assert client.cmd("SELECT", 0) == b"OK"
    assert isinstance(client.cmd("SELECT", 1), Error)
    assert isinstance(client.cmd("SELECT", "x"), Error)
    assert isinstance(client.cmd("SELECT"), Error)


def test_quit(node):
    with node.client() as client:
        client.send_raw(resp.encode("PING") + resp.encode("QUIT") + resp.encode("PING"))
        assert client.reply() == b"PONG"
        assert client.reply() == b"OK"
        assert client.closed()


def test_reset(node, name):
    with node.client(2) as client:
        client.ok("CLIENT", "SETNAME", "x")
        client.ok("ESUB", name)
        assert client.push()[0] == b"subscribe"
        assert client.cmd("RESET") == b"RESET"
        assert client.cmd("CLIENT", "GETNAME") in (None, b"")
        client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
        assert client.silent(0.2), "the subscription is gone"


def test_info(client):
    text = client.ok("INFO").decode()
    assert "# Server\r\n" in text
    pairs = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    assert "redis_version" in pairs or "sierradb_version" in pairs
    assert client.ok("INFO", "server").decode().startswith("# Server")
    client.ok("HELLO", 3)  # a bare INFO as the first command made it RESP2
    cache = client.ok("INFO", "cache")
    assert type(cache) is Map
    assert [key.decode() for key in cache.keys()] == [
        "hits", "misses", "hit_ratio", "entries", "memory_bytes", "max_bytes", "block_size_bytes", "evictions"]
    assert isinstance(cache["hit_ratio"], float)
    assert all(isinstance(cache[key], int) for key in ("hits", "misses", "entries", "memory_bytes", "max_bytes"))
    assert cache["max_bytes"] == 256 << 20
    assert type(client.ok("INFO", "CACHE")) is Map


def test_info_resp2(node):
    with node.client(2) as client:
        cache = client.ok("INFO", "cache")
        # Redis clients expect text here; a flat array is the map's RESP2 form.
        assert isinstance(cache, (bytes, list))


def test_time(client):
    seconds, micros = client.ok("TIME")
    assert abs(int(seconds) - time.time()) < 5 and 0 <= int(micros) < 1000000


def test_dbsize(client, name):
    before = client.ok("DBSIZE")
    client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
    client.ok("EAPPEND", name, "E", "EXPECTED_VERSION", 0)
    assert client.ok("DBSIZE") >= before + 1


def test_many_connections(node):
    clients = [node.client() for _ in range(500)]
    for client in clients:
        client.send("PING")
    assert all(client.reply() == b"PONG" for client in clients)
    for client in clients:
        client.close()


def test_max_clients(start):
    node = start({"network.max_clients": 5, "bucket.count": 1})
    clients = [node.client(timeout=3.0)]
    wait_for("earlier connections are gone", lambda: clients[0].ok("CLIENT", "LIST").count(b"\n") == 1)
    clients += [node.client(timeout=3.0) for _ in range(4)]
    for client in clients:
        assert client.ok("PING") == b"PONG"
    extra = node.client(timeout=3.0)
    try:
        extra.send("PING")
        reply = extra.reply()
        assert isinstance(reply, Error), reply
        assert extra.closed()
    except (resp.Closed, ConnectionError):
        pass
    clients.pop().close()
    deadline = time.monotonic() + 3.0
    while time.monotonic() < deadline:
        try:
            with node.client(timeout=1.0) as client:
                if client.cmd("PING") == b"PONG":
                    break
        except (OSError, resp.Closed):
            pass
    else:
        raise AssertionError("no room after a client left")
    for client in clients:
        client.close()
    node.stop()
