/* The simulated disk as the core sees it (struct disk_ops). */
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "tests/sim/disk_internal.h"

struct file {
    uint32_t inode;
    enum open_mode mode;
    uint64_t errors_seen; /* of the inode's: each handle is told of a failed sync once */
};

/* The pieces that a sync under way will have made durable. */
struct sync_set {
    uint64_t size, count;
    uint32_t size_written;
    uint64_t *pieces;
    uint32_t *written;
    uint8_t *bytes;
};

const char *const disk_op_names[DISK_OP_COUNT] = {
    "open",     "create", "read",   "write",  "sync",  "allocate",
    "truncate", "look",   "rename", "unlink", "mkdir", "sync_dir",
};

static struct disk_verdict begin(struct sim_disk *disk, enum disk_op op);
static void note(struct sim_disk *disk, enum disk_op op, const char *path, uint32_t inode,
                 uint64_t a, uint64_t b, enum err err);
static struct sync_set sync_begin(const struct inode *file);
static void sync_end(struct inode *file, struct sync_set *set, bool written);

static struct sim_disk *sim(struct disk *disk)
{
    return (struct sim_disk *)disk;
}

static uint64_t part_of(struct disk_verdict verdict, uint64_t len)
{
    return len * verdict.part / 1024;
}

/* What the hook says, ERR_OK without one. */
static struct disk_verdict begin(struct sim_disk *disk, enum disk_op op)
{
    if (disk->hooks.before == NULL)
        return (struct disk_verdict){.err = ERR_OK};
    return disk->hooks.before(disk->hooks.ctx, op);
}

static void note(struct sim_disk *disk, enum disk_op op, const char *path, uint32_t inode,
                 uint64_t a, uint64_t b, enum err err)
{
    if (disk->trace == NULL)
        return;
    trace_mix(disk->trace, (uint64_t)op | (uint64_t)inode << 8 | (uint64_t)err << 40);
    trace_mix(disk->trace, a ^ (b << 32));
    trace_line(disk->trace, "%sdisk %-8s %s #%u %lu %lu %s", disk->name, disk_op_names[op], path,
               inode, a, b, err_name(err));
}

static enum err disk_open(struct disk *base, const char *path, enum open_mode mode,
                          struct file **ret_file)
{
    struct sim_disk *disk = sim(base);
    enum disk_op op = mode == OPEN_CREATE ? DISK_CREATE : DISK_OPEN;
    struct disk_verdict verdict = begin(disk, op);
    uint32_t dir;
    const char *name;
    uint32_t at = tree_find(disk, path, &dir, &name);
    enum err err = verdict.err;
    if (mode == OPEN_CREATE) {
        if (err == ERR_OK && at != NO_INODE)
            err = ERR_EXISTS;
        else if (err == ERR_OK && dir == NO_INODE)
            err = ERR_NOTFOUND;
        else if (err == ERR_OK && disk->used_blocks >= disk->capacity_blocks)
            err = ERR_FULL;
        if (at == NO_INODE && dir != NO_INODE &&
            (err == ERR_OK || (verdict.err != ERR_OK && verdict.part >= 512))) {
            at = tree_new_inode(disk, false);
            tree_change(disk, dir, DIR_LINK, name, "", at);
        }
    } else if (err == ERR_OK && (at == NO_INODE || disk->inodes[at].is_dir)) {
        err = ERR_NOTFOUND;
    }
    note(disk, op, path, at, (uint64_t)mode, 0, err);
    if (err != ERR_OK)
        return err;
    struct file *file = malloc(sizeof *file);
    ASSERT(file != NULL);
    *file = (struct file){.inode = at, .mode = mode, .errors_seen = disk->inodes[at].sync_errors};
    disk->inodes[at].handles++;
    disk->handles++;
    *ret_file = file;
    return ERR_OK;
}

static void disk_close(struct disk *base, struct file *file)
{
    struct sim_disk *disk = sim(base);
    ASSERT(disk->inodes[file->inode].handles > 0);
    disk->inodes[file->inode].handles--;
    disk->handles--;
    free(file);
}

