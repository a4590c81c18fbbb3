"""Real clients: redis-cli, redis-benchmark, redis-py in both protocols, hiredis in C and by its Python binding."""

import os
import pty
import select
import subprocess
import time
import uuid

import hiredis
import pytest
import redis

from support import ids, resp

HERE = os.path.dirname(os.path.abspath(__file__))


def cli(node, *args, stdin=None, options=()):
    done = subprocess.run(["redis-cli", "-p", str(node.port), *options, *[str(arg) for arg in args]],
                          input=stdin, capture_output=True, timeout=20)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.parametrize("options", [(), ("-3",), ("-2",)], ids=str)
def test_redis_cli(node, name, options):
    out = cli(node, "EAPPEND", name, "Made", "EXPECTED_VERSION", "empty", "PAYLOAD", "hi", options=options)
    assert b"stream_version" in out and name.encode() not in out
    assert cli(node, "ESVER", name, options=options) == b"0\n"
    assert cli(node, "PING", options=options) == b"PONG\n"
    out = cli(node, "ESCAN", name, "-", "+", options=options)
    assert b"has_more" in out and name.encode() in out and b"Made" in out
    assert cli(node, "ESVER", name + "x", options=options) == b"\n"
    assert cli(node, "EGET", "x", options=options).startswith(b"INVALIDARG invalid event id")
    assert b"# Server" in cli(node, "INFO", options=options)


def test_redis_cli_json(node, name):
    import json

    cli(node, "EAPPEND", name, "Made", "EXPECTED_VERSION", "empty", "PAYLOAD", "hi")
    page = json.loads(cli(node, "ESCAN", name, "-", "+", options=("--json",)))
    assert page["has_more"] is False and page["events"][0]["payload"] == "hi"
    assert page["events"][0]["stream_version"] == 0


def test_redis_cli_from_stdin(node, name):
    lines = "".join(f"EAPPEND {name} E{i} EXPECTED_VERSION {'empty' if i == 0 else i - 1}\n" for i in range(50))
    cli(node, stdin=lines.encode())
    assert cli(node, "ESVER", name) == b"49\n"


