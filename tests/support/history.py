"""The checker: what clients were told against what the store holds at the end.

An op is one append (EAPPEND or EMAPPEND) of a client: a dict with
  client, events: [(event id, stream, name, payload)], partition,
  outcome: "ok" | "unknown" | "fail", and for ok: first_sequence, versions: [n, ...]
final is {partition: [event dict, ...]} as EPSCAN gave it, in the order given.

check() returns the list of problems; empty is good:
  - every acknowledged event is there once, at the sequence and version answered, with what was sent
  - of an op without an answer all events are there, together and in order, or none
  - of a refused op nothing is there; nothing is there that nobody sent
  - sequences of a partition and versions of a stream start at 0 and have no gaps
"""

import random

PROBLEMS_MAX = 50


def check(ops, final):
    problems = []
    places = _check_order(final, problems)
    known = {}
    for op in ops:
        for event in op["events"]:
            if event[0] in known and known[event[0]] is not op:
                problems.append(f"the history itself is wrong: event {event[0]} was sent by two ops")
            known[event[0]] = op
    for partition, events in final.items():
        for event in events:
            op = known.get(event["event_id"])
            if op is None:
                problems.append(f"ghost: partition {partition} holds {event['event_id']}, which nobody sent")
            elif op["partition"] != partition:
                problems.append(f"{event['event_id']} was sent to partition {op['partition']}, found in {partition}")
    for op in ops:
        _check_op(op, places, problems)
        if len(problems) >= PROBLEMS_MAX:
            break
    return problems[:PROBLEMS_MAX]


def _check_order(final, problems):
    """Sequences, versions, ids; returns {event id: event}."""
    places = {}
    for partition, events in final.items():
        versions = {}
        for i, event in enumerate(events):
            if event["partition_sequence"] != i:
                problems.append(f"partition {partition}: sequence {event['partition_sequence']} where {i} should be")
            stream = (event["partition_key"], event["stream_id"])
            wanted = versions.get(stream, -1) + 1
            if event["stream_version"] != wanted:
                problems.append(f"stream {stream}: version {event['stream_version']} where {wanted} should be")
            versions[stream] = event["stream_version"]
            if event["event_id"] in places:
                problems.append(f"twice: {event['event_id']} in partition {partition}")
            places[event["event_id"]] = event
            if len(problems) >= PROBLEMS_MAX:
                return places
    return places


def _check_op(op, places, problems):
    found = [places.get(event[0]) for event in op["events"]]
    present = [event for event in found if event is not None]
    label = f"op of client {op['client']} with {op['events'][0][0]} ({op['outcome']})"
    if op["outcome"] == "fail":
        if present:
            problems.append(f"refused and yet there: {label}")
        return
    if not present:
        if op["outcome"] == "ok":
            problems.append(f"lost: {label}")
        return
    if len(present) != len(found):
        problems.append(f"half a transaction: {label}, {len(present)} of {len(found)}")
        return
    first = found[0]["partition_sequence"]
    if [event["partition_sequence"] for event in found] != list(range(first, first + len(found))):
        problems.append(f"not together: {label}")
    if len({event["transaction_id"] for event in found}) != 1:
        problems.append(f"several transaction ids: {label}")
    for sent, event in zip(op["events"], found):
        if (event["stream_id"], event["event_name"], event["payload"]) != tuple(sent[1:]):
            problems.append(f"other content: {label}")
    if op["outcome"] == "ok":
        if op.get("first_sequence") is not None and first != op["first_sequence"]:
            problems.append(f"answered sequence {op['first_sequence']}, found {first}: {label}")
        if [event["stream_version"] for event in found] != op["versions"]:
            problems.append(f"answered versions {op['versions']}: {label}")


def check_subscriber(seen, final, complete=False):
    """seen: {partition: [(sequence, event id), ...]} of one subscriber from sequence 0 on, over its reconnects."""
    problems = []
    for partition, got in seen.items():
        log = final.get(partition, [])
        if [sequence for sequence, _ in got] != list(range(len(got))):
            problems.append(f"subscriber: partition {partition} has a gap or a repeat")
        for (sequence, event_id), event in zip(got, log):
            if event_id != event["event_id"]:
                problems.append(f"subscriber: partition {partition} sequence {sequence}: {event_id}, "
                                f"stored {event['event_id']}")
                break
        if len(got) > len(log):
            problems.append(f"subscriber: partition {partition}: {len(got)} events, stored {len(log)}")
    if complete:
        for partition, log in final.items():
            if len(seen.get(partition, [])) != len(log):
                problems.append(f"subscriber: partition {partition}: {len(seen.get(partition, []))} of {len(log)}")
    return problems


# --- self-test: a checker that finds nothing must be shown to find something ---------------------------------------


