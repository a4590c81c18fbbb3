/* A disk and an environment in memory, for tests of the bucket's core. Bytes and names that were
 * synced are kept apart from those that were only written; jobs run when the test says so;
 * operations can be counted, made to fail, or be the last before a crash.
 *
 * Operations that count: open with OPEN_CREATE, pwrite, sync, allocate, truncate, rename, unlink,
 * mkdir, sync_dir. */
#pragma once

#include "bucketd/core/env.h"

#define MEM_SECTOR 512u

struct mem_inode;
struct mem_names;

struct mem_disk {
    struct disk disk;
    struct env env;
    struct log log;

    uint64_t ops; /* operations so far */
    uint64_t
        fail_at; /* this one (counted from 1) fails with fail_with and has no effect; 0: none */
    enum err fail_with;
    bool fail_drops;   /* the failing sync drops dirty pages: what isn't written again never reaches
                          the disk */
    uint64_t crash_at; /* this one has its effect in memory, and all later ones fail: see
                          mem_disk_crash */
    bool crashed;
    uint64_t capacity; /* bytes in all files; 0: no bound */
    bool fatal;        /* env->fatal was called */
    enum err fatal_err;
    int files_open;
    uint64_t sync_count;
    char last_error[512]; /* last line logged at level error */

    struct mem_inode **inodes;
    size_t inodes_count;
    struct mem_names *live, *durable;
    struct job **jobs;
    size_t jobs_count;
};

struct mem_disk *mem_disk_new(void);
void mem_disk_free(struct mem_disk *mem);

/* Runs the i-th waiting job (work, then done); false: there are not so many. */
bool mem_disk_run_job(struct mem_disk *mem, size_t i);
/* Runs jobs until none waits. */
void mem_disk_settle(struct mem_disk *mem);

/* The process was killed: handles, jobs and fault settings are gone, files are as they were
 * written. */
void mem_disk_kill(struct mem_disk *mem);
/* The power failed: a new disk with what was synced, and of what wasn't an arbitrary part chosen by
 * `seed`: each sector of 512 bytes, each file's size, each directory's names. 0: nothing unsynced;
 * 1: all of it. */
struct mem_disk *mem_disk_crash(const struct mem_disk *mem, uint64_t seed);
/* A new disk with all that was written, as if synced. */
struct mem_disk *mem_disk_copy(const struct mem_disk *mem);

/* A file's bytes, to look at and to damage in place (what is changed is as if synced); NULL: no
 * such file. */
struct buf *mem_disk_bytes(struct mem_disk *mem, const char *path);
/* Cuts or lengthens (with zeros) a file. */
void mem_disk_resize(struct mem_disk *mem, const char *path, size_t size);
/* Hash of all files, as written, whose names end so. */
uint64_t mem_disk_hash(const struct mem_disk *mem, const char *ending);
