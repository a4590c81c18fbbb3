"""tests/cluster/checker: --self-test, or the files of a history."""

import argparse
import sys

from checker import Checker
from checker_self_test import self_test
from history import load


def main():
    parser = argparse.ArgumentParser(prog="tests/cluster/checker")
    parser.add_argument("files", nargs="*", help="of one history (tests/cluster/history.py)")
    parser.add_argument("--self-test", action="store_true", help="good histories are accepted, mutations found")
    parser.add_argument("--seeds", type=int, default=12, help="histories of the self-test")
    parser.add_argument("--stale-s", type=float, default=None, help="age that a default read may have")
    options = parser.parse_args()
    if options.self_test:
        passed, failed, messages, kinds = self_test(options.seeds)
        print("\n".join(messages))
        print(f"{kinds} mutations, {options.seeds} histories")
        print(f"{passed} passed, {failed} failed")
        return 1 if failed else 0
    checker = Checker(options.stale_s)
    problems = checker.check(load(*options.files))
    for kind, text in problems:
        print(f"{kind}: {text}")
    print(", ".join(f"{name} {value}" for name, value in checker.figures.items()))
    print(f"{0 if problems else 1} passed, {sum(checker.counts.values())} failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