static enum err disk_pread(struct disk *base, struct file *file, uint64_t offset, void *to,
                           size_t len, size_t *ret_len)
{
    struct sim_disk *disk = sim(base);
    enum err err = begin(disk, DISK_READ).err;
    const struct inode *inode = &disk->inodes[file->inode];
    note(disk, DISK_READ, "", file->inode, offset, len, err);
    if (err != ERR_OK)
        return err;
    size_t there = offset >= inode->size ? 0 : min_u64(len, inode->size - offset);
    if (there > 0)
        memcpy(to, inode->cached + offset, there);
    *ret_len = there;
    return ERR_OK;
}

static enum err disk_pwrite(struct disk *base, struct file *file, uint64_t offset, const void *from,
                            size_t len)
{
    struct sim_disk *disk = sim(base);
    ASSERT(file->mode != OPEN_READ);
    struct disk_verdict verdict = begin(disk, DISK_WRITE);
    struct inode *inode = &disk->inodes[file->inode];
    enum err err = verdict.err;
    uint64_t part = err == ERR_OK ? len : part_of(verdict, len);
    uint64_t room = file_take_blocks(disk, inode, offset, part);
    if (room < part) {
        part = room;
        err = ERR_FULL;
    }
    if (part > 0) {
        if (offset + part > inode->size)
            file_set_size(disk, inode, offset + part);
        memcpy(inode->cached + offset, from, part);
        file_mark(inode, offset, part, PIECE_DIRTY);
    }
    note(disk, DISK_WRITE, "", file->inode, offset, len, err);
    if (disk->trace != NULL)
        trace_mix_bytes(disk->trace, from, len);
    return err;
}

static enum err disk_sync(struct disk *base, struct file *file)
{
    struct sim_disk *disk = sim(base);
    struct sync_set set = sync_begin(&disk->inodes[file->inode]);
    struct disk_verdict verdict = begin(disk, DISK_SYNC);
    struct inode *inode = &disk->inodes[file->inode];
    note(disk, DISK_SYNC, "", file->inode, set.size, set.count, verdict.err);
    if (disk->sync_lies) {
        free(set.pieces);
        free(set.written);
        free(set.bytes);
        return verdict.err;
    }
    bool written = verdict.err == ERR_OK;
    inode->sync_errors += !written;
    sync_end(inode, &set, written);
    /* Pages that another handle's sync couldn't write are lost, but this one hears of it too. */
    bool told = file->errors_seen == inode->sync_errors;
    file->errors_seen = inode->sync_errors;
    return told ? ERR_OK : ERR_IO;
}

static struct sync_set sync_begin(const struct inode *file)
{
    uint64_t count = 0, all = file->cap / DISK_PIECE_BYTES;
    for (uint64_t i = 0; i < all; i++)
        count += file->pieces[i] != PIECE_CLEAN;
    struct sync_set set = {.size = file->size, .size_written = file->size_written};
    set.pieces = malloc((count + 1) * sizeof *set.pieces);
    set.written = malloc((count + 1) * sizeof *set.written);
    set.bytes = malloc((count + 1) * DISK_PIECE_BYTES);
    ASSERT(set.pieces != NULL && set.written != NULL && set.bytes != NULL);
    for (uint64_t i = 0; i < all; i++) {
        if (file->pieces[i] == PIECE_CLEAN)
            continue;
        memcpy(set.bytes + set.count * DISK_PIECE_BYTES, file->cached + i * DISK_PIECE_BYTES,
               DISK_PIECE_BYTES);
        set.written[set.count] = file->written[i];
        set.pieces[set.count++] = i;
        file->pieces[i] = PIECE_SYNCING;
    }
    return set;
}

/* A piece that was written again meanwhile stays dirty. Where nothing was written (an I/O
 * error), the pages count as clean all the same: what later syncs see. */
