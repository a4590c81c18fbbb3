/* The simulated disk's inodes: file contents by pieces, directories with their unsynced changes,
 * power cuts, damage. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/disk_internal.h"

static void dir_apply(struct dir_list *list, const struct dir_op *op);
static void dir_insert(struct dir_list *list, const char *name, uint32_t inode);
static void dir_remove(struct dir_list *list, const char *name);
static struct dir_list dir_copy(const struct dir_list *list);
static void cut_dir(struct inode *dir, struct prng *prng, uint64_t keep);
static void cut_file(struct sim_disk *disk, struct inode *file, struct prng *prng, uint64_t keep);
static void collect(struct sim_disk *disk);
static void walk(struct sim_disk *disk, uint32_t dir, char *path, size_t len,
                 void (*each)(void *ctx, const char *path, uint64_t size), void *ctx);

/* --- whole disks --- */

struct sim_disk *sim_disk_new(struct trace *trace, const struct disk_hooks *hooks)
{
    struct sim_disk *disk = calloc(1, sizeof *disk);
    ASSERT(disk != NULL);
    disk->base.ops = &sim_disk_ops;
    disk->trace = trace;
    disk->hooks = *hooks;
    disk->capacity_blocks = UINT64_MAX;
    tree_new_inode(disk, true);
    return disk;
}

void sim_disk_attach(struct sim_disk *disk, struct trace *trace, const struct disk_hooks *hooks)
{
    disk->trace = trace;
    disk->hooks = *hooks;
}

void sim_disk_set_name(struct sim_disk *disk, const char *name)
{
    snprintf(disk->name, sizeof disk->name, "%s ", name);
}

static void *copy_bytes(const void *from, size_t len)
{
    void *copy = malloc(len + 1);
    ASSERT(copy != NULL);
    if (len > 0)
        memcpy(copy, from, len);
    return copy;
}

struct sim_disk *sim_disk_clone(const struct sim_disk *disk)
{
    struct sim_disk *copy = calloc(1, sizeof *copy);
    ASSERT(copy != NULL);
    *copy = *disk;
    copy->hooks = (struct disk_hooks){0};
    copy->trace = NULL;
    copy->capacity_blocks = UINT64_MAX;
    copy->handles = 0;
    copy->inodes = copy_bytes(disk->inodes, disk->inode_cap * sizeof *disk->inodes);
    for (uint32_t i = 0; i < disk->inode_count; i++) {
        const struct inode *from = &disk->inodes[i];
        struct inode *to = &copy->inodes[i];
        to->handles = 0;
        if (!from->used)
            continue;
        if (from->is_dir) {
            to->now = dir_copy(&from->now);
            to->kept = dir_copy(&from->kept);
            to->ops = copy_bytes(from->ops, from->op_count * sizeof *from->ops);
        } else if (from->cap > 0) {
            to->cached = copy_bytes(from->cached, from->cap);
            to->durable = copy_bytes(from->durable, from->cap);
            to->pieces = copy_bytes(from->pieces, from->cap / DISK_PIECE_BYTES);
            to->written =
                copy_bytes(from->written, from->cap / DISK_PIECE_BYTES * sizeof *from->written);
            to->stable =
                copy_bytes(from->stable, from->cap / DISK_PIECE_BYTES * sizeof *from->stable);
            to->blocks = copy_bytes(from->blocks, from->cap / DISK_BLOCK_BYTES);
        }
    }
    return copy;
}

void sim_disk_free(struct sim_disk *disk)
{
    for (uint32_t i = 0; i < disk->inode_count; i++)
        file_release(&disk->inodes[i]);
    free(disk->inodes);
    free(disk);
}

struct disk *sim_disk_interface(struct sim_disk *disk)
{
    return &disk->base;
}

void sim_disk_power_cut(struct sim_disk *disk, struct prng *prng, uint64_t keep)
{
    ASSERT(disk->handles == 0);
    for (uint32_t i = 0; i < disk->inode_count; i++) {
        struct inode *inode = &disk->inodes[i];
        if (!inode->used)
            continue;
        if (inode->is_dir)
            cut_dir(inode, prng, keep);
        else
            cut_file(disk, inode, prng, keep);
    }
    collect(disk);
}

void sim_disk_set_capacity(struct sim_disk *disk, uint64_t bytes)
{
    disk->capacity_blocks = bytes == UINT64_MAX ? UINT64_MAX : bytes / DISK_BLOCK_BYTES;
}

uint64_t sim_disk_used(const struct sim_disk *disk)
{
    return disk->used_blocks * DISK_BLOCK_BYTES;
}

unsigned sim_disk_handles(const struct sim_disk *disk)
{
    return disk->handles;
}

