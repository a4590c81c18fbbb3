"""A checker that finds nothing must be shown to find something: good histories are accepted, each mutation is found.

World makes a good history: a store that is right by construction, clients with pipelines, sessions, lost answers and
retries elsewhere, lagging replicas, subscribers that reconnect. A mutation changes one thing, and makes all that
follows from it consistent again (sequences, versions, answers, what readers and subscribers saw), so that only the
fault itself is there to be found.
"""

import copy
import heapq
import random

from checker import Checker, holds
from history import event_name

PARTITIONS = 3
REPLICAS = ("r0", "r1", "r2")


class World:
    """One good history from a seed: lines() for the checker."""

    def __init__(self, seed, ops=260):
        self.rng = random.Random(seed)
        self.ops_left = ops
        self.heap, self.ticks, self.time = [], 0, 1000
        self.logs = [[] for _ in range(PARTITIONS)]
        self.seen = [[0] * PARTITIONS for _ in REPLICAS]  # replicas' watermarks
        self.lines = []
        self.placed = {}  # group -> first sequence
        self.groups = 0
        self.conns = 0
        self.retry_queue = []
        for client in range(6):
            self.at(self.rng.randrange(50), self.turn, self.new_conn(client % 3))
        for number, (p, stream) in enumerate([(0, None), (1, None), (2, None), (0, "hot0"), (1, "hot1")]):
            self.at(5, self.subscribe, f"sub{number}", p, stream, 0)
        self.at(7, self.spread)
        while self.heap:
            self.time, _, function, args = heapq.heappop(self.heap)
            function(*args)
        self.finish()

    def at(self, delay, function, *args):
        self.ticks += 1
        heapq.heappush(self.heap, (self.time + delay, self.ticks, function, args))

    def new_conn(self, node):
        self.conns += 1
        return {"conn": self.conns, "n": 0, "node": node, "needs": {}}

    def number(self, conn):
        conn["n"] += 1
        return {"conn": conn["conn"], "n": conn["n"], "node": conn["node"], "call": self.time, "ret": None}

    def spread(self):
        """Replicas move on, to whole transactions."""
        for marks in self.seen:
            for p, log in enumerate(self.logs):
                if self.rng.random() < 0.4:
                    marks[p] = self.rng.choice(self.bounds(p, marks[p]))
        if self.ops_left > 0:
            self.at(20, self.spread)

    def bounds(self, p, low):
        """States from low on."""
        log = self.logs[p]
        return [k for k in range(low, len(log) + 1) if k in (0, len(log)) or log[k][6] != log[k - 1][6]]

    def version(self, p, stream, k=None):
        return sum(event[3] == stream for event in self.logs[p][:k]) - 1

    # --- clients ---

    def turn(self, conn):
        if self.ops_left <= 0:
            return
        self.ops_left -= 1
        kind = self.rng.choices(["append", "burst", "read", "strong", "retry"], [10, 3, 6, 2, 4])[0]
        if kind == "retry" and self.retry_queue:
            self.append(conn, 1, self.retry_queue.pop(0))
        elif kind == "burst":
            self.append(conn, self.rng.randrange(2, 5))
        elif kind in ("read", "strong"):
            self.read(conn, kind == "strong")
        else:
            self.append(conn, 1)

    def new_append(self, conn):
        p = self.rng.randrange(PARTITIONS)
        self.groups += 1
        size = self.rng.choice([1, 1, 1, 2, 3])
        events, planned = [], {}
        for i in range(size):
            stream = self.rng.choice([f"hot{p}", f"hot{p}", f"s{conn['conn'] % 3}"])
            version = self.version(p, stream) + planned.get(stream, 0)
            planned[stream] = planned.get(stream, 0) + 1
            if self.rng.random() < 0.1:
                version = max(-1, version + self.rng.choice([-1, 1, 2]))
            events.append([stream, "empty" if version < 0 else version,
                           f"id-{self.groups}-{i}" if self.rng.random() < 0.7 else None, self.rng.randrange(1 << 30)])
        return {"op": "append", "group": f"w-{self.groups}", "p": p, "key": f"k{p}", "events": events}

    def append(self, conn, count, again=None):
        """A pipeline of `count` appends: all are called at one time, take effect in order."""
        delay, answer = 0, 0
        for i in range(count):
            line = dict(again or self.new_append(conn), **self.number(conn), result="unknown")
            self.lines.append(line)
            delay += self.rng.randrange(1, 40)
            answer = max(answer, delay) + self.rng.randrange(1, 30)
            lost = self.rng.random() < 0.12
            if lost:  # it may still take effect, even late, or never; the connection is given up
                if self.rng.random() < 0.6:
                    self.at(delay + self.rng.randrange(150), self.take_effect, line, None)
                if self.rng.random() < 0.7:
                    self.retry_queue.append({key: line[key] for key in ("op", "group", "p", "key", "events")})
                self.at(answer, self.turn, self.new_conn(self.rng.randrange(3)))
                return
            if self.rng.random() < 0.04:
                line.update(result="fail", code="READONLY")
                self.at(answer, self.answered, line)
                continue
            self.at(delay, self.take_effect, line, conn)
            self.at(answer, self.answered, line)
        self.at(answer + self.rng.randrange(1, 30), self.turn, conn)

    def answered(self, line):
        line["ret"] = self.time

    def take_effect(self, line, conn):
        p, log = line["p"], self.logs[line["p"]]
        if line["group"] not in self.placed:
            told = self.refusal(line)
            if told is not None:
                if conn is not None:
                    line.update(result="conflict", told=told if self.rng.random() < 0.7 else None)
                return
            self.placed[line["group"]] = len(log)
            for i, (stream, _, event_id, crc) in enumerate(line["events"]):
                log.append([len(log), event_id or f"made-{line['group']}-{i}", event_name(line["group"], i), stream,
                            line["key"], self.version(p, stream) + 1, f"tx-{line['group']}", crc])
        if conn is None:
            return
        first = self.placed[line["group"]]
        stored = log[first:first + len(line["events"])]
        line.update(result="ok", first=first, versions=[event[5] for event in stored],
                    ids=[event[1] for event in stored])
        conn["needs"][p] = max(conn["needs"].get(p, 0), first + len(stored))

    def refusal(self, line):
        before = {}
        for stream, expected, *_ in line["events"]:
            version = self.version(line["p"], stream) + before.get(stream, 0)
            before[stream] = before.get(stream, 0) + 1
            if not holds(expected, version):
                return [stream, "empty" if version < 0 else version, expected]
        return None

    # --- readers ---

    def read(self, conn, strong):
        line = dict(self.number(conn), op="read", p=self.rng.randrange(PARTITIONS), result="ok",
                    mode="strong" if strong else "default",
                    kind=self.rng.choice(["epseq", "epscan", "escan", "esver", "eget"]))
        self.lines.append(line)
        delay = self.rng.randrange(1, 30)
        self.at(delay, self.look, line, conn)
        self.at(delay + self.rng.randrange(1, 30), self.answered, line)
        self.at(delay + 40, self.turn, conn)

    def look(self, line, conn):
        p, log = line["p"], self.logs[line["p"]]
        state = len(log) if line["mode"] == "strong" else max(self.seen[conn["node"]][p], conn["needs"].get(p, 0))
        line["saw"] = state
        conn["needs"][p] = max(conn["needs"].get(p, 0), state)
        if line["kind"] == "epscan":
            line.update({"from": self.rng.randrange(len(log) + 1), "count": self.rng.choice([3, 100]),
                         "to": self.rng.choice([None, None, self.rng.randrange(len(log) + 1)])})
        elif line["kind"] in ("escan", "esver"):
            line.update(key=f"k{p}", stream=f"hot{p}")
            line.update({"from": self.rng.randrange(4), "count": self.rng.choice([3, 100]), "to": None})
        elif line["kind"] == "eget":
            line["id"] = self.rng.choice(log)[1] if log else "nothing"
        self.render(line)

    def render(self, line):
        """What a read of state `saw` answers."""
        state, log = line["saw"], self.logs[line["p"]]
        if line["kind"] == "epseq":
            line["value"] = state - 1 if state else None
        elif line["kind"] == "esver":
            version = self.version(line["p"], line["stream"], state)
            line["value"] = None if version < 0 else version
        elif line["kind"] == "eget":
            line["sequence"] = next((e[0] for e in log[:state] if e[1] == line["id"]), None)
        else:
            all_of = log[:state] if line["kind"] == "epscan" else \
                [event for event in log[:state] if event[3] == line["stream"]]
            end = len(all_of) if line["to"] is None else min(line["to"] + 1, len(all_of))
            part = all_of[line["from"]:end]
            line["more"] = len(part) > line["count"]
            line["events"] = [[line["from"] + i, event[1]] for i, event in enumerate(part[:line["count"]])]

    # --- subscribers ---

    def subscribe(self, name, p, stream, start):
        self.conns += 1
        line = {"op": "sub", "name": name, "conn": self.conns, "node": self.rng.randrange(3), "p": p,
                "key": f"k{p}" if stream else None, "stream": stream, "from": start, "got": []}
        self.lines.append(line)
        self.at(10, self.deliver, line)

    def deliver(self, line):
        at = line["from"] + len(line["got"])
        whole = [e for e in self.logs[line["p"]] if line["stream"] in (None, e[3])]
        for event in whole[at:at + self.rng.randrange(8)]:
            line["got"].append([at, event[1], self.time])
            at += 1
        if self.ops_left <= 0 and at == len(whole) and len(self.heap) < 6:
            return
        if self.rng.random() < 0.05:
            self.subscribe(line["name"], line["p"], line["stream"], at)
        else:
            self.at(self.rng.randrange(5, 40), self.deliver, line)

    def finish(self):
        """One more append in each partition, behind the end of all faults, and the final logs."""
        conn = self.new_conn(0)
        self.lines.append({"op": "mark", "what": "healed", "t": self.time, "bound_s": 1.0})
        for p in range(PARTITIONS):
            self.time += 10
            self.groups += 1
            line = dict(self.number(conn), op="append", group=f"w-{self.groups}", p=p, key=f"k{p}", result="unknown",
                        events=[["end", "empty", f"id-{self.groups}-0", 1]])
            self.lines.append(line)
            self.take_effect(line, conn)
            self.time += 10
            self.answered(line)
        for line in {line["name"]: line for line in self.lines if line["op"] == "sub"}.values():
            self.deliver_rest(line)

    def deliver_rest(self, line):
        whole = [e for e in self.logs[line["p"]] if line["stream"] in (None, e[3])]
        at = line["from"] + len(line["got"])
        line["got"] += [[at + i, event[1], self.time] for i, event in enumerate(whole[at:])]

    def all_lines(self):
        finals = [{"op": "final", "replica": replica, "p": p, "log": [list(event) for event in log]}
                  for replica in REPLICAS for p, log in enumerate(self.logs)]
        rafts = [{"op": "raft", "replica": replica, "bucket": 0,
                  "entries": [[i + 1, 1, f"chain{i}"] for i in range(20)]} for replica in REPLICAS]
        return self.lines + finals + rafts