static void sync_end(struct inode *file, struct sync_set *set, bool written)
{
    for (uint64_t i = 0; i < set->count; i++) {
        uint64_t piece = set->pieces[i];
        if (written && set->written[i] > file->stable[piece]) {
            memcpy(file->durable + piece * DISK_PIECE_BYTES, set->bytes + i * DISK_PIECE_BYTES,
                   DISK_PIECE_BYTES);
            file->stable[piece] = set->written[i];
        }
        if (file->pieces[piece] == PIECE_SYNCING)
            file->pieces[piece] = PIECE_CLEAN;
    }
    if (written && set->size_written > file->size_stable) {
        file->size_stable = set->size_written;
        file->durable_size = set->size;
        memset(file->durable + set->size, 0, file->cap - set->size);
    }
    free(set->pieces);
    free(set->written);
    free(set->bytes);
}

static enum err disk_allocate(struct disk *base, struct file *file, uint64_t offset, uint64_t len)
{
    struct sim_disk *disk = sim(base);
    ASSERT(file->mode != OPEN_READ);
    struct disk_verdict verdict = begin(disk, DISK_ALLOCATE);
    struct inode *inode = &disk->inodes[file->inode];
    enum err err = verdict.err;
    uint64_t part = err == ERR_OK ? len : part_of(verdict, len);
    uint64_t room = file_take_blocks(disk, inode, offset, part);
    if (room < part)
        err = ERR_FULL;
    if (room > 0 && offset + room > inode->size)
        file_set_size(disk, inode, offset + room);
    note(disk, DISK_ALLOCATE, "", file->inode, offset, len, err);
    return err;
}

static enum err disk_size(struct disk *base, struct file *file, uint64_t *ret_size)
{
    struct sim_disk *disk = sim(base);
    enum err err = begin(disk, DISK_LOOK).err;
    note(disk, DISK_LOOK, "size", file->inode, disk->inodes[file->inode].size, 0, err);
    if (err == ERR_OK)
        *ret_size = disk->inodes[file->inode].size;
    return err;
}

static enum err disk_truncate(struct disk *base, struct file *file, uint64_t size)
{
    struct sim_disk *disk = sim(base);
    ASSERT(file->mode != OPEN_READ);
    struct disk_verdict verdict = begin(disk, DISK_TRUNCATE);
    if (verdict.err == ERR_OK || verdict.part >= 512)
        file_set_size(disk, &disk->inodes[file->inode], size);
    note(disk, DISK_TRUNCATE, "", file->inode, size, 0, verdict.err);
    return verdict.err;
}

static enum err disk_map(struct disk *base, struct file *file, struct span *ret_view)
{
    struct sim_disk *disk = sim(base);
    enum err err = begin(disk, DISK_LOOK).err;
    const struct inode *inode = &disk->inodes[file->inode];
    note(disk, DISK_LOOK, "map", file->inode, inode->size, 0, err);
    if (err != ERR_OK)
        return err;
    /* A copy of exactly this size, so that AddressSanitizer sees a read behind the end. */
    uint8_t *view = malloc(max_u64(inode->size, 1));
    ASSERT(view != NULL);
    if (inode->size > 0)
        memcpy(view, inode->cached, inode->size);
    disk->handles++;
    *ret_view = span_of(view, inode->size);
    return ERR_OK;
}

static void disk_unmap(struct disk *base, struct span view)
{
    sim(base)->handles--;
    free((void *)(uintptr_t)view.ptr);
}

static enum err disk_rename(struct disk *base, const char *from, const char *to)
{
    struct sim_disk *disk = sim(base);
    struct disk_verdict verdict = begin(disk, DISK_RENAME);
    uint32_t dir, to_dir;
    const char *name, *to_name;
    uint32_t at = tree_find(disk, from, &dir, &name);
    tree_find(disk, to, &to_dir, &to_name);
    enum err err = verdict.err != ERR_OK                  ? verdict.err
                   : at == NO_INODE || to_dir == NO_INODE ? ERR_NOTFOUND
                                                          : ERR_OK;
    if (at != NO_INODE && to_dir != NO_INODE && (err == ERR_OK || verdict.part >= 512)) {
        if (dir == to_dir) {
            tree_change(disk, dir, DIR_RENAME, name, to_name, at);
        } else { /* either half may survive without the other */
            tree_change(disk, to_dir, DIR_PLACE, to_name, "", at);
            tree_change(disk, dir, DIR_UNLINK, name, "", at);
        }
    }
    note(disk, DISK_RENAME, to, at, 0, 0, err);
    return err;
}