void sim_disk_plant(struct sim_disk *disk, bool sync_lies, bool cut_takes_durable)
{
    disk->sync_lies = sync_lies;
    disk->cut_takes_durable = cut_takes_durable;
}

/* --- damage --- */

void sim_disk_each_file(struct sim_disk *disk,
                        void (*each)(void *ctx, const char *path, uint64_t size), void *ctx)
{
    char path[256] = "";
    walk(disk, 0, path, 0, each, ctx);
}

static void walk(struct sim_disk *disk, uint32_t dir, char *path, size_t len,
                 void (*each)(void *ctx, const char *path, uint64_t size), void *ctx)
{
    const struct dir_list *list = &disk->inodes[dir].now;
    for (unsigned i = 0; i < list->count; i++) {
        const struct inode *inode = &disk->inodes[list->entries[i].inode];
        int more =
            snprintf(path + len, 256 - len, "%s%s", len > 0 ? "/" : "", list->entries[i].name);
        ASSERT(more > 0 && len + (size_t)more < 256);
        if (inode->is_dir)
            walk(disk, list->entries[i].inode, path, len + (size_t)more, each, ctx);
        else
            each(ctx, path, inode->size);
        path[len] = '\0';
    }
}

struct span sim_disk_peek(struct sim_disk *disk, const char *path)
{
    uint32_t at = tree_find(disk, path, NULL, NULL);
    if (at == NO_INODE || disk->inodes[at].is_dir)
        return span_of(NULL, 0);
    return span_of(disk->inodes[at].cached, disk->inodes[at].size);
}

struct span sim_disk_peek_durable(struct sim_disk *disk, const char *path)
{
    uint32_t at = tree_find(disk, path, NULL, NULL);
    if (at == NO_INODE || disk->inodes[at].is_dir)
        return span_of(NULL, 0);
    return span_of(disk->inodes[at].durable, disk->inodes[at].durable_size);
}

void sim_disk_flip(struct sim_disk *disk, const char *path, uint64_t offset, uint8_t mask)
{
    uint32_t at = tree_find(disk, path, NULL, NULL);
    ASSERT(at != NO_INODE && offset < disk->inodes[at].size);
    disk->inodes[at].cached[offset] ^= mask;
    disk->inodes[at].durable[offset] = disk->inodes[at].cached[offset];
}

void sim_disk_cut_file(struct sim_disk *disk, const char *path, uint64_t size)
{
    uint32_t at = tree_find(disk, path, NULL, NULL);
    ASSERT(at != NO_INODE);
    struct inode *file = &disk->inodes[at];
    file_set_size(disk, file, size);
    memcpy(file->durable, file->cached, file->cap);
    file_mark(file, 0, file->cap, PIECE_CLEAN);
    file->durable_size = size;
}

void sim_disk_remove(struct sim_disk *disk, const char *path)
{
    uint32_t dir;
    const char *name;
    uint32_t at = tree_find(disk, path, &dir, &name);
    ASSERT(at != NO_INODE);
    tree_change(disk, dir, DIR_UNLINK, name, "", at);
    tree_sync_dir(&disk->inodes[dir]);
    collect(disk);
}

/* --- power cuts --- */

/* Either a journal's way (the first changes survive, in order) or any subset, each change whole. */
static void cut_dir(struct inode *dir, struct prng *prng, uint64_t keep)
{
    bool ordered = prng_chance(prng, 500000);
    for (unsigned i = 0; i < dir->op_count; i++) {
        if (prng_chance(prng, keep))
            dir_apply(&dir->kept, &dir->ops[i]);
        else if (ordered)
            break;
    }
    dir->op_count = 0;
    free(dir->now.entries);
    dir->now = dir_copy(&dir->kept);
}

static void cut_file(struct sim_disk *disk, struct inode *file, struct prng *prng, uint64_t keep)
{
    uint64_t size = file->durable_size;
    if (keep > 0 && file->size != file->durable_size && prng_chance(prng, 700000)) {
        uint64_t low = min_u64(file->size, file->durable_size);
        uint64_t high = max_u64(file->size, file->durable_size);
        size = prng_chance(prng, 500000) ? file->size : prng_range(prng, low, high);
    }
    uint64_t torn = UINT64_MAX, dirty = 0;
    for (uint64_t i = 0; i < file->cap / DISK_PIECE_BYTES; i++) {
        if (disk->cut_takes_durable && file->pieces[i] == PIECE_CLEAN && prng_chance(prng, 20000))
            memset(file->durable + i * DISK_PIECE_BYTES, 0, DISK_PIECE_BYTES);
        if (file->pieces[i] == PIECE_CLEAN)
            continue;
        if (prng_below(prng, ++dirty) == 0)
            torn = i;
        if (prng_chance(prng, keep))
            memcpy(file->durable + i * DISK_PIECE_BYTES, file->cached + i * DISK_PIECE_BYTES,
                   DISK_PIECE_BYTES);
    }
    if (torn != UINT64_MAX && keep > 0 && prng_chance(prng, 300000))
        memcpy(file->durable + torn * DISK_PIECE_BYTES, file->cached + torn * DISK_PIECE_BYTES,
               prng_below(prng, DISK_PIECE_BYTES));
    if (file->cap > 0) {
        memset(file->durable + size, 0, file->cap - size);
        memcpy(file->cached, file->durable, file->cap);
        file_mark(file, 0, file->cap, PIECE_CLEAN);
    }
    file->size = file->durable_size = size;
}

