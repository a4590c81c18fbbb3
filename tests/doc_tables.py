#!/usr/bin/env python3
"""Tables of README.md that come from the code's own lists: commands, configuration keys, error codes.

`tests/doc_tables.py --write` renews them; without it, a table that is out of step is a failure."""

import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def rows(text, *macros):
    """Arguments of each MACRO(...) in a .def file, strings unquoted, comments left out."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    for match in re.finditer(r"^(%s)\(((?:\"(?:\\.|[^\"\\])*\"|[^\"()]|\([^()]*\))*)\)" % "|".join(macros),
                             text, re.M):
        parts = re.findall(r"\s*((?:\s*\"(?:\\.|[^\"\\])*\")+|[^,\"]*?)\s*(?:,|$)", match[2])
        values = []
        for part in parts[:-1] if parts and parts[-1] == "" else parts:
            strings = re.findall(r"\"((?:\\.|[^\"\\])*)\"", part)
            values.append("".join(strings) if strings else part)
        yield match[1], values


def cell(text):
    return text.replace("|", "\\|")


def commands():
    out = ["| command | does |", "|---|---|"]
    for _, row in rows(read("netd", "commands.def"), "COMMAND"):
        name, summary, syntax = row[0], row[6], row[7] if len(row) > 7 else ""
        out.append(f"| `{cell((name + ' ' + syntax).strip())}` | {cell(summary)} |")
    return out


def config():
    out = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for macro, row in rows(read("common", "config.def"), "TOP", "KEY"):
        section, row = ("", row) if macro == "TOP" else (row[0] + ".", row[1:])
        name, kind, default, meaning = row[0], row[1], row[2], row[5]
        shown = f"`{default}`" if default else ""
        out.append(f"| `{section}{name}` | {kind} | {shown} | {cell(meaning)} |")
    return out


EFFECT = {
    "NONE": ("surely none", "no: the same command fails again"),
    "RETRY": ("surely none", "yes, after a moment"),
    "UNKNOWN": ("may have had one", "yes, with the same EVENT_ID: then it is stored once"),
}
# Errors that never reach a client: of the command line, the start, or inside a process.
INTERNAL = {"ERR_OK", "ERR_CONFIG", "ERR_LOCKED", "ERR_TRUNCATED", "ERR_AGAIN"}


def errors():
    out = ["| reply begins with | text by default | effect on the store | try again? |", "|---|---|---|---|"]
    merged = {}
    for _, row in rows(read("common", "err.def"), "ERR"):
        name, code, kind, text = row
        texts = merged.setdefault((code, kind), []) if name not in INTERNAL else [text]
        if text not in texts:
            texts.append(text)
    for (code, kind), texts in merged.items():
        out.append(f"| `-{code}` | {'; '.join(texts)} | {EFFECT[kind][0]} | {EFFECT[kind][1]} |")
    return out


TABLES = {"commands": commands, "configuration": config, "errors": errors}


def main():
    text = read("README.md")
    passed = failed = 0
    for name, make in TABLES.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        if begin not in text or end not in text:
            print(f"README.md has no table {name}")
            failed += 1
            continue
        before, rest = text.split(begin, 1)
        old, after = rest.split(end, 1)
        new = "\n".join(make()) + "\n"
        same = old == new
        text = before + begin + new + end + after
        passed += same
        if not same:
            failed += 1
            print(f"README.md: the table {name} is out of step: tests/doc_tables.py --write")
    if "--write" in sys.argv[1:]:
        with open(os.path.join(ROOT, "README.md"), "w", encoding="utf-8") as file:
            file.write(text)
        return 0
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
