/* The simulated disk: a directory tree in memory that tells what is durable from what is only
 * written.
 *
 * - File contents: writes land in the page cache; sync makes the pieces (512 bytes) written
 *   before its call durable.
 *   A power cut keeps an arbitrary subset of the other pieces, one of them torn; the end of the
 *   process alone keeps all.
 * - A sync that fails drops the pieces it should have written: they stay readable, and no later
 *   sync writes them.
 * - Directories: creations, renames and unlinks are durable after sync_dir; a power cut keeps
 *   some of the others.
 * - Room: blocks of 4 KiB are taken by allocate and by writes to where none are; then ERR_FULL.
 *
 * The owner of the disk decides before each operation whether it fails, and lets virtual time
 * pass, by a hook. */
#pragma once

#include "bucketd/core/env.h"
#include "tests/sim/prng.h"
#include "tests/sim/trace.h"

#define DISK_PIECE_BYTES 512u
#define DISK_BLOCK_BYTES 4096u
#define DISK_NAME_MAX    40u

enum disk_op {
    DISK_OPEN,
    DISK_CREATE,
    DISK_READ,
    DISK_WRITE,
    DISK_SYNC,
    DISK_ALLOCATE,
    DISK_TRUNCATE,
    DISK_LOOK /* size, map, list */,
    DISK_RENAME,
    DISK_UNLINK,
    DISK_MKDIR,
    DISK_SYNC_DIR,
    DISK_OP_COUNT
};
extern const char *const disk_op_names[DISK_OP_COUNT];

struct disk_verdict {
    enum err err;  /* ERR_OK: the operation goes on */
    unsigned part; /* with an error: this many of 1024 parts of it happen nevertheless */
};

struct disk_hooks {
    void *ctx;
    /* NULL: all goes well, in no time. May let other fibers run. */
    struct disk_verdict (*before)(void *ctx, enum disk_op op);
};

struct sim_disk;

/* trace may be NULL. */
struct sim_disk *sim_disk_new(struct trace *trace, const struct disk_hooks *hooks);
/* A copy of content and durability; no hooks, no trace, room without end. */
struct sim_disk *sim_disk_clone(const struct sim_disk *disk);
void sim_disk_attach(struct sim_disk *disk, struct trace *trace, const struct disk_hooks *hooks);
/* A word at the begin of its lines in the trace. */
void sim_disk_set_name(struct sim_disk *disk, const char *name);
void sim_disk_free(struct sim_disk *disk);
/* The interface that the core sees. */
struct disk *sim_disk_interface(struct sim_disk *disk);

/* The power goes: of the pieces that aren't durable, each survives with the chance `keep` (in a
 * million); 0 = nothing but what is durable. All handles must be closed. */
void sim_disk_power_cut(struct sim_disk *disk, struct prng *prng, uint64_t keep);
/* Room in bytes; what is taken already stays. */
void sim_disk_set_capacity(struct sim_disk *disk, uint64_t bytes);
uint64_t sim_disk_used(const struct sim_disk *disk);
/* Open files and mapped views. */
unsigned sim_disk_handles(const struct sim_disk *disk);

/* Damage, behind the back of the process. Calls each(ctx, path, size) for every file, in order
 * of their paths. */
void sim_disk_each_file(struct sim_disk *disk,
                        void (*each)(void *ctx, const char *path, uint64_t size), void *ctx);
/* A view of a file's content as it reads now. ptr NULL: no such file. */
struct span sim_disk_peek(struct sim_disk *disk, const char *path);
/* The same of what a power cut leaves for sure. */
struct span sim_disk_peek_durable(struct sim_disk *disk, const char *path);
void sim_disk_flip(struct sim_disk *disk, const char *path, uint64_t offset, uint8_t mask);
void sim_disk_cut_file(struct sim_disk *disk, const char *path, uint64_t size);
void sim_disk_remove(struct sim_disk *disk, const char *path);

/* A planted bug of this disk, to prove that the checker sees it: syncs that do nothing, and a
 * power cut that takes durable pieces too. */
void sim_disk_plant(struct sim_disk *disk, bool sync_lies, bool cut_takes_durable);