/* Frees what no directory names any more, and counts the room anew. */
static void collect(struct sim_disk *disk)
{
    uint8_t *seen = calloc(disk->inode_count, 1);
    ASSERT(seen != NULL);
    seen[0] = 1;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < disk->inode_count; i++) {
            struct inode *dir = &disk->inodes[i];
            if (seen[i] != 1 || !dir->is_dir)
                continue;
            seen[i] = 2;
            for (unsigned k = 0; k < dir->now.count + dir->kept.count; k++) {
                uint32_t child = k < dir->now.count ? dir->now.entries[k].inode
                                                    : dir->kept.entries[k - dir->now.count].inode;
                more = more || seen[child] == 0;
                seen[child] = seen[child] == 0 ? 1 : seen[child];
            }
        }
    }
    disk->used_blocks = 0;
    for (uint32_t i = 0; i < disk->inode_count; i++) {
        struct inode *inode = &disk->inodes[i];
        if (seen[i] == 0 && inode->handles == 0 && inode->op_count == 0)
            file_release(inode);
        else
            disk->used_blocks += inode->block_count + 1;
    }
    free(seen);
}

/* --- directories --- */

uint32_t tree_find(struct sim_disk *disk, const char *path, uint32_t *ret_dir,
                   const char **ret_name)
{
    uint32_t at = 0;
    if (ret_dir != NULL)
        *ret_dir = NO_INODE;
    if (strcmp(path, ".") == 0)
        return at;
    while (*path != '\0') {
        size_t len = strcspn(path, "/");
        ASSERT(len > 0 && len < DISK_NAME_MAX);
        bool last = path[len] == '\0';
        if (at == NO_INODE || !disk->inodes[at].is_dir)
            return NO_INODE;
        if (last && ret_dir != NULL) {
            *ret_dir = at;
            *ret_name = path;
        }
        char name[DISK_NAME_MAX];
        memcpy(name, path, len);
        name[len] = '\0';
        const struct dir_entry *entry = dir_find(&disk->inodes[at].now, name);
        at = entry == NULL ? NO_INODE : entry->inode;
        path += last ? len : len + 1;
    }
    return at;
}

uint32_t tree_new_inode(struct sim_disk *disk, bool is_dir)
{
    if (disk->inode_count == disk->inode_cap) {
        disk->inode_cap = disk->inode_cap == 0 ? 32 : disk->inode_cap * 2;
        disk->inodes = realloc(disk->inodes, disk->inode_cap * sizeof *disk->inodes);
        ASSERT(disk->inodes != NULL);
    }
    disk->inodes[disk->inode_count] = (struct inode){.used = true, .is_dir = is_dir};
    disk->used_blocks++;
    return disk->inode_count++;
}

void tree_change(struct sim_disk *disk, uint32_t dir, enum dir_change change, const char *name,
                 const char *to, uint32_t inode)
{
    struct inode *parent = &disk->inodes[dir];
    struct dir_op op = {.change = change, .inode = inode};
    snprintf(op.name, sizeof op.name, "%s", name);
    snprintf(op.to, sizeof op.to, "%s", to);
    dir_apply(&parent->now, &op);
    parent->ops = realloc(parent->ops, (parent->op_count + 1) * sizeof op);
    ASSERT(parent->ops != NULL);
    parent->ops[parent->op_count++] = op;
}

void tree_sync_dir(struct inode *dir)
{
    free(dir->kept.entries);
    dir->kept = dir_copy(&dir->now);
    dir->op_count = 0;
}

/* A change whose ground was lost (the creation before it didn't survive) is lost too. */
static void dir_apply(struct dir_list *list, const struct dir_op *op)
{
    const struct dir_entry *entry = dir_find(list, op->name);
    bool there = entry != NULL && entry->inode == op->inode;
    switch (op->change) {
    case DIR_LINK:
        if (entry == NULL)
            dir_insert(list, op->name, op->inode);
        return;
    case DIR_UNLINK:
        if (there)
            dir_remove(list, op->name);
        return;
    case DIR_PLACE:
        dir_remove(list, op->name);
        dir_insert(list, op->name, op->inode);
        return;
    case DIR_RENAME:
        if (there) {
            dir_remove(list, op->name);
            dir_remove(list, op->to);
            dir_insert(list, op->to, op->inode);
        }
        return;
    }
}

