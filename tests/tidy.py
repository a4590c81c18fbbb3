#!/usr/bin/env python3
"""House rules that a machine can check (CONTRIBUTING.md): sizes, includes, banned calls, leftovers."""

import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

LINE_COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

BANNED_CALLS = {
    "strcpy": "memcpy with a checked length", "strcat": "buf_append", "sprintf": "snprintf",
    "vsprintf": "vsnprintf", "strtok": "a span", "gets": "fgets", "atoi": "strtol with its checks",
    "atol": "strtol with its checks", "atoll": "strtoll with its checks", "alloca": "a bounded buffer",
}
BANNED = re.compile(r"(?<![\w.>])(" + "|".join(BANNED_CALLS) + r")\s*\(")
# Spelt in two halves, so that this file passes its own rule.
LEFTOVER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")

# Who may include what: header -> the places, as prefixes of paths.
INCLUDERS = {
    "nng/": ("netd/",),
    "uv.h": ("proto/link.", "proto/child.", "supervisor/", "netd/", "bucketd/", "tests/"),
}
CORES = ("common/", "bucketd/core/")


def files():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = []
        for folder, folders, here in os.walk(ROOT):
            folders[:] = [f for f in folders if not f.startswith((".", "build", "data", "__"))]
            names += [os.path.relpath(os.path.join(folder, name), ROOT) for name in here]
    return sorted(name for name in names if os.path.isfile(os.path.join(ROOT, name)))


def kind_of(name, text):
    if name.endswith((".c", ".h", ".def")):
        return "c"
    if name.endswith((".py", ".sh", ".build")) or text.startswith("#!"):
        return "script"
    if name.endswith((".md", ".txt", ".yaml", ".yml", ".service")):
        return "text"
    return None


def strip_c(text):
    """The code without comments, strings and characters; line numbers stay."""
    def blank(match):
        return re.sub(r"[^\n]", " ", match[0])
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', blank, text,
                  flags=re.S)


def check_lines(lines, problems, columns):
    for number, line in enumerate(lines, 1):
        if columns and len(line) > columns:
            problems.append((number, f"{len(line)} columns, at most {columns}"))
        if line != line.rstrip():
            problems.append((number, "space at the end of the line"))
        if LEFTOVER.search(line):
            problems.append((number, "left unfinished: " + LEFTOVER.search(line)[0]))


def check_functions(code_lines, problems):
    """A function's body stands between a { and a } in the first column."""
    start = None
    for number, line in enumerate(code_lines, 1):
        if line.startswith("{"):
            start = number
        elif line.startswith("}") and start is not None:
            length = number - start + 1
            if length > FUNCTION_LINES_MAX:
                problems.append((start, f"function of {length} lines, at most {FUNCTION_LINES_MAX}"))
            start = None


def check_includes(name, lines, problems):
    for number, line in enumerate(lines, 1):
        include = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
        if not include:
            continue
        for header, places in INCLUDERS.items():
            if include[1].startswith(header) and (
                    not name.startswith(places) or name.startswith(CORES)):
                problems.append((number, f"{include[1]} may not be included here"))


def check_c(name, text, lines, problems):
    check_lines(lines, problems, LINE_COLUMNS_MAX)
    if len(lines) > FILE_LINES_MAX:
        problems.append((len(lines), f"{len(lines)} lines, at most {FILE_LINES_MAX}"))
    if not text.startswith("/*"):
        problems.append((1, "the file doesn't begin with a comment that says what it is"))
    if name.endswith(".h") and "#pragma once" not in text:
        problems.append((1, "no #pragma once"))
    if "\t" in text:
        problems.append((text[:text.index("\t")].count("\n") + 1, "a tab"))
    check_includes(name, lines, problems)
    code_lines = strip_c(text).split("\n")
    check_functions(code_lines, problems)
    for number, line in enumerate(code_lines, 1):
        for call in BANNED.findall(line):
            problems.append((number, f"{call} is banned: use {BANNED_CALLS[call]}"))
        if re.match(r"\s*typedef\s+(struct|enum|union)\b[^;]*\{", line):
            problems.append((number, "a struct, enum or union without a name of its own"))


def check_file(name):
    """Problems of one file as (line, text); None for a file that no rule is about."""
    with open(os.path.join(ROOT, name), "rb") as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    kind = kind_of(name, text)
    if kind is None:
        return None
    problems = []
    lines = text.split("\n")
    if lines and lines[-1] == "":
        lines.pop()
    elif text:
        problems.append((len(lines), "no newline at the end of the file"))
    if kind == "c":
        check_c(name, text, lines, problems)
    else:
        check_lines(lines, problems, LINE_COLUMNS_MAX + 20 if kind == "script" else None)
    return problems


def main():
    passed = failed = 0
    for name in files():
        problems = check_file(name)
        if problems is None:
            continue
        for number, text in problems:
            print(f"{name}:{number}: {text}")
        passed += not problems
        failed += bool(problems)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
