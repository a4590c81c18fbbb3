"""A build directory like the real one, but with a shell script in place of bucketd."""

import os
import shutil


def wrapped_build(build, directory, script):
    """script: what bucketd is replaced by; $REAL is the real one. The supervisor is copied, since it looks for the
    others beside itself; netd is a link."""
    for part in ("supervisor", "netd", "bucketd"):
        os.makedirs(os.path.join(directory, part))
    shutil.copy(os.path.join(build, "supervisor", "sierradb"), os.path.join(directory, "supervisor", "sierradb"))
    os.symlink(os.path.join(build, "netd", "sierradb-netd"), os.path.join(directory, "netd", "sierradb-netd"))
    path = os.path.join(directory, "bucketd", "sierradb-bucketd")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\nREAL={os.path.join(build, 'bucketd', 'sierradb-bucketd')}\n{script}")
    os.chmod(path, 0o755)
    return directory