struct dir_entry *dir_find(const struct dir_list *list, const char *name)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (strcmp(list->entries[i].name, name) == 0)
            return &list->entries[i];
    }
    return NULL;
}

static void dir_insert(struct dir_list *list, const char *name, uint32_t inode)
{
    list->entries = realloc(list->entries, (list->count + 1) * sizeof *list->entries);
    ASSERT(list->entries != NULL);
    unsigned at = list->count++;
    for (; at > 0 && strcmp(list->entries[at - 1].name, name) > 0; at--)
        list->entries[at] = list->entries[at - 1];
    list->entries[at] = (struct dir_entry){.inode = inode};
    snprintf(list->entries[at].name, sizeof list->entries[at].name, "%s", name);
}

static void dir_remove(struct dir_list *list, const char *name)
{
    struct dir_entry *entry = dir_find(list, name);
    if (entry == NULL)
        return;
    unsigned at = (unsigned)(entry - list->entries);
    memmove(entry, entry + 1, (list->count - at - 1) * sizeof *entry);
    list->count--;
}

static struct dir_list dir_copy(const struct dir_list *list)
{
    struct dir_list copy = *list;
    copy.entries = copy_bytes(list->entries, list->count * sizeof *list->entries);
    return copy;
}

/* --- files --- */

static void *grow(void *bytes, uint64_t from, uint64_t to)
{
    bytes = realloc(bytes, to);
    ASSERT(bytes != NULL);
    memset((uint8_t *)bytes + from, 0, to - from);
    return bytes;
}

void file_reserve(struct inode *file, uint64_t size)
{
    if (size <= file->cap)
        return;
    ASSERT(size <= 256u << 20);
    uint64_t cap = align_up(max_u64(size, file->cap * 2), DISK_BLOCK_BYTES);
    file->cached = grow(file->cached, file->cap, cap);
    file->durable = grow(file->durable, file->cap, cap);
    uint64_t pieces = file->cap / DISK_PIECE_BYTES, more = cap / DISK_PIECE_BYTES;
    file->pieces = grow(file->pieces, pieces, more);
    file->written = grow(file->written, pieces * sizeof(uint32_t), more * sizeof(uint32_t));
    file->stable = grow(file->stable, pieces * sizeof(uint32_t), more * sizeof(uint32_t));
    file->blocks = grow(file->blocks, file->cap / DISK_BLOCK_BYTES, cap / DISK_BLOCK_BYTES);
    file->cap = cap;
}

void file_mark(struct inode *file, uint64_t offset, uint64_t len, uint8_t state)
{
    if (len == 0)
        return;
    uint64_t first = offset / DISK_PIECE_BYTES;
    uint64_t last = (offset + len - 1) / DISK_PIECE_BYTES;
    memset(file->pieces + first, state, last - first + 1);
    for (uint64_t i = first; i <= last && state == PIECE_DIRTY; i++)
        file->written[i]++;
}

void file_set_size(struct sim_disk *disk, struct inode *file, uint64_t size)
{
    file_reserve(file, size);
    if (size < file->size) {
        memset(file->cached + size, 0, file->size - size);
        file_mark(file, size, file->size - size, PIECE_DIRTY);
        for (uint64_t i = align_up(size, DISK_BLOCK_BYTES) / DISK_BLOCK_BYTES;
             i < file->cap / DISK_BLOCK_BYTES; i++) {
            disk->used_blocks -= file->blocks[i];
            file->block_count -= file->blocks[i];
            file->blocks[i] = 0;
        }
    }
    file->size_written += size != file->size;
    file->size = size;
}

uint64_t file_take_blocks(struct sim_disk *disk, struct inode *file, uint64_t offset, uint64_t len)
{
    if (len == 0)
        return 0;
    file_reserve(file, offset + len);
    uint64_t last = (offset + len - 1) / DISK_BLOCK_BYTES;
    for (uint64_t i = offset / DISK_BLOCK_BYTES; i <= last; i++) {
        if (file->blocks[i] != 0)
            continue;
        if (disk->used_blocks >= disk->capacity_blocks)
            return i * DISK_BLOCK_BYTES > offset ? i * DISK_BLOCK_BYTES - offset : 0;
        file->blocks[i] = 1;
        file->block_count++;
        disk->used_blocks++;
    }
    return len;
}

void file_release(struct inode *file)
{
    if (!file->used)
        return;
    free(file->cached);
    free(file->durable);
    free(file->pieces);
    free(file->written);
    free(file->stable);
    free(file->blocks);
    free(file->now.entries);
    free(file->kept.entries);
    free(file->ops);
    *file = (struct inode){0};
}