class Skip(Exception):
    """This history has nothing that this mutation could change."""


class Mutant:
    """A world whose logs may be changed; settle() then makes everything else agree with the logs."""

    def __init__(self, world, rng):
        self.world, self.rng = copy.deepcopy(world), rng
        self.lines, self.logs = self.world.lines, self.world.logs
        self.finals = None  # where set, these instead of the logs

    def appends(self, result=None, stored=None, tries=None, size=1):
        found = [line for line in self.lines if line["op"] == "append" and len(line["events"]) >= size
                 and result in (None, line["result"])
                 and stored in (None, line["group"] in self.world.placed)
                 and tries in (None, len(self.tries(line["group"])))]
        return found

    def tries(self, group):
        return [line for line in self.lines if line["op"] == "append" and line["group"] == group]

    def pick(self, found):
        if not found:
            raise Skip
        return self.rng.choice(found)

    def reads(self, kind=None, mode=None):
        return [line for line in self.lines if line["op"] == "read" and kind in (None, line["kind"])
                and mode in (None, line["mode"])]

    def subs(self, least=3):
        return [line for line in self.lines if line["op"] == "sub" and len(line["got"]) >= least]

    def settle(self, answers=True, reads=True):
        """Sequences and versions by the logs as they are now; the answers and what was read follow them."""
        index = {}
        for p, log in enumerate(self.logs):
            versions = {}
            for i, event in enumerate(log):
                versions[event[3]] = versions.get(event[3], -1) + 1
                event[0], event[5] = i, versions[event[3]]
                index.setdefault(event[2], (p, event))
        for line in self.appends("ok") if answers else []:
            stored = [index.get(event_name(line["group"], i)) for i in range(len(line["events"]))]
            if all(stored):
                line.update(first=stored[0][1][0], versions=[event[5] for _, event in stored])
        for line in self.reads() if reads else []:
            line["saw"] = min(line["saw"], len(self.logs[line["p"]]))
            self.world.render(line)
        for line in self.lines:
            if line["op"] == "sub":
                whole = [e for e in self.logs[line["p"]] if line["stream"] in (None, e[3])]
                line["got"] = [[at, whole[at][1], time] for at, _, time in line["got"] if at < len(whole)]

    def drop_group(self, line):
        p = line["p"]
        names = {event_name(line["group"], i) for i in range(len(line["events"]))}
        self.logs[p][:] = [event for event in self.logs[p] if event[2] not in names]
        self.relax(p)
        self.settle()

    def relax(self, p):
        """Expectations, refusals and default reads in p don't speak of what a mutation changes."""
        for line in self.appends():
            if line["p"] == p:
                for event in line["events"]:
                    event[1] = "any"
        self.lines[:] = [line for line in self.lines if not (line["op"] == "append" and line["p"] == p
                                                             and line["result"] == "conflict")]

    def all_lines(self):
        finals = self.finals
        if finals is None:
            return self.world.all_lines()
        return self.lines + finals


