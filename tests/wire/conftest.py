"""Fixtures of the client tests: nodes from SIERRADB_BUILD (default ./build) on loopback ports."""

import itertools
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support.node import Node, first_port, port_free, sanitized  # noqa: E402

PORT_FIRST = first_port(9140)
PORT_COUNT = 20
_ports = itertools.cycle(range(PORT_FIRST, PORT_FIRST + PORT_COUNT))
_names = itertools.count()


@pytest.fixture(scope="session")
def memory_counts():
    """False where a sanitizer's own memory hides the server's."""
    return not sanitized()


@pytest.fixture(scope="session")
def slowness():
    """How many times slower than an optimised build this one may be."""
    return 5.0 if sanitized() else 1.0


@pytest.fixture(scope="session")
def next_port():
    def free_port():
        for _ in range(PORT_COUNT):
            port = next(_ports)
            if port_free(port):
                return port
        raise RuntimeError(f"no free port among {PORT_FIRST} to {PORT_FIRST + PORT_COUNT - 1}")

    return free_port


@pytest.fixture(scope="session")
def start(tmp_path_factory, next_port):
    """start(config, **options) gives a running node; what still runs at the end is killed."""
    nodes = []

    def make(config=None, **options):
        directory = tmp_path_factory.mktemp("node") / "data"
        node = Node(directory, next_port(), config, **options)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.kill()


@pytest.fixture(scope="session")
def node(start):
    """The default configuration: strict versioning, 4 buckets, 32 partitions."""
    return start()


@pytest.fixture(scope="session")
def lax(start):
    """Without strict versioning, and with segments so small that rollovers are near."""
    return start({"append.strict_versioning": False, "segment.size_bytes": 131072,
                  "segment.compression": True})


@pytest.fixture
def client(node):
    with node.client() as connection:
        yield connection


@pytest.fixture
def free(lax):
    """A connection to the node without strict versioning."""
    with lax.client() as connection:
        yield connection


@pytest.fixture
def name():
    """A stream name nobody else uses."""
    return f"stream-{next(_names)}"


@pytest.fixture
def names():
    return lambda: f"stream-{next(_names)}"
