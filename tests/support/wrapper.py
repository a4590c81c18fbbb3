"""A build directory like the real one, but with shell scripts in place of its daemons."""

import os
import shutil


def wrapped_build(build, directory, script, netd_script=None):
    """What bucketd is replaced by, and netd, which is a link unless told otherwise; $REAL is the real one. The
    supervisor is copied, since it looks for the others beside itself."""
    for part in ("supervisor", "netd", "bucketd"):
        os.makedirs(os.path.join(directory, part))
    shutil.copy(os.path.join(build, "supervisor", "sierradb"), os.path.join(directory, "supervisor", "sierradb"))
    for name, content in (("bucketd", script), ("netd", netd_script)):
        path, real = (os.path.join(at, name, f"sierradb-{name}") for at in (directory, build))
        if content is None:
            os.symlink(real, path)
            continue
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\nREAL={real}\n{content}")
        os.chmod(path, 0o755)
    return directory