def mutations():
    """{name: (function, kinds of which one must be found)}"""
    table = {}

    def mutation(*kinds):
        def add(function):
            table[function.__name__] = (function, kinds)
            return function
        return add

    @mutation("lost")
    def lost(m):
        m.drop_group(m.pick(m.appends("ok")))

    @mutation("lost")
    def lost_last(m):
        m.drop_group(m.appends("ok")[-1])

    @mutation("twice")
    def stored_twice(m):
        line = m.pick(m.appends("ok"))
        log = m.logs[line["p"]]
        again = [list(e) for e in log if e[6] == f"tx-{line['group']}"]
        for event in again:
            event[6] += "-again"
            event[1] += "-again"
        log += again
        m.relax(line["p"])
        m.settle()

    @mutation("log", "twice")
    def duplicate_event(m):
        log = m.logs[0]
        log.append(list(m.pick(log)))
        m.settle()

    @mutation("moved", "ghost")
    def moved(m):
        line = m.pick(m.appends("ok", tries=1))
        log = m.logs[line["p"]]
        mine = [e for e in log if e[6] == f"tx-{line['group']}"]
        log[:] = [e for e in log if e not in mine]
        target = (line["p"] + 1) % PARTITIONS
        m.logs[target] += mine
        m.relax(line["p"])
        m.relax(target)
        m.settle()

    @mutation("moved")
    def other_stream(m):
        m.pick(m.logs[1])[3] = "elsewhere"
        m.relax(1)
        m.settle()

    @mutation("moved")
    def other_key(m):
        event = m.pick(m.logs[1])
        for other in m.logs[1]:
            if other[3] == event[3]:
                other[4] = "other key"

    @mutation("realtime", "order")
    def reordered(m):
        """Two acknowledged appends, one called after the other was answered, stand the other way round; all answers
        agree with that, only time doesn't."""
        pairs = []
        good = [line for line in m.appends("ok", tries=1) if len(line["events"]) == 1]
        for a in good:
            pairs += [(a, b) for b in good if b["p"] == a["p"] and a["ret"] < b["call"]]
        first, second = m.pick(pairs)
        log = m.logs[first["p"]]
        i, j = first["first"], second["first"]
        log[i], log[j] = log[j], log[i]
        m.lines[:] = [line for line in m.lines if line["op"] not in ("read", "sub")]
        m.relax(first["p"])
        m.settle()

    @mutation("realtime", "order")
    def neighbours_reordered(m):
        """As before, but as near as can be."""
        for p, log in enumerate(m.logs):
            for i in range(len(log) - 1):
                a, b = (m.tries(event[2].rpartition(".")[0]) for event in log[i:i + 2])
                if len(a) == len(b) == 1 and a[0]["result"] == b[0]["result"] == "ok" and a[0]["ret"] < b[0]["call"] \
                        and len(a[0]["events"]) == len(b[0]["events"]) == 1:
                    log[i], log[i + 1] = log[i + 1], log[i]
                    m.lines[:] = [line for line in m.lines if line["op"] not in ("read", "sub")]
                    m.relax(p)
                    return m.settle()
        raise Skip

    @mutation("realtime")
    def unknown_before_its_call(m):
        """An append without an answer is seen before it was called."""
        line = m.pick([line for line in m.appends("unknown", stored=True, tries=1)
                       if any(a["p"] == line["p"] for a in m.appends("ok"))])
        first = m.world.placed[line["group"]]
        later = [a for a in m.appends("ok", tries=1) if a["p"] == line["p"] and a["first"] > first]
        line["call"] = m.pick(later)["ret"] + 1

    @mutation("realtime")
    def read_from_the_future(m):
        line = m.pick([r for r in m.reads("epseq", "default") if r["saw"] < len(m.logs[r["p"]])])
        line["saw"] = len(m.logs[line["p"]])
        m.world.render(line)
        line["conn"] = "another"

    @mutation("realtime")
    def delivered_from_the_future(m):
        part = m.pick([part for part in m.subs() if part["got"][-1][2] > part["got"][0][2]
                       and part["stream"] is None])
        for got in part["got"]:
            got[2] = 1

    @mutation("order")
    def pipeline_reordered(m):
        good = m.appends("ok", tries=1)
        pairs = [(a, b) for a in good for b in good if a["conn"] == b["conn"] and a["p"] == b["p"]
                 and a["call"] == b["call"] and a["n"] < b["n"]]
        a, b = m.pick(pairs)
        log = m.logs[a["p"]]
        mine = [[e for e in log if e[6] == f"tx-{line['group']}"] for line in (a, b)]
        rest = [e for e in log if e not in mine[0] and e not in mine[1]]
        at = min(a["first"], b["first"])
        log[:] = rest[:at] + mine[1] + mine[0] + rest[at:]
        call, ret = a["call"], max(a["ret"], b["ret"])
        m.lines[:] = [line for line in m.lines if line["op"] not in ("read", "sub") and (
            line in (a, b) or line["op"] != "append" or line["p"] != a["p"])]
        log[:] = mine[1] + mine[0]
        for line in (a, b):
            line.update(call=call, ret=ret)
        m.relax(a["p"])
        m.settle()
        for line in m.lines:
            if line["op"] == "mark":
                m.lines.remove(line)
                break

    @mutation("refused")
    def refused_is_there(m):
        line = m.pick(m.appends("ok", tries=1))
        line.update(result="fail", code="READONLY")

    @mutation("refused", "conflict")
    def conflict_is_there(m):
        line = m.pick(m.appends("ok", tries=1))
        line.update(result="conflict", told=None)

    @mutation("conflict")
    def false_conflict(m):
        """Refused, though its expectation held from before its call until after its answer."""
        m.lines.append({"op": "append", "group": "w-false", "p": 0, "key": "k0", "events": [["hot0", "any", None, 0]],
                        "conn": "false", "n": 1, "node": 0, "call": 2000, "ret": 2500, "result": "conflict",
                        "told": None})

    @mutation("conflict")
    def conflict_too_late(m):
        """It expects what the stream's last version is to the end, and is refused."""
        log = m.logs[1]
        versions = {event[3]: event[5] for event in log}
        stream, version = m.pick(sorted(versions.items()))
        last = max(a["ret"] for a in m.appends("ok"))
        m.lines.append({"op": "append", "group": "w-late", "p": 1, "key": "k1", "events": [[stream, version, None, 0]],
                        "conn": "late", "n": 1, "node": 0, "call": last + 10, "ret": last + 20, "result": "conflict",
                        "told": None})

    @mutation("conflict")
    def conflict_by_an_old_state(m):
        """A deposed leader refuses by what was true before: the version told had been surpassed."""
        places = [event for event in m.logs[0] if event[3] == "hot0"]
        if len(places) < 4:
            raise Skip
        last = max(a["ret"] for a in m.appends("ok"))
        m.lines.append({"op": "append", "group": "w-old", "p": 0, "key": "k0",
                        "events": [["hot0", places[-1][5], None, 0]], "conn": "old", "n": 1, "node": 0,
                        "call": last + 10, "ret": last + 20, "result": "conflict",
                        "told": ["hot0", places[0][5], places[-1][5]]})

    @mutation("conflict")
    def conflict_tells_wrong(m):
        line = m.pick([line for line in m.appends("conflict") if line["told"] is not None])
        line["told"] = [line["told"][0], 100000, line["told"][2]]

    @mutation("conflict")
    def conflict_tells_what_was_expected(m):
        line = m.pick([line for line in m.appends("conflict") if line["told"] is not None])
        line["told"] = [line["told"][0], line["told"][2], line["told"][2]]

    @mutation("conflict")
    def retry_refused_by_itself(m):
        """Its first try was stored and acknowledged; the second is told that the version is wrong."""
        line = m.pick([line for line in m.appends("ok", tries=1) if line["events"][0][1] != "any"])
        last = max(a["ret"] for a in m.appends("ok"))
        m.lines.append(dict(line, conn="again", n=1, call=last + 5, ret=last + 9, result="conflict", told=None))

    @mutation("torn", "lost", "realtime")
    def torn_ok(m):
        line = m.pick(m.appends("ok", tries=1, size=2))
        log = m.logs[line["p"]]
        del log[line["first"] + 1]
        m.relax(line["p"])
        m.settle()

    @mutation("torn")
    def torn_unknown(m):
        line = m.pick(m.appends("unknown", stored=True, tries=1, size=2))
        log = m.logs[line["p"]]
        del log[m.world.placed[line["group"]]]
        m.relax(line["p"])
        m.settle()

    @mutation("torn", "log")
    def split_transaction(m):
        line = m.pick(m.appends("ok", tries=1, size=2))
        log = m.logs[line["p"]]
        log.append(log.pop(line["first"]))
        m.relax(line["p"])
        m.settle()

    @mutation("torn")
    def two_in_one_transaction(m):
        for log in m.logs:
            if len(log) > 4:
                at = m.rng.randrange(1, len(log))
                while at < len(log) and log[at][6] == log[at - 1][6]:
                    at += 1
                if at < len(log):
                    old = log[at][6]
                    for event in log:
                        if event[6] == old:
                            event[6] = log[at - 1][6]
                    return
        raise Skip

    @mutation("torn")
    def transaction_turned_round(m):
        line = m.pick(m.appends("ok", tries=1, size=2))
        log, at = m.logs[line["p"]], line["first"]
        log[at], log[at + 1] = log[at + 1], log[at]
        m.relax(line["p"])
        m.settle()

    @mutation("log")
    def transaction_id_twice(m):
        log = m.logs[0]
        if len(log) < 10 or log[0][6] == log[9][6]:
            raise Skip
        old = log[-1][6]
        for event in log:
            if event[6] == old:
                event[6] = log[0][6]

    @mutation("log")
    def sequence_gap(m):
        for event in m.logs[0][5:]:
            event[0] += 1

    @mutation("log")
    def version_gap(m):
        [event for event in m.logs[0] if event[3] == "hot0"][-1][5] += 1

    @mutation("ghost")
    def ghost(m):
        m.logs[0].append([len(m.logs[0]), "id-nobody", "w-nobody.0", "new", "k0", 0, "tx-nobody", 1])

    @mutation("content")
    def other_content(m):
        m.pick(m.logs[0])[7] = -1

    @mutation("content", "answer")
    def other_id(m):
        m.pick(m.logs[0])[1] = "id-other"

    @mutation("answer")
    def wrong_version_answered(m):
        line = m.pick(m.appends("ok"))
        line["versions"] = [version + 1 for version in line["versions"]]

    @mutation("answer")
    def wrong_sequence_answered(m):
        m.pick(m.appends("ok"))["first"] += 1

    @mutation("answer")
    def retry_answered_elsewhere(m):
        line = m.pick([line for line in m.appends("ok") if len(m.tries(line["group"])) > 1])
        line["first"] += 3

    @mutation("expected")
    def wrong_version_accepted(m):
        line = m.pick([line for line in m.appends("ok", tries=1)])
        event = m.pick(line["events"])
        event[1] = 7 if event[1] == "empty" else event[1] + 1

    @mutation("expected")
    def empty_accepted(m):
        line = m.pick([line for line in m.appends("ok", tries=1) if line["events"][0][1] not in ("empty", "any")])
        line["events"][0][1] = "empty"

    @mutation("session")
    def stale_session_read(m):
        """Right after its own acknowledged append."""
        line = m.pick([line for line in m.appends("ok") if line["first"] > 3])
        read = {"op": "read", "conn": line["conn"], "n": line["n"] + 0.5, "node": 1, "call": line["ret"] + 1,
                "ret": line["ret"] + 2, "p": line["p"], "result": "ok", "mode": "default", "kind": "epseq", "saw": 0}
        read["saw"] = m.world.bounds(line["p"], 0)[1]
        m.world.render(read)
        m.lines.append(read)

    @mutation("session")
    def read_goes_back(m):
        read = m.pick([read for read in m.reads() if read["saw"] > 3 and read["kind"] == "epseq"])
        back = dict(read, n=read["n"] + 0.5, saw=0, kind="eget", id=m.logs[read["p"]][0][1])
        m.world.render(back)
        m.lines.append(back)

    @mutation("stale")
    def stale_strong_read(m):
        read = m.pick([read for read in m.reads("epseq", "strong") if read["saw"] > 3])
        read["saw"] = 0
        read["conn"] = "another"
        m.world.render(read)

    @mutation("stale")
    def strong_read_lacks_the_last(m):
        line = m.appends("ok")[-1]
        p, log = line["p"], m.logs[line["p"]]
        read = {"op": "read", "conn": "fresh", "n": 1, "node": 1, "call": line["ret"] + 1, "ret": line["ret"] + 2,
                "p": p, "result": "ok", "mode": "strong", "kind": "eget", "id": log[line["first"]][1],
                "sequence": None, "saw": 0}
        m.lines.append(read)

    @mutation("read", "realtime")
    def read_between(m):
        """In the middle of a transaction."""
        line = m.pick(m.appends("ok", tries=1, size=2))
        m.lines.append({"op": "read", "conn": "between", "n": 1, "node": 1, "call": line["ret"] + 1,
                        "ret": line["ret"] + 2, "p": line["p"], "result": "ok", "mode": "default", "kind": "epseq",
                        "value": line["first"]})

    @mutation("read")
    def read_beyond(m):
        read = m.pick(m.reads("epseq"))
        read["value"] = len(m.logs[read["p"]])

    @mutation("read")
    def read_skips(m):
        read = m.pick([r for r in m.reads("epscan") + m.reads("escan") if len(r["events"]) > 2])
        del read["events"][1]

    @mutation("read")
    def read_other_event(m):
        read = m.pick([r for r in m.reads("epscan") + m.reads("escan") if len(r["events"]) > 1])
        read["events"][-1][1] = "id-other"

    @mutation("read")
    def read_ends_early(m):
        """Says that there is no more, between the events of a transaction."""
        line = m.pick(m.appends("ok", tries=1, size=2))
        log = m.logs[line["p"]]
        m.lines.append({"op": "read", "conn": "early", "n": 1, "node": 1, "call": line["ret"] + 1,
                        "ret": line["ret"] + 2, "p": line["p"], "result": "ok", "mode": "default", "kind": "epscan",
                        "from": 0, "to": None, "count": 10000, "more": False,
                        "events": [[i, log[i][1]] for i in range(line["first"] + 1)]})

    @mutation("read")
    def got_elsewhere(m):
        read = m.pick([r for r in m.reads("eget") if r["sequence"] is not None])
        read["sequence"] += 1

    @mutation("subscription")
    def subscription_gap(m):
        got = m.pick(m.subs())["got"]
        del got[len(got) // 2]

    @mutation("subscription")
    def subscription_repeat(m):
        got = m.pick(m.subs())["got"]
        got.insert(2, got[1])

    @mutation("subscription")
    def subscription_swapped(m):
        got = m.pick(m.subs())["got"]
        got[0], got[1] = got[1], got[0]

    @mutation("subscription")
    def subscription_other_event(m):
        m.pick(m.subs())["got"][1][1] = "id-other"

    @mutation("subscription")
    def subscription_incomplete(m):
        parts = m.subs(least=1)
        last = max(part["from"] for part in parts if part["name"] == "sub0")
        part = m.pick([part for part in parts if part["name"] == "sub0" and part["from"] == last])
        part["got"].pop()

    @mutation("subscription")
    def subscription_goes_on_late(m):
        part = m.pick([part for part in m.subs(least=2) if part["from"] > 0])
        part["from"] += 1
        del part["got"][0]

    @mutation("liveness")
    def nothing_after_the_end(m):
        m.lines[:] = [line for line in m.lines if line["op"] != "append" or line["events"][0][0] != "end"]
        for log in m.logs:
            log.pop()
        for line in m.lines:
            if line["op"] == "sub":
                whole = [e for e in m.logs[line["p"]] if line["stream"] in (None, e[3])]
                line["got"] = [got for got in line["got"] if got[0] < len(whole)]

    @mutation("liveness")
    def one_partition_is_stuck(m):
        line = m.pick([line for line in m.appends("ok") if line["events"][0][0] == "end"])
        line["ret"] += 2 * 10**9

    def replica(change):
        def mutate(m):
            lines = m.world.all_lines()
            finals = [line for line in lines if line["op"] in ("final", "raft")]
            change(m, finals)
            m.finals = finals
        mutate.__name__ = change.__name__
        return mutate

    def add_replica(*kinds):
        def add(change):
            return mutation(*kinds)(replica(change))
        return add

    @add_replica("replicas")
    def replica_shorter(m, finals):
        m.pick([final for final in finals if final["op"] == "final" and final["log"]])["log"].pop()

    @add_replica("replicas")
    def replica_lacks_one(m, finals):
        log = m.pick([final for final in finals if final["op"] == "final" and len(final["log"]) > 5])["log"]
        del log[3]
        for i, event in enumerate(log):
            event[0] = i

    @add_replica("replicas")
    def replica_other_event(m, finals):
        m.pick(m.pick([final for final in finals if final["op"] == "final"])["log"])[1] = "id-other"

    @add_replica("replicas")
    def replica_swapped(m, finals):
        log = m.pick([final for final in finals if final["op"] == "final" and len(final["log"]) > 5])["log"]
        log[1], log[2] = log[2], log[1]

    @add_replica("replicas")
    def replica_other_content(m, finals):
        m.pick(m.pick([final for final in finals if final["op"] == "final"])["log"])[7] = -1

    @add_replica("replicas")
    def replica_other_chain(m, finals):
        m.pick(m.pick([final for final in finals if final["op"] == "raft"])["entries"])[2] = "other"

    @add_replica("replicas")
    def replica_other_term(m, finals):
        m.pick([final for final in finals if final["op"] == "raft"])["entries"][-1][1] = 2

    return table


def self_test(seeds=12):
    """(passed, failed, messages)"""
    passed, messages, tried = 0, [], {}
    table = mutations()
    for seed in range(seeds):
        world = World(seed)
        problems = Checker().check(copy.deepcopy(world).all_lines())
        if problems:
            messages.append(f"seed {seed}: a good history is refused: {problems[0]}")
            continue
        passed += 1
        for number, (name, (mutate, kinds)) in enumerate(table.items()):
            mutant = Mutant(world, random.Random(seed * 1000 + number))
            try:
                mutate(mutant)
            except (Skip, IndexError):
                continue
            tried[name] = tried.get(name, 0) + 1
            found = {kind for kind, _ in Checker().check(mutant.all_lines())}
            if found.intersection(kinds):
                passed += 1
            else:
                messages.append(f"seed {seed}: {name} is not found as {' or '.join(kinds)}, but as {sorted(found)}")
    for name in table:
        if tried.get(name, 0) < seeds // 4:
            messages.append(f"{name} could be tried only {tried.get(name, 0)} times")
    return passed, len(messages), messages, len(table)
