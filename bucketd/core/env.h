/* The seam between bucketd's core and the world (DESIGN.md 4). The core is a deterministic state
 * machine: it calls no clock, no socket, no file, no thread; it gets all of them through this
 * interface. bucketd/env_posix.c is the real one (files, libuv's pool, links); tests/sim has a
 * simulated one. */
#pragma once

#include "common/err.h"
#include "common/log.h"
#include "proto/messages.h"

/* --- Disk: synchronous; called in recovery and, from there on, inside jobs
 * ------------------------ */

/* Paths are relative to the bucket's directory ("segments/0000000003/data.evts"). A file is an open
 * handle, owned by who opened it until disk->close. Errors: ERR_NOTFOUND, ERR_FULL (ENOSPC, EDQUOT:
 * nothing promised about what was written), ERR_EXISTS, ERR_IO (anything else; already logged with
 * errno). */
struct file;

enum open_mode { OPEN_READ, OPEN_WRITE, OPEN_CREATE /* read and write; fails if it exists */ };

struct disk {
    const struct disk_ops *ops;
};

struct disk_ops {
    enum err (*open)(struct disk *, const char *path, enum open_mode, struct file **ret_file);
    void (*close)(struct disk *, struct file *);
    /* Whole or error; short reads at the end of the file give *ret_len < len. */
    enum err (*pread)(struct disk *, struct file *, uint64_t offset, void *to, size_t len,
                      size_t *ret_len);
    enum err (*pwrite)(struct disk *, struct file *, uint64_t offset, const void *from, size_t len);
    /* fdatasync, including what is needed to find the data again (size). */
    enum err (*sync)(struct disk *, struct file *);
    /* Blocks for [offset, offset+len) exist afterwards and read as zeros where not written before.
     */
    enum err (*allocate)(struct disk *, struct file *, uint64_t offset, uint64_t len);
    enum err (*size)(struct disk *, struct file *, uint64_t *ret_size);
    enum err (*truncate)(struct disk *, struct file *, uint64_t size);
    /* A read-only view of the whole file, valid until unmap, also after close. */
    enum err (*map)(struct disk *, struct file *, struct span *ret_view);
    void (*unmap)(struct disk *, struct span view);
    enum err (*rename)(struct disk *, const char *from, const char *to);
    enum err (*unlink)(struct disk *, const char *path); /* a file, or an empty directory */
    enum err (*mkdir)(struct disk *, const char *path);  /* ERR_OK where it exists already */
    enum err (*sync_dir)(struct disk *,
                         const char *path); /* creations and renames in it are durable */
    /* Calls each(ctx, name) for every entry but . and .., in ascending order of names. */
    enum err (*list)(struct disk *, const char *path, void (*each)(void *ctx, const char *name),
                     void *ctx);
};

/* --- Jobs: blocking work on immutable input, done elsewhere -------------------------------------
 */

/* `work` runs in a thread of the pool and may touch only the job itself, what it points at that
 * nobody else changes meanwhile, and the disk. `done` runs in the core's thread afterwards; the job
 * belongs to the core again. Jobs are independent: they may run at the same time and end in any
 * order. */
struct job {
    void (*work)(struct job *, struct disk *);
    void (*done)(struct job *);
    void *env_private;
    /* A wish: do the work at once in the core's thread, because it is short and nobody else waits
     * for that thread. `done` comes after submit has returned in any case. */
    bool brief;
};

struct env {
    const struct env_ops *ops;
    struct disk *disk;
    const struct log *log;
};

struct env_ops {
    /* Monotonic time in nanoseconds; drives timers only. */
    uint64_t (*now_ns)(struct env *);
    void (*random)(struct env *, void *to, size_t len);
    void (*submit)(struct env *, struct job *);
    /* Where the core packs messages for a link: a buffer that leaves at the end of the turn, NULL
     * when the link is gone (the message is dropped; the other side asks again). */
    struct buf *(*outbox)(struct env *, uint32_t link);
    /* The same for this bucket's process on another node. Messages may be lost, late, doubled and
     * in another order. */
    struct buf *(*peer)(struct env *, uint32_t node);
    /* The core can't go on (failed write or sync, broken disk): end the process; nothing more is
     * sent. */
    void (*fatal)(struct env *, enum err, const char *what);
    /* The log on this disk can't be made whole, and other replicas have it: it is set aside, the
     * process ends, and its next start finds an empty disk (bucket_config.replaced). Returns only
     * where that can't be done: ERR_EXISTS (one lies there already), ERR_IO. */
    enum err (*replace_disk)(struct env *, const char *what);
};
