"""The checker: a history (history.py) against what the replicas hold in the end.

Each partition is one log, and one state machine whose state is the number k of its committed events; a write stands at
[f, l) of the log. A problem is a kind and a text; none is good:
  replicas      the replicas' logs differ
  log           a sequence or a version isn't the next one, an id stands twice, a transaction id is used twice
  ghost         an event that nobody sent; moved: in another partition or stream than it was sent to
  torn          a transaction that is there in part, or not together
  content       other bytes than were sent
  lost          acknowledged, and not there; refused: surely without effect, and there; twice: stored two times
  answer        an answer that doesn't agree with the place in the log
  expected      a write whose expectation doesn't hold at its own position
  realtime      a write called when a later state had been proven already
  order         commands of one connection took effect in another order than they were sent in (a refusal has none)
  conflict      a refusal that was true at no state it may have seen
  read          no slice of the log, or of parts of transactions, or beyond its end
  stale         a strong read, or (where a bound is given) a default read, older than it may be
  session       a read older than what its connection had seen
  subscription  a gap, a repeat, a wrong event, an end that wasn't reached
  liveness      no append worked in time after the faults had ended
  client        a test's client failed by itself
Writes, refusals and strong reads are checked exactly: there is no problem if and only if some order of the operations
explains all answers. A write has its place; a refusal gets the smallest state that explains it, which is best, since
every bound on what comes later is a lower one. O(n log n).
"""

from bisect import bisect_left, bisect_right

from history import split_name

PROBLEMS_PER_KIND_MAX = 8
SECOND = 1_000_000_000


class Attempt:
    """One try of an append."""

    __slots__ = ("group", "conn", "n", "node", "call", "ret", "result", "first", "versions", "ids", "code", "told",
                 "low")

    def __init__(self, group, line):
        self.group = group
        self.conn, self.n, self.node = line["conn"], line["n"], line["node"]
        self.call, self.ret, self.result = line["call"], line["ret"], line["result"]
        self.first, self.versions, self.ids = line.get("first"), line.get("versions"), line.get("ids")
        self.code, self.told = line.get("code"), line.get("told")
        self.low = 0

    def is_refusal(self):
        return self.result in ("conflict", "fail")


class Group:
    """One append, however often it was sent."""

    __slots__ = ("name", "p", "key", "events", "attempts", "first")

    def __init__(self, line):
        self.name, self.p, self.key = line["group"], line["p"], line["key"]
        self.events = line["events"]
        self.attempts = []
        self.first = None  # its place, once it is found

    @property
    def last(self):
        return self.first + len(self.events)

    def called(self):
        """It can't have happened earlier than this."""
        return min((a.call for a in self.attempts if not a.is_refusal()), default=None)


class Log:
    """A partition's final log, and the questions that are asked of it."""

    def __init__(self, p, events):
        self.p, self.events = p, events
        count = len(events)
        self.places = {}  # (key, stream) -> positions of its versions
        self.by_id = {}
        for i, event in enumerate(events):
            self.places.setdefault((event[4], event[3]), []).append(i)
            self.by_id.setdefault(event[1], i)
        self.starts, self.ends = [0] * count, [0] * count  # of the transaction at a position
        i = 0
        while i < count:
            j = i + 1
            while j < count and events[j][6] == events[i][6]:
                j += 1
            for k in range(i, j):
                self.starts[k], self.ends[k] = i, j
            i = j

    def __len__(self):
        return len(self.events)

    def version(self, slot, k):
        """The stream's last version among the first k events; -1: none."""
        return bisect_left(self.places.get(slot, ()), k) - 1

    def up(self, k):
        """The first state with no part of a transaction that holds the first k events."""
        return self.ends[k - 1] if k > 0 else 0

    def down(self, k):
        return self.starts[k] if k < len(self.events) else k


