/* What disk.c (the interface) and disk_tree.c (files, directories, power cuts) share. */
#pragma once

#include "common/assert.h"
#include "tests/sim/disk.h"

#define NO_INODE UINT32_MAX

enum { PIECE_CLEAN, PIECE_DIRTY, PIECE_SYNCING };

struct dir_entry {
    char name[DISK_NAME_MAX];
    uint32_t inode;
};

/* Sorted by name. */
struct dir_list {
    struct dir_entry *entries;
    unsigned count, cap;
};

enum dir_change { DIR_LINK, DIR_UNLINK, DIR_RENAME, DIR_PLACE /* from another directory */ };

struct dir_op {
    enum dir_change change;
    char name[DISK_NAME_MAX], to[DISK_NAME_MAX];
    uint32_t inode;
};

struct inode {
    bool used, is_dir;
    unsigned handles;
    /* A file: what reads see, what is durable (equal length of memory), a state for each piece,
     * whether a block exists. */
    uint8_t *cached, *durable, *pieces, *blocks;
    uint64_t size, durable_size, cap;
    /* For each piece a count of its writes, as it reads and as it is durable: a sync that takes
     * long doesn't put old bytes over those of a later one. */
    uint32_t *written, *stable;
    uint32_t size_written, size_stable; /* the same for the size */
    unsigned block_count;
    uint64_t sync_errors;
    /* A directory: as it is, as it is durable, and what lies between. */
    struct dir_list now, kept;
    struct dir_op *ops;
    unsigned op_count;
};

struct sim_disk {
    struct disk base;
    struct disk_hooks hooks;
    struct trace *trace;
    char name[16];
    struct inode *inodes; /* [0] is the root */
    uint32_t inode_count, inode_cap;
    uint64_t capacity_blocks, used_blocks;
    unsigned handles;
    bool sync_lies, cut_takes_durable;
};

extern const struct disk_ops sim_disk_ops;

/* The inode of a path; NO_INODE. ret_dir and ret_name (may be NULL): its directory, which must
 * exist, and last name. */
uint32_t tree_find(struct sim_disk *disk, const char *path, uint32_t *ret_dir,
                   const char **ret_name);
uint32_t tree_new_inode(struct sim_disk *disk, bool is_dir);
struct dir_entry *dir_find(const struct dir_list *list, const char *name);
/* Changes a directory as it is, and remembers the change until the next sync_dir. */
void tree_change(struct sim_disk *disk, uint32_t dir, enum dir_change change, const char *name,
                 const char *to, uint32_t inode);
void tree_sync_dir(struct inode *dir);
/* Room in memory for `size` bytes. */
void file_reserve(struct inode *file, uint64_t size);
void file_mark(struct inode *file, uint64_t offset, uint64_t len, uint8_t state);
void file_set_size(struct sim_disk *disk, struct inode *file, uint64_t size);
/* Takes the blocks of [offset, offset + len): how many bytes of it have blocks (len unless the
 * disk is full). */
uint64_t file_take_blocks(struct sim_disk *disk, struct inode *file, uint64_t offset, uint64_t len);
void file_release(struct inode *file);
