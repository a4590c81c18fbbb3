"""Ids and routing as the client protocol defines them, computed on the test's side."""

import uuid

NAMESPACE = uuid.UUID("219bd637-e279-53e9-9e2b-eabe5d9120cc")
HASH_SHIFT = 46
HASH_MASK = 0xFFFF


def default_key(stream):
    """The partition key of a stream that names none: UUIDv5 of the stream id's bytes."""
    import hashlib

    if isinstance(stream, str):
        stream = stream.encode()
    digest = bytearray(hashlib.sha1(NAMESPACE.bytes + stream).digest()[:16])
    digest[6] = (digest[6] & 0x0F) | 0x50
    digest[8] = (digest[8] & 0x3F) | 0x80
    return uuid.UUID(bytes=bytes(digest))


def partition_hash(key):
    return (uuid.UUID(str(key)).int >> HASH_SHIFT) & HASH_MASK


def partition_of(key, partitions=32):
    return partition_hash(key) % partitions


def event_id(key, high, low=0):
    """An event id for this partition key: `high` (64 bits) says who made it, `low` has 46 bits."""
    value = (high & (2**64 - 1)) << 64
    value |= 0b10 << 62
    value |= partition_hash(key) << HASH_SHIFT
    value |= low & (2**HASH_SHIFT - 1)
    return uuid.UUID(int=value)


def key_for_partition(partition, partitions=32, salt=0):
    """A partition key that leads to this partition; different for every salt."""
    hash_bits = partition + partitions * (salt % (65536 // partitions))
    value = ((salt * 0x9E3779B97F4A7C15 + 0x1234567) & (2**64 - 1)) << 64
    value |= 0b10 << 62
    value |= hash_bits << HASH_SHIFT
    value |= (salt * 2654435761 + partition) & (2**HASH_SHIFT - 1)
    return uuid.UUID(int=value)


def stream_in_partition(prefix, partition, partitions=32):
    """A stream name whose default key leads to this partition."""
    number = 0
    while True:
        name = f"{prefix}-{number}"
        if partition_of(default_key(name), partitions) == partition:
            return name
        number += 1
