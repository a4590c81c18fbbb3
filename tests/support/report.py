"""Counting expectations, and the last line of every script."""

import signal
import sys
import traceback

# Ended from outside, a script still ends its nodes on its way out.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Result:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def expect(self, good, what):
        self.passed += bool(good)
        self.failed += not good
        if not good:
            print(f"FAILED: {what}", flush=True)
        return bool(good)

    def run(self, step):
        """One step; an exception in it is a failure, and the next steps run all the same."""
        try:
            step()
        except Exception as error:
            traceback.print_exc()
            self.expect(False, f"{type(error).__name__}: {error}")

    def finish(self):
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{skipped}")
        sys.exit(1 if self.failed or not self.passed else 0)