class Checker:
    """stale_s: how old a default read may be at most; None: any age. complete: subscribers reached the end."""

    def __init__(self, stale_s=None, complete=True):
        self.stale_s, self.complete = stale_s, complete
        self.counts = {}    # problems by kind
        self.problems = []  # (kind, text), the first few of each kind
        self.groups, self.reads, self.subs, self.marks = {}, [], {}, []
        self.finals, self.rafts, self.logs = {}, {}, {}
        self.done = {}      # partition -> ([time], [state proven by then])
        self.figures = {"events": 0, "ok": 0, "conflict": 0, "fail": 0, "unknown": 0, "reads": 0, "reads_failed": 0,
                        "retries": 0, "delivered": 0, "late_refusals": 0, "stale_ms_max": 0.0, "codes": {}}

    def problem(self, kind, text):
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= PROBLEMS_PER_KIND_MAX:
            self.problems.append((kind, text))

    def check(self, lines):
        """Takes the lines of a history, any order of files; returns the problems."""
        self._take(lines)
        self._check_replicas()
        for p, log in sorted(self.logs.items()):
            self._check_log(p, log)
        self._check_ids()
        self._check_groups()
        self._bound_reads()
        self._check_subscriptions()
        for p, log in sorted(self.logs.items()):
            self._sweep(p, log)
        self._check_sessions()
        self._check_staleness()
        self._check_liveness()
        return self.problems

    # --- what there is ---

    def _take(self, lines):
        for line in lines:
            getattr(self, "_take_" + line["op"])(line)
        # A partition that no replica has a log of is an empty one.
        partitions = {g.p for g in self.groups.values()} | {read["p"] for read in self.reads}
        partitions |= {p for logs in self.finals.values() for p in logs}
        for p in partitions:
            best = max((logs.get(p, []) for logs in self.finals.values()), key=len, default=[])
            self.logs[p] = Log(p, best)
            self.figures["events"] += len(best)

    def _take_append(self, line):
        group = self.groups.get(line["group"])
        if group is None:
            group = self.groups[line["group"]] = Group(line)
        elif (group.p, group.key, len(group.events)) != (line["p"], line["key"], len(line["events"])):
            self.problem("log", f"the history itself is wrong: {group.name} was sent in two forms")
        group.attempts.append(Attempt(group, line))
        self.figures[line["result"]] += 1
        self.figures["retries"] += len(group.attempts) > 1
        if line["result"] in ("fail", "unknown"):
            code = line.get("code") or "no answer"
            self.figures["codes"][code] = self.figures["codes"].get(code, 0) + 1

    def _take_read(self, line):
        if line["result"] != "ok":
            self.figures["reads_failed"] += 1
            code = f"read {line.get('code') or 'no answer'}"
            self.figures["codes"][code] = self.figures["codes"].get(code, 0) + 1
            return
        self.figures["reads"] += 1
        self.reads.append(line)

    def _take_sub(self, line):
        slot = (line["name"], line["p"], line["key"], line["stream"])
        self.subs.setdefault(slot, []).append(line)
        self.figures["delivered"] += len(line["got"])

    def _take_problem(self, line):
        self.problem(line["kind"], line["text"])

    def _take_mark(self, line):
        self.marks.append(line)

    def _take_final(self, line):
        self.finals.setdefault(line["replica"], {})[line["p"]] = line["log"]

    def _take_raft(self, line):
        self.rafts.setdefault(line["bucket"], {})[line["replica"]] = line["entries"]

    # --- the log ---

    def _check_replicas(self):
        for p, log in sorted(self.logs.items()):
            for replica, logs in sorted(self.finals.items()):
                if p in logs:
                    self._compare(f"partition {p}", log.events, logs[p], replica, 7)
        for bucket, replicas in sorted(self.rafts.items()):
            names = sorted(replicas, key=lambda name: len(replicas[name]))
            for name in names[:-1]:
                self._compare(f"bucket {bucket}'s entries", replicas[names[-1]], replicas[name], name, 3)

    def _compare(self, what, best, other, replica, width):
        for i, (a, b) in enumerate(zip(best, other)):
            # A log read from the files has no crc.
            if list(a[:width]) != list(b[:width]) or (len(a) > 7 and None not in (a[7], b[7]) and a[7] != b[7]):
                self.problem("replicas", f"{what}: {replica} has {b} at {i}, where another has {a}")
                return
        if len(best) != len(other):
            self.problem("replicas", f"{what}: {replica} has {len(other)}, another {len(best)}")

    def _check_log(self, p, log):
        events, transactions, i = log.events, set(), 0
        while i < len(events):
            end = log.ends[i]
            if events[i][6] in transactions:
                self.problem("log", f"partition {p}: transaction {events[i][6]} again at {i}")
            transactions.add(events[i][6])
            self._check_transaction(p, log, i, end)
            i = end
        for slot, places in log.places.items():
            for version, i in enumerate(places):
                if events[i][5] != version:
                    self.problem("log", f"partition {p}: {slot} has version {events[i][5]} where {version} should be")
                    break
        for i, event in enumerate(events):
            if event[0] != i:
                self.problem("log", f"partition {p}: sequence {event[0]} where {i} should be")
                break

    def _check_transaction(self, p, log, start, end):
        events = log.events[start:end]
        names = [split_name(event[2]) for event in events]
        group = self.groups.get(names[0][0]) if names[0] else None
        if group is None:
            self.problem("ghost", f"partition {p} sequence {start}: {events[0][2]!r}, which nobody sent")
            return
        label = f"{group.name} at sequence {start} of partition {p}"
        if names != [(group.name, i) for i in range(len(group.events))]:
            self.problem("torn", f"{label}: {[event[2] for event in events][:6]} of {len(group.events)} events")
            return
        if group.first is not None:
            self.problem("twice", f"{label}: it also stands at {group.first}")
            return
        if group.p != p:
            self.problem("moved", f"{label}: it was sent to partition {group.p}")
            return
        group.first = start
        before = {}
        for i, (event, sent) in enumerate(zip(events, group.events)):
            slot = (event[4], event[3])
            if slot != (group.key, sent[0]):
                self.problem("moved", f"{label}: event {i} stands in {slot}, sent to {(group.key, sent[0])}")
                return
            if event[7] is not None and sent[3] is not None and event[7] != sent[3]:
                self.problem("content", f"{label}: event {i} has other content than was sent")
            if sent[2] is not None and sent[2] != event[1]:
                self.problem("content", f"{label}: event {i} has id {event[1]}, sent with {sent[2]}")
            version = log.version(slot, start) + before.get(slot, 0)
            before[slot] = before.get(slot, 0) + 1
            if not holds(sent[1], version):
                self.problem("expected", f"{label}: event {i} expected {sent[1]}, the stream was at {version}")

    def _check_ids(self):
        seen = {}
        for p, log in self.logs.items():
            for i, event in enumerate(log.events):
                other = seen.setdefault(event[1], (p, i))
                if other != (p, i):
                    self.problem("log", f"id {event[1]} stands at {other} and at {(p, i)}")

    def _check_groups(self):
        for group in self.groups.values():
            log = self.logs[group.p]
            for attempt in group.attempts:
                if attempt.result == "ok":
                    self._check_answer(group, attempt, log)
            if group.first is not None and all(a.is_refusal() for a in group.attempts):
                codes = [a.code or a.result for a in group.attempts]
                self.problem("refused", f"{group.name} is stored at {group.first}, though answered {codes}")

    def _check_answer(self, group, attempt, log):
        if group.first is None:
            self.problem("lost", f"{group.name}, acknowledged at {attempt.ret} by node {attempt.node} with sequence "
                                 f"{attempt.first} of partition {group.p}")
            return
        stored = log.events[group.first:group.last]
        if attempt.first != group.first or attempt.versions != [event[5] for event in stored]:
            self.problem("answer", f"{group.name}: answered sequence {attempt.first}, versions {attempt.versions}; "
                                   f"stored at {group.first}, versions {[event[5] for event in stored]}")
        if attempt.ids is not None and attempt.ids != [event[1] for event in stored]:
            self.problem("answer", f"{group.name}: other ids answered than stored")

    # --- reads: each says that the state was at least `low` and at most `high` ---

    def _bound_reads(self):
        good = []
        for read in self.reads:
            log = self.logs[read["p"]]
            bounds = getattr(self, "_bounds_" + read["kind"])(read, log)
            if bounds is None:
                continue  # the problem is told
            low, high = bounds
            if low > len(log):
                self.problem("read", f"{describe(read)}: saw {low} events, the log has {len(log)}")
                continue
            read["low"], read["high"] = log.up(low), log.down(min(high, len(log)))
            if read["low"] > read["high"]:
                self.problem("read", f"{describe(read)}: between the events of one transaction, or not of one state")
                continue
            good.append(read)
        self.reads = good

    def _bounds_epseq(self, read, log):
        state = 0 if read["value"] is None else read["value"] + 1
        return state, state

    def _bounds_epscan(self, read, log):
        events, start = read["events"], read["from"]
        for i, (sequence, event_id) in enumerate(events):
            if sequence != start + i or sequence >= len(log) or log.events[sequence][1] != event_id:
                self.problem("read", f"{describe(read)}: {sequence} {event_id} as number {i} is no slice of the log")
                return None
        end = start + len(events)
        low = end if events else 0
        if read["more"]:
            return end + 1, len(log)
        ended = len(events) < read["count"] and (read["to"] is None or end <= read["to"])
        return low, end if ended or read["to"] is None else len(log)

    def _bounds_escan(self, read, log):
        places = log.places.get((read["key"], read["stream"]), ())
        events, start = read["events"], read["from"]
        for i, (version, event_id) in enumerate(events):
            if version != start + i or version >= len(places) or log.events[places[version]][1] != event_id:
                self.problem("read", f"{describe(read)}: version {version} {event_id} as number {i} is no slice")
                return None
        end = start + len(events)
        if read["more"] and end >= len(places):
            self.problem("read", f"{describe(read)}: more than the {len(places)} versions there are")
            return None
        low = places[end] + 1 if read["more"] else places[end - 1] + 1 if events else 0
        ended = read["to"] is None or (len(events) < read["count"] and end <= read["to"])
        return low, places[end] if ended and not read["more"] and end < len(places) else len(log)

    def _bounds_esver(self, read, log):
        places = log.places.get((read["key"], read["stream"]), ())
        count = 0 if read["value"] is None else read["value"] + 1
        if count > len(places):
            self.problem("read", f"{describe(read)}: version {read['value']}, there are {len(places)}")
            return None
        return places[count - 1] + 1 if count else 0, places[count] if count < len(places) else len(log)

    def _bounds_eget(self, read, log):
        place = log.by_id.get(read["id"])
        if read["sequence"] is None:
            return 0, len(log) if place is None else place
        if place != read["sequence"]:
            self.problem("read", f"{describe(read)}: found at {read['sequence']}, stands at {place}")
            return None
        return place + 1, len(log)

    # --- real time ---

    def _sweep(self, p, log):
        """All calls and answers of a partition in the order of time; `done`: the largest state proven so far. At one
        time calls come first: then the two are concurrent, which is in doubt for the server."""
        steps = []
        for group in self.groups.values():
            if group.p != p:
                continue
            called = group.called()
            if group.first is not None and called is not None:
                steps.append((called, 0, "", 0, "place", group))
            for attempt in group.attempts:
                if attempt.result == "conflict":
                    steps.append((attempt.call, 0, "", 0, "begin", attempt))
                    steps.append((attempt.ret, 1, str(attempt.conn), attempt.n, "refusal", attempt))
                elif attempt.result == "ok" and group.first is not None:
                    steps.append((attempt.ret, 1, str(attempt.conn), attempt.n, "ok", attempt))
        for read in self.reads:
            if read["p"] == p:
                if read.get("mode") == "strong":
                    steps.append((read["call"], 0, "", 0, "strong", read))
                steps.append((read["ret"], 1, str(read["conn"]), read["n"], "read", read))
        for slot, parts in self.subs.items():
            if slot[1] == p:
                self._add_deliveries(steps, log, slot, parts)
        steps.sort(key=lambda step: step[:4])
        done, lasts, times, states = 0, {}, [], []
        self.refused = {}
        for time, _, _, _, kind, item in steps:
            state = getattr(self, "_step_" + kind)(item, log, done, lasts)
            if state > done:
                done = state
                times.append(time)
                states.append(done)
        self.done[p] = (times, states)

    @staticmethod
    def _add_deliveries(steps, log, slot, parts):
        places = log.places.get((slot[2], slot[3]), ()) if slot[3] is not None else None
        for part in parts:
            last = None
            for position, _, time in part["got"]:
                place = position if places is None else places[position] if position < len(places) else None
                if place is not None and place < len(log) and time != last:
                    steps.append((time, 1, "", 0, "delivery", place + 1))
                    last = time

    def _step_place(self, group, log, done, lasts):
        if done > group.first:
            self.problem("realtime", f"{group.name} stands at {group.first} of partition {group.p}, but was first "
                                     f"called at {group.called()}, when state {done} had been proven")
        return 0

    def _step_begin(self, attempt, log, done, lasts):
        attempt.low = done
        return 0

    def _step_ok(self, attempt, log, done, lasts):
        group = attempt.group
        if len(group.attempts) == 1 and group.first < lasts.get(attempt.conn, 0):
            self.problem("order", f"{group.name} stands at {group.first}, sent on connection {attempt.conn} behind "
                                  f"what stands before {lasts[attempt.conn]}")
        self.figures["late_refusals"] += group.first < self.refused.get(attempt.conn, 0)
        lasts[attempt.conn] = max(group.last, lasts.get(attempt.conn, 0))
        return group.last

    def _step_refusal(self, attempt, log, done, lasts):
        low = max(attempt.low, lasts.get(attempt.conn, 0))
        state = refusal_state(attempt, log, low)
        group = attempt.group
        if state is None:
            self.problem("conflict", f"{group.name} called at {attempt.call} was refused ({attempt.told}), expected "
                                     f"{[event[:2] for event in group.events][:4]}: true at no state from {low} on")
            return 0
        if group.first is not None and state > group.first:
            self.problem("conflict", f"{group.name} was refused by state {state}, though stored at {group.first}")
            return 0
        # It has no effect: when its leader is lost it is asked for again, and the next leader may tell of what stands
        # behind it in the same pipeline. An append that was sent after the refusal came is bound by real time.
        self.refused[attempt.conn] = max(state, self.refused.get(attempt.conn, 0))
        return state

    def _step_strong(self, read, log, done, lasts):
        if read["high"] < done:
            self.problem("stale", f"{describe(read)}: strong, saw at most {read['high']} when {done} had been proven")
        return 0

    def _step_read(self, read, log, done, lasts):
        return read["low"]

    def _step_delivery(self, state, log, done, lasts):
        return log.up(state)

    # --- sessions, age, subscriptions, liveness ---

    def _check_sessions(self):
        steps = [(str(read["conn"]), read["n"], read["p"], read) for read in self.reads]
        for group in self.groups.values():
            if group.first is not None:
                steps += [(str(a.conn), a.n, group.p, group) for a in group.attempts if a.result == "ok"]
        steps.sort(key=lambda step: step[:2])
        needs = {}
        for conn, _, p, item in steps:
            need = needs.get((conn, p), 0)
            if isinstance(item, Group):
                needs[conn, p] = max(need, item.last)
                continue
            if item["high"] < need:
                self.problem("session", f"{describe(item)}: saw at most {item['high']}, its connection needs {need}")
            needs[conn, p] = max(need, item["low"])

    def _check_staleness(self):
        """How long before its call a read's state had been surpassed for sure."""
        ages = []
        for read in self.reads:
            times, states = self.done[read["p"]]
            at = bisect_right(states, read["high"])
            if at < len(states) and times[at] < read["call"]:
                age = (read["call"] - times[at]) / SECOND
                ages.append(age)
                if self.stale_s is not None and age > self.stale_s:
                    self.problem("stale", f"{describe(read)}: state {read['high']} had been surpassed {age:.2f} s ago")
        ages.sort()
        if ages:
            self.figures["stale_ms_max"] = ages[-1] * 1000
        self.figures["stale_reads"] = len(ages)

    def _check_subscriptions(self):
        for slot, parts in self.subs.items():
            name, p, key, stream = slot
            log = self.logs.get(p) or Log(p, [])
            places = range(len(log)) if stream is None else log.places.get((key, stream), ())
            label = f"{name} on partition {p}" + ("" if stream is None else f" stream {stream}")
            self._check_deliveries(label, parts, log, places)

    def _check_deliveries(self, label, parts, log, places):
        expected = None
        for part in parts:
            if expected is not None and part["from"] != expected:
                self.problem("subscription", f"{label}: goes on from {part['from']} instead of {expected}")
                return
            expected = part["from"]
            for position, event_id, _ in part["got"]:
                if position != expected:
                    self.problem("subscription", f"{label}: {position} came where {expected} should (node "
                                                 f"{part['node']}, connection {part['conn']})")
                    return
                if position >= len(places) or log.events[places[position]][1] != event_id:
                    self.problem("subscription", f"{label}: {event_id} came as {position}, which it isn't")
                    return
                expected += 1
        if self.complete and expected < len(places):
            self.problem("subscription", f"{label}: ended at {expected} of {len(places)}")

    def _check_liveness(self):
        for mark in self.marks:
            if mark["what"] != "healed":
                continue
            limit = mark["t"] + int(mark["bound_s"] * SECOND)
            tried, worked = set(), set()
            for group in self.groups.values():
                for attempt in group.attempts:
                    if attempt.call >= mark["t"]:
                        tried.add(group.p)
                        if attempt.result == "ok" and attempt.ret <= limit:
                            worked.add(group.p)
            if not tried:
                self.problem("liveness", "no append was tried after the faults had ended")
            for p in sorted(tried - worked):
                self.problem("liveness", f"partition {p}: no append worked within {mark['bound_s']} s")


