/* Files, directories and names in memory, and what of them was synced (power_disk.c). All of it
 * belongs to whoever holds the volume's mutex. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#define PAGE_BYTES 4096u
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "power_disk: line %d: %s\n", __LINE__, #condition);                    \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* NULL: zeros. While nothing is dirty both are the same. */
struct page {
    uint8_t *live, *synced;
    bool dirty;
};

struct entry {
    char *name;
    struct inode *inode;
};

struct entries {
    struct entry *list;
    size_t len;
};

/* A name's new inode, NULL where it went. Changes of one operation have its number. */
struct change {
    uint64_t operation;
    struct entry entry;
};

/* Referred to by names, live and synced, by changes and by open files. */
struct inode {
    mode_t mode;
    uint64_t number;
    unsigned refs;
    struct timespec changed;
    /* of a file */
    struct page *pages;
    size_t pages_len, dirty_len, dirty_cap;
    size_t *dirty; /* pages, each once */
    uint64_t size, synced_size;
    /* of a directory */
    struct entries live, synced;
    struct change *changes; /* since its last sync */
    size_t changes_len;
};

struct volume {
    pthread_mutex_t mutex;
    struct inode *root;
    uint64_t number, operation, random, syncs;
    bool lies;
    unsigned slow_ms;
};

struct inode *inode_new(struct volume *v, mode_t mode);
struct inode *inode_ref(struct inode *inode);
void inode_unref(struct inode *inode);

/* The inode of a path; with ret_name its directory instead, and the last name. NULL: there is none.
 */
struct inode *volume_lookup(struct volume *v, const char *path, const char **ret_name);

/* NULL: there is no such name. */
struct entry *entries_find(struct entries *entries, const char *name);

/* The name is this inode's from now on, and nobody's where it is NULL; lasting with the next
 * dir_settle. */
void dir_change(struct volume *v, struct inode *dir, const char *name, struct inode *inode);

/* The first `count` changes become lasting, the others are forgotten. */
void dir_settle(struct inode *dir, size_t count);

/* A page's live bytes, apart from the synced ones. */
uint8_t *file_writable(struct inode *inode, size_t index);

/* Bytes behind the end are zero when the file grows again. */
void file_resize(struct inode *inode, uint64_t size);

void file_sync(struct inode *inode);

/* Empty, for ever. */
void volume_wipe(struct volume *v);

/* A command, answered on standard output: pieces that weren't synced, how many of them were kept,
 * the same of changes of names, syncs since the start. Takes the mutex itself. */
void volume_obey(struct volume *v, const char *line);