def test_redis_cli_pipe(node, name):
    data = b"".join(resp.encode("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
                    for i in range(2000))
    out = cli(node, "--pipe", stdin=data)
    assert b"errors: 0, replies: 2000" in out
    assert cli(node, "ESVER", name) == b"1999\n"


@pytest.mark.parametrize("options", [(), ("-3",)], ids=str)
def test_redis_cli_interactive(node, name, options):
    """A terminal: COMMAND DOCS for hints at the start, then commands, then a subscription."""
    master, slave = pty.openpty()
    env = dict(os.environ, TERM="dumb")
    process = subprocess.Popen(["redis-cli", "-p", str(node.port), *options], stdin=slave, stdout=slave, stderr=slave,
                               env=env, close_fds=True)
    os.close(slave)
    seen = b""

    def expect(text, timeout=10.0):
        nonlocal seen
        deadline = time.monotonic() + timeout
        while text not in seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {seen!r}"
            if select.select([master], [], [], left)[0]:
                seen += os.read(master, 65536)
        seen = seen[seen.index(text) + len(text):]

    try:
        expect(b"> ")
        os.write(master, b"PING\n")
        expect(b"PONG")
        os.write(master, f"EAPPEND {name} Typed EXPECTED_VERSION empty PAYLOAD \"a b\"\n".encode())
        expect(b"stream_version")
        os.write(master, f"ESCAN {name} - +\n".encode())
        expect(b"a b")
        os.write(master, f"ESUB {name} FROM 0\n".encode())
        os.write(master, b"PING\n")  # redis-cli shows pushes with the next command's reply
        expect(b"subscribe")
    finally:
        process.kill()
        process.wait()
        os.close(master)


def benchmark(node, *args):
    done = subprocess.run(["redis-benchmark", "-p", str(node.port), *args], capture_output=True, timeout=60)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    assert "Error" not in text and "error" not in text and "WARNING" not in text, text
    assert "requests per second" in text or "rps" in text
    return text


@pytest.mark.parametrize("options", [("-c", "50", "-n", "20000"), ("-c", "50", "-n", "50000", "-P", "16"),
                                     ("-c", "1", "-n", "2000"), ("-c", "50", "-n", "20000", "-3"),
                                     ("-c", "50", "-n", "20000", "--threads", "2")], ids=" ".join)
def test_redis_benchmark(lax, name, options):
    text = benchmark(lax, *options, "-r", "1000", "-q", "EAPPEND", f"{name}-__rand_int__", "E", "PAYLOAD", "x" * 100)
    print(text.strip().splitlines()[-1])
    count = int(options[3])
    with lax.client() as client:
        total = sum((client.cmd("ESVER", f"{name}-{i:012d}") or 0) + 1 for i in range(1000)
                    if client.cmd("ESVER", f"{name}-{i:012d}") is not None)
    # Its last pipeline may hold a few more than asked for.
    assert count <= total <= count + 50 * 16


def test_redis_benchmark_ping(node):
    benchmark(node, "-c", "50", "-n", "20000", "-q", "-t", "ping")
    benchmark(node, "-c", "50", "-n", "20000", "-q", "PING")


@pytest.fixture(params=[2, 3])
def protocol(request):
    return request.param


@pytest.fixture
def r(node, protocol):
    connection = redis.Redis(port=node.port, protocol=protocol)
    yield connection
    connection.close()


def fields(reply):
    """redis-py gives maps as dict in protocol 3, flat lists in 2."""
    return reply if isinstance(reply, dict) else dict(zip(reply[0::2], reply[1::2]))


def test_redis_py(r, name, protocol):
    assert r.ping()
    made = fields(r.execute_command("EAPPEND", name, "E", "EXPECTED_VERSION", "empty", "PAYLOAD", b"\x00\xff"))
    assert made[b"stream_version"] == 0
    page = fields(r.execute_command("ESCAN", name, "-", "+"))
    assert page[b"has_more"] in ((False,) if protocol == 3 else (0,))
    assert fields(page[b"events"][0])[b"payload"] == b"\x00\xff"
    assert r.execute_command("ESVER", name) == 0 and r.execute_command("ESVER", name + "x") is None
    with pytest.raises(redis.ResponseError, match="WRONGVER"):
        r.execute_command("EAPPEND", name, "E", "EXPECTED_VERSION", "empty")
    assert r.info()["redis_version"] if "redis_version" in r.info() else r.info()
    assert isinstance(r.dbsize(), int) and r.time()[0] > 0
    assert r.config_get("bucket.count") in ({"bucket.count": "4"}, {b"bucket.count": b"4"})
    assert r.client_setname("py") and r.client_getname() in ("py", b"py")
    assert r.client_id() > 0 and len(r.client_list()) >= 1
    assert r.echo("x") == b"x" and r.select(0)
    assert r.command_count() > 10


def test_redis_py_pipeline(r, name):
    with r.pipeline(transaction=False) as pipe:
        for i in range(5000):
            pipe.execute_command("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
        replies = pipe.execute()
    assert [fields(reply)[b"stream_version"] for reply in replies] == list(range(5000))


def test_redis_py_decoded(node, name, protocol):
    r = redis.Redis(port=node.port, protocol=protocol, decode_responses=True, client_name="decoded")
    key = ids.default_key(name)
    made = fields(r.execute_command("EMAPPEND", str(key), name, "A", "EXPECTED_VERSION", "empty", name, "B",
                                    "EXPECTED_VERSION", 0, "PAYLOAD", "päylöad"))
    assert [fields(event)["stream_version"] for event in made["events"]] == [0, 1]
    event = fields(r.execute_command("EGET", fields(made["events"][1])["event_id"]))
    assert event["payload"] == "päylöad" and event["stream_id"] == name
    assert list(event) == [key.decode() for key in resp.EVENT_KEYS]
    r.close()


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "redis://127.0.0.1:{}/0?protocol=3"])
def test_redis_py_url_and_pool(node, name, url):
    r = redis.Redis.from_url(url.format(node.port), health_check_interval=1, socket_keepalive=True)
    for _ in range(20):
        assert r.ping()
    r.close()