def _sample(seed):
    """A good history: ops of three clients over two partitions, with unknown and refused ones among them."""
    rng = random.Random(seed)
    ops, final, versions = [], {0: [], 1: []}, {}
    for number in range(200):
        partition = rng.randrange(2)
        size = rng.choice([1, 1, 2, 3, 5])
        events = [(f"{number}-{i}", b"s%d" % rng.randrange(4), b"E", b"p%d" % number) for i in range(size)]
        outcome = rng.choices(["ok", "unknown", "fail"], [8, 1, 1])[0]
        op = {"client": number % 3, "events": events, "partition": partition, "outcome": outcome}
        ops.append(op)
        if outcome == "fail" or (outcome == "unknown" and rng.random() < 0.5):
            continue
        op["first_sequence"] = len(final[partition])
        op["versions"] = []
        for event_id, stream, name, payload in events:
            version = versions.get((partition, stream), -1) + 1
            versions[(partition, stream)] = version
            op["versions"].append(version)
            final[partition].append({"event_id": event_id, "partition_key": f"k{partition}", "transaction_id": number,
                                     "partition_sequence": len(final[partition]), "stream_version": version,
                                     "stream_id": stream, "event_name": name, "payload": payload})
    return ops, final


def _renumber(events):
    """Sequences and versions made consistent again, so that only the mutation itself can be what is found."""
    versions = {}
    for i, event in enumerate(events):
        event["partition_sequence"] = i
        event["stream_version"] = versions.get(event["stream_id"], -1) + 1
        versions[event["stream_id"]] = event["stream_version"]


def _mutations():
    def stored(ops, final, outcome, multi=False):
        places = {event["event_id"] for events in final.values() for event in events}
        return [op for op in ops if op["outcome"] == outcome and op["events"][0][0] in places
                and (len(op["events"]) > 1 or not multi)]

    def drop(final, ids):
        for partition in final:
            final[partition] = [event for event in final[partition] if event["event_id"] not in ids]
            _renumber(final[partition])

    def lost(rng, ops, final):
        drop(final, {event[0] for event in rng.choice(stored(ops, final, "ok"))["events"]})

    def lost_last(rng, ops, final):
        op = [op for op in stored(ops, final, "ok") if op["partition"] == 0][-1]
        drop(final, {event[0] for event in op["events"]})

    def duplicate(rng, ops, final):
        final[0].append(dict(rng.choice(final[0])))
        _renumber(final[0])

    def reorder(rng, ops, final):
        i = rng.randrange(len(final[0]) - 1)
        final[0][i], final[0][i + 1] = final[0][i + 1], final[0][i]
        _renumber(final[0])

    def gap(rng, ops, final):
        for event in final[1][rng.randrange(len(final[1]) - 1):]:
            event["partition_sequence"] += 1

    def version_gap(rng, ops, final):
        stream = rng.choice(final[0])["stream_id"]
        [event for event in final[0] if event["stream_id"] == stream][-1]["stream_version"] += 1

    def ghost(rng, ops, final):
        final[0].append(dict(final[0][-1], event_id="nobody"))
        _renumber(final[0])

    def half_ok(rng, ops, final):
        drop(final, {stored(ops, final, "ok", True)[-1]["events"][-1][0]})

    def half_unknown(rng, ops, final):
        drop(final, {rng.choice(stored(ops, final, "unknown", True))["events"][0][0]})

    def refused(rng, ops, final):
        rng.choice(stored(ops, final, "ok"))["outcome"] = "fail"

    def content(rng, ops, final):
        rng.choice(final[0])["payload"] = b"other"

    def moved(rng, ops, final):
        event = final[0].pop()
        final[1].append(event)
        _renumber(final[1])

    return {function.__name__: function for function in (
        lost, lost_last, duplicate, reorder, gap, version_gap, ghost, half_ok, half_unknown, refused, content, moved)}


def self_test(rounds=20):
    """(passed, failed, messages): good histories pass, each mutation of one is found."""
    passed, messages = 0, []
    for seed in range(rounds):
        ops, final = _sample(seed)
        problems = check(ops, final)
        if problems:
            messages.append(f"seed {seed}: a good history is refused: {problems[0]}")
        else:
            passed += 1
        for name, mutate in _mutations().items():
            ops, final = _sample(seed)
            try:
                mutate(random.Random(seed), ops, final)
            except IndexError:
                continue  # this sample has no such op
            if check(ops, final):
                passed += 1
            else:
                messages.append(f"seed {seed}: {name} is not found")
        ops, final = _sample(seed)
        seen = {p: [(e["partition_sequence"], e["event_id"]) for e in events] for p, events in final.items()}
        good = check_subscriber(seen, final, complete=True)
        for name, change in (("gap", lambda got: got.pop(3)), ("repeat", lambda got: got.insert(5, got[4])),
                             ("short", lambda got: got.pop()), ("other", lambda got: got.__setitem__(2, (2, "x")))):
            bad = {p: list(got) for p, got in seen.items()}
            change(bad[0])
            if not check_subscriber(bad, final, complete=True):
                messages.append(f"seed {seed}: subscriber {name} is not found")
            else:
                passed += 1
        if good:
            messages.append(f"seed {seed}: a good subscriber is refused: {good[0]}")
        else:
            passed += 1
    return passed, len(messages), messages


if __name__ == "__main__":
    import sys

    PASSED, FAILED, MESSAGES = self_test()
    print("\n".join(MESSAGES))
    print(f"{PASSED} passed, {FAILED} failed")
    sys.exit(1 if FAILED else 0)