static enum err disk_unlink(struct disk *base, const char *path)
{
    struct sim_disk *disk = sim(base);
    struct disk_verdict verdict = begin(disk, DISK_UNLINK);
    uint32_t dir;
    const char *name;
    uint32_t at = tree_find(disk, path, &dir, &name);
    enum err err = verdict.err;
    if (err == ERR_OK && at == NO_INODE)
        err = ERR_NOTFOUND;
    else if (err == ERR_OK && disk->inodes[at].is_dir && disk->inodes[at].now.count > 0)
        err = ERR_IO;
    if (at != NO_INODE && (err == ERR_OK || (verdict.err != ERR_OK && verdict.part >= 512)) &&
        disk->inodes[at].now.count == 0) {
        tree_change(disk, dir, DIR_UNLINK, name, "", at);
        disk->used_blocks -= disk->inodes[at].block_count;
        disk->inodes[at].block_count = 0;
        if (disk->inodes[at].blocks != NULL)
            memset(disk->inodes[at].blocks, 0, disk->inodes[at].cap / DISK_BLOCK_BYTES);
    }
    note(disk, DISK_UNLINK, path, at, 0, 0, err);
    return err;
}

static enum err disk_mkdir(struct disk *base, const char *path)
{
    struct sim_disk *disk = sim(base);
    struct disk_verdict verdict = begin(disk, DISK_MKDIR);
    uint32_t dir;
    const char *name;
    uint32_t at = tree_find(disk, path, &dir, &name);
    enum err err = verdict.err;
    if (err == ERR_OK && dir == NO_INODE)
        err = ERR_NOTFOUND;
    else if (err == ERR_OK && at == NO_INODE && disk->used_blocks >= disk->capacity_blocks)
        err = ERR_FULL;
    else if (at == NO_INODE && dir != NO_INODE && (err == ERR_OK || verdict.part >= 512))
        tree_change(disk, dir, DIR_LINK, name, "", tree_new_inode(disk, true));
    note(disk, DISK_MKDIR, path, dir, 0, 0, err);
    return err;
}

static enum err disk_sync_dir(struct disk *base, const char *path)
{
    struct sim_disk *disk = sim(base);
    enum err err = begin(disk, DISK_SYNC_DIR).err;
    uint32_t at = tree_find(disk, path, NULL, NULL);
    if (err == ERR_OK && (at == NO_INODE || !disk->inodes[at].is_dir))
        err = ERR_NOTFOUND;
    if (err == ERR_OK && !disk->sync_lies)
        tree_sync_dir(&disk->inodes[at]);
    note(disk, DISK_SYNC_DIR, path, at, 0, 0, err);
    return err;
}

static enum err disk_list(struct disk *base, const char *path,
                          void (*each)(void *ctx, const char *name), void *ctx)
{
    struct sim_disk *disk = sim(base);
    enum err err = begin(disk, DISK_LOOK).err;
    uint32_t at = tree_find(disk, path, NULL, NULL);
    if (err == ERR_OK && (at == NO_INODE || !disk->inodes[at].is_dir))
        err = ERR_NOTFOUND;
    note(disk, DISK_LOOK, path, at, 0, 0, err);
    if (err != ERR_OK)
        return err;
    /* By index: `each` may not change the directory, but may open files, which moves the inodes. */
    for (unsigned i = 0; i < disk->inodes[at].now.count; i++)
        each(ctx, disk->inodes[at].now.entries[i].name);
    return ERR_OK;
}

const struct disk_ops sim_disk_ops = {
    .open = disk_open,
    .close = disk_close,
    .pread = disk_pread,
    .pwrite = disk_pwrite,
    .sync = disk_sync,
    .allocate = disk_allocate,
    .size = disk_size,
    .truncate = disk_truncate,
    .map = disk_map,
    .unmap = disk_unmap,
    .rename = disk_rename,
    .unlink = disk_unlink,
    .mkdir = disk_mkdir,
    .sync_dir = disk_sync_dir,
    .list = disk_list,
};
