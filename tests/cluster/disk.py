"""Disks whose power can be cut, that lie about syncs or are slow: one FUSE file system for each node
(disk/power_disk.c)."""

import os
import subprocess

from support.node import build_dir

HERE = os.path.dirname(os.path.abspath(__file__))


def why_not():
    """Why there can be no such disk here; empty: there can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no access to /dev/fuse"
    done = subprocess.run(["pkg-config", "--exists", "fuse3"], check=False)
    return "" if done.returncode == 0 else "no libfuse3 to build with (the package libfuse3-dev)"


def tool(build=None):
    """The program, built where it is missing or older than its source."""
    folder = os.path.join(build or build_dir(), "tests", "cluster")
    path = os.path.join(folder, "power_disk")
    sources = [os.path.join(HERE, "disk", name) for name in ("power_disk.c", "volume.c", "volume.h")]
    if os.path.exists(path) and os.path.getmtime(path) > max(map(os.path.getmtime, sources)):
        return path
    os.makedirs(folder, exist_ok=True)
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], check=True, capture_output=True, text=True)
    subprocess.run(["gcc", "-std=gnu17", "-O2", "-g", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-o", path + ".new",
                    *sources[:2], *flags.stdout.split()], check=True)
    os.rename(path + ".new", path)
    return path


class Disk:
    """Mounted at a directory as long as it lives."""

    def __init__(self, path, build=None):
        self.path = path
        os.makedirs(path, exist_ok=True)
        self.process = subprocess.Popen([tool(build), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise OSError(f"no file system at {path}")

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        numbers = self.process.stdout.readline().split()
        return dict(zip(("pieces", "pieces_kept", "names", "names_kept", "syncs"), map(int, numbers), strict=True))

    def cut(self, seed=0):
        """The power fails: 0 loses all that wasn't synced, a seed some of it. Whoever used it is dead already."""
        return self.ask(f"cut {seed}")

    def wipe(self):
        self.ask("wipe")

    def lie(self, on):
        """Syncs keep nothing, and say they did."""
        self.ask(f"lie {int(on)}")

    def slow(self, ms):
        """Each sync takes so much longer."""
        self.ask(f"slow {ms}")

    def close(self):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["umount", "-l", self.path], check=False, capture_output=True)
        self.process.stdout.close()
