"""Clocks that can be set: a node's processes see the time that a file tells (libfaketime)."""

import glob
import os

from support.wrapper import wrapped_build

LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"


def why_not():
    """Why clocks can't be set here; empty: they can."""
    return "" if glob.glob(LIBRARY) else "no libfaketime (the package faketime)"


class Clock:
    """Of one node. The supervisor gives its children a clean environment: scripts in place of netd and bucketd put
    theirs back."""

    def __init__(self, folder, build):
        os.makedirs(folder)
        self.path, self.variables = os.path.join(folder, "time"), os.path.join(folder, "environment")
        self.set("+0")
        self.monotonic_too(False)
        script = f". {self.variables}\nexec \"$REAL\" \"$@\"\n"
        self.build = wrapped_build(build, os.path.join(folder, "build"), script, script)

    def monotonic_too(self, on):
        """Whether the time that only ever goes on is changed like the wall clock; from the next start on."""
        self.dont = "0" if on else "1"
        with open(self.variables, "w", encoding="ascii") as file:
            file.write("".join(f"export {name}='{value}'\n" for name, value in self.environment().items()))

    def environment(self):
        return {"LD_PRELOAD": glob.glob(LIBRARY)[0], "FAKETIME_TIMESTAMP_FILE": self.path, "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": self.dont, "DONT_FAKE_MONOTONIC": self.dont}

    def set(self, offset):
        """As libfaketime has it: "+3600", "-10y", "+0 x2"; running processes see it at once."""
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(offset + "\n")
        os.rename(self.path + ".new", self.path)