def describe(read):
    return f"{read['kind']} of partition {read['p']} on connection {read['conn']} (node {read['node']}, " \
           f"called at {read['call']})"


def holds(expected, version):
    """version: the stream's last one, -1 where it is empty."""
    if expected == "any":
        return True
    if expected == "empty":
        return version < 0
    return version >= 0 if expected == "exists" else version == expected


def refusal_state(attempt, log, low):
    """The smallest state from low on at which the refusal is true; None: there is none."""
    group = attempt.group
    before, wants = {}, []  # (slot, expected, events of the same stream before it in this transaction)
    for stream, expected, *_ in group.events:
        slot = (group.key, stream)
        wants.append((slot, expected, before.get(slot, 0)))
        before[slot] = before.get(slot, 0) + 1
    if attempt.told is None:
        return untold_state(wants, log, low)
    stream, current, told_expected = attempt.told
    states = []
    for slot, expected, earlier in wants:
        version = -1 if current == "empty" else current
        if slot[1] != stream or expected != told_expected or holds(expected, version):
            continue
        count = version - earlier + 1  # events of the stream in the state that is looked for
        places = log.places.get(slot, ())
        if not 0 <= count <= len(places):
            continue
        state = max(low, log.ends[places[count - 1]] if count else 0)
        if state <= (log.starts[places[count]] if count < len(places) else len(log)):
            states.append(state)
    return min(states, default=None)


def untold_state(wants, log, low):
    """An expectation that holds at low can only be broken by the stream's next event."""
    states = [low]
    for slot, _, _ in wants:
        places = log.places.get(slot, ())
        at = bisect_left(places, low)
        if at < len(places):
            states.append(log.ends[places[at]])
    for state in sorted(states):
        if any(not holds(expected, log.version(slot, state) + earlier) for slot, expected, earlier in wants):
            return state
    return None