def test_redis_py_password(start):
    node = start({"network.password": "s3cret", "bucket.count": 1}, password="s3cret")
    for protocol in (2, 3):
        for user in (None, "default"):
            r = redis.Redis(port=node.port, protocol=protocol, password="s3cret", username=user)
            assert r.ping() and r.execute_command("ESVER", "s") is None
            r.close()
        r = redis.Redis(port=node.port, protocol=protocol, password="wrong")
        with pytest.raises((redis.AuthenticationError, redis.ResponseError)):
            r.ping()
        r.close()
    done = subprocess.run(["redis-cli", "-p", str(node.port), "-a", "s3cret", "--no-auth-warning", "PING"],
                          capture_output=True)
    assert done.stdout == b"PONG\n" and done.stderr == b""
    node.stop()


def test_redis_py_pushes(node, name, protocol):
    """A connection of redis-py reads the confirmation and the messages itself, in both protocols."""
    r = redis.Redis(port=node.port, protocol=protocol)
    for i in range(5):
        r.execute_command("EAPPEND", name, "E", "EXPECTED_VERSION", "empty" if i == 0 else i - 1)
    connection = r.connection_pool.get_connection()
    connection.send_command("ESUB", name, "FROM", 0)
    subscription = connection.read_response()
    uuid.UUID(subscription.decode())
    confirmed = connection.read_response(push_request=True) if protocol == 3 else connection.read_response()
    assert confirmed == [b"subscribe", subscription, 1]
    for i in range(5):
        message = connection.read_response(push_request=True) if protocol == 3 else connection.read_response()
        assert message[:3] == [b"message", subscription, i]
        assert fields(message[3])[b"stream_version"] == i
    connection.disconnect()
    r.close()


def test_redis_py_async(node, name, protocol):
    import asyncio

    import redis.asyncio

    async def run():
        r = redis.asyncio.Redis(port=node.port, protocol=protocol)
        replies = await asyncio.gather(*(r.execute_command("EAPPEND", f"{name}-{i}", "E", "EXPECTED_VERSION", "empty")
                                         for i in range(100)))
        assert all(fields(reply)[b"stream_version"] == 0 for reply in replies)
        await r.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("number", [2, 3])
def test_hiredis_c(node, name, number, tmp_path):
    binary = tmp_path / "hiredis_client"
    subprocess.run(["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", binary, f"{HERE}/hiredis_client.c",
                    "-lhiredis"], check=True)
    done = subprocess.run([binary, str(node.port), str(number), name], capture_output=True, text=True, timeout=30)
    if done.returncode == 77:
        pytest.skip("this hiredis knows no RESP3; test_hiredis_reader does it")
    assert done.returncode == 0 and done.stdout == "ok\n", done


@pytest.mark.parametrize("number", [2, 3])
def test_hiredis_reader(node, name, number):
    """hiredis 1.x parses what we send, pushes included."""
    with node.client() as client:
        reader = hiredis.Reader()

        def read():
            while True:
                frame = reader.gets()
                if frame is not False:
                    return frame
                reader.feed(client.sock.recv(65536))

        def ask(*args):
            client.send(*args)
            frame = read()
            assert not isinstance(frame, hiredis.HiredisError), frame
            return frame

        hello = fields(ask("HELLO", number))
        assert hello[b"proto"] == number
        for i in range(10):
            expected = "empty" if i == 0 else i - 1
            made = fields(ask("EAPPEND", name, "E", "EXPECTED_VERSION", expected, "PAYLOAD", b"\r\n\0"))
            assert made[b"stream_version"] == i
        page = ask("ESCAN", name, "-", "+", "COUNT", 4)
        assert isinstance(page, dict if number == 3 else list)
        assert fields(page)[b"has_more"] == 1 and (number == 2 or fields(page)[b"has_more"] is True)
        assert ask("ESVER", name + "x") is None
        subscription = ask("ESUB", name, "FROM", 0)
        pushes = [read() for _ in range(11)]
        if number == 3:
            assert all(isinstance(push, hiredis.PushNotification) for push in pushes)
        assert pushes[0] == [b"subscribe", subscription, 1]
        assert [push[2] for push in pushes[1:]] == list(range(10))
        assert [fields(push[3])[b"stream_version"] for push in pushes[1:]] == list(range(10))
        assert ask("EACK", subscription, 9) == b"OK"
