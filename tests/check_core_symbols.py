#!/usr/bin/env python3
"""Fails when a core library could know what it must not: time, randomness, threads, sockets, files,
loops, or state that outlives its structs. The cores get all of these through bucketd/core/env.h, which
is what makes them deterministic and the simulator honest.

  tests/check_core_symbols.py --nm NM [--stamp FILE] LIBRARY...

Checks every undefined symbol of the archives against the lists below, and every defined one for
writable data (.data, .bss, common)."""
import argparse
import re
import subprocess
import sys

# What a core may call besides the project's own functions and these libraries' pure ones.
DENIED = re.compile(r"""^(?:
    # time
    clock(_.*)?|time|gettimeofday|nanosleep|usleep|sleep|timer_.*|timerfd_.*|localtime.*|mktime|ftime|
    # randomness
    s?rand(om)?(_r)?|[dejlmn]rand48|arc4random.*|getrandom|getentropy|RAND_.*|
    # threads and processes
    pthread_.*|thrd_.*|mtx_.*|cnd_.*|sem_.*|fork|vfork|clone|exec.*|posix_spawn.*|wait(pid|id|3|4)?|
    system|popen|kill|raise|signal|sigaction|getpid|syscall|
    # loops and links
    uv_.*|nng_.*|epoll_.*|poll|ppoll|select|pselect|eventfd|
    # sockets
    socket.*|bind|listen|accept4?|connect|send(to|msg|mmsg|file.*)?|recv(from|msg|mmsg)?|shutdown|
    getaddrinfo|gethostby.*|
    # files
    open(at|dir)?(64)?|creat(64)?|close(dir)?|p?(read|write)v?(64)?(v2)?|readdir.*|f?data?sync|fsync|sync.*|
    l?stat(at)?(64)?|fstat(at)?(64)?|__.?xstat.*|statx|f?truncate(64)?|.*fallocate(64)?|rename(at2?)?|
    unlink(at)?|mkdir(at)?|rmdir|link(at)?|symlink.*|chdir|ioctl|fcntl(64)?|flock|lockf.*|dup[23]?|pipe2?|
    mmap(64)?|munmap|mremap|msync|mlock.*|memfd_create|shm_.*|
    # stdio on files, other people's environment
    fopen(64)?|fdopen|freopen.*|fread|fwrite|f?gets|f?getc|f?puts|f?putc|putchar|f?scanf|tmpfile.*|
    v?printf|perror|getenv|secure_getenv|setenv|putenv
)$""", re.VERBOSE)
# ASSERT's message and abort: the one way out that needs no environment. With _FORTIFY_SOURCE or without.
ALLOWED = {"fprintf", "__fprintf_chk", "stderr", "abort", "fwrite"}


# The sanitizers' and the compiler's own bookkeeping is not the program's state.
INSTRUMENTATION = re.compile(r"_*(asan|odr_asan|ubsan|sanitizer|sancov|llvm|gcov)|\.L|LASAN")


def symbols(program, library):
    """Yields object file, name, nm's class letter and section of each symbol of an archive."""
    result = subprocess.run([program, "-f", "sysv", library], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{program} {library}: {result.stderr.strip()}")
    member = ""
    for line in result.stdout.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 7 and fields[0] != "Name":
            yield member, fields[0].split("@")[0], fields[2], fields[6]
        elif match := re.search(r"from .*\[(.*)\]:", line):
            member = match[1]


def problems(program, library):
    count = 0
    for member, name, kind, section in symbols(program, library):
        count += 1
        if kind in "Uw":
            if name not in ALLOWED and DENIED.match(name):
                yield f"{library}: {member}: calls {name}"
        # .data.rel.ro holds constants with addresses in them: read-only once relocated.
        elif (re.match(r"\.t?(data|bss)(?!\.rel\.ro)|\*COM\*", section) and not INSTRUMENTATION.match(name)
                and not name.startswith(".")):
            yield f"{library}: {member}: {name} is writable and outlives its owner ({section})"
    if count == 0:
        yield f"{library}: no symbols: nothing was checked"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--stamp", help="written when all is well, for the build system")
    parser.add_argument("libraries", nargs="+")
    args = parser.parse_args()
    found = [text for library in args.libraries for text in problems(args.nm, library)]
    for text in found:
        print(text, file=sys.stderr)
    if found:
        print(f"check_core_symbols: {len(found)} forbidden", file=sys.stderr)
        return 1
    if args.stamp:
        with open(args.stamp, "w", encoding="utf-8") as stamp:
            stamp.write("ok\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
