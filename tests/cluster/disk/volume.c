/* The state behind the file system, and what a cut of the power makes of it. */
#define _GNU_SOURCE
#include "volume.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES 512u

struct loss {
    uint64_t pieces, kept, names, names_kept;
};

static void *grown(void *list, size_t len, size_t item_bytes)
{
    if ((len & (len - 1)) != 0)
        return list;
    void *out = realloc(list, (len == 0 ? 1 : 2 * len) * item_bytes);
    MUST(out != NULL);
    return out;
}

/* --- inodes and names --- */

struct inode *inode_ref(struct inode *inode)
{
    if (inode != NULL)
        inode->refs++;
    return inode;
}

struct inode *inode_new(struct volume *v, mode_t mode)
{
    struct inode *inode = calloc(1, sizeof *inode);
    MUST(inode != NULL);
    inode->mode = mode;
    inode->number = ++v->number;
    clock_gettime(CLOCK_REALTIME, &inode->changed);
    return inode;
}

struct entry *entries_find(struct entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->len; i++) {
        if (strcmp(entries->list[i].name, name) == 0)
            return &entries->list[i];
    }
    return NULL;
}

/* inode NULL: removes the name. */
static void entries_put(struct entries *entries, const char *name, struct inode *inode)
{
    struct entry *entry = entries_find(entries, name);
    if (entry == NULL && inode != NULL) {
        entries->list = grown(entries->list, entries->len, sizeof *entries->list);
        entry = &entries->list[entries->len++];
        *entry = (struct entry){.name = strdup(name)};
        MUST(entry->name != NULL);
    }
    if (entry == NULL)
        return;
    struct inode *old = entry->inode;
    entry->inode = inode_ref(inode);
    if (inode == NULL) {
        free(entry->name);
        *entry = entries->list[--entries->len];
    }
    inode_unref(old);
}

static void entries_clear(struct entries *entries)
{
    while (entries->len > 0)
        entries_put(entries, entries->list[entries->len - 1].name, NULL);
    free(entries->list);
    *entries = (struct entries){0};
}

void dir_settle(struct inode *dir, size_t count)
{
    for (size_t i = 0; i < dir->changes_len; i++) {
        struct entry *entry = &dir->changes[i].entry;
        if (i < count)
            entries_put(&dir->synced, entry->name, entry->inode);
        inode_unref(entry->inode);
        free(entry->name);
    }
    free(dir->changes);
    dir->changes = NULL;
    dir->changes_len = 0;
}

void dir_change(struct volume *v, struct inode *dir, const char *name, struct inode *inode)
{
    dir->changes = grown(dir->changes, dir->changes_len, sizeof *dir->changes);
    dir->changes[dir->changes_len++] =
        (struct change){.operation = v->operation, .entry = {strdup(name), inode_ref(inode)}};
    entries_put(&dir->live, name, inode);
    clock_gettime(CLOCK_REALTIME, &dir->changed);
}

void inode_unref(struct inode *inode)
{
    if (inode == NULL || --inode->refs > 0)
        return;
    dir_settle(inode, 0);
    entries_clear(&inode->live);
    entries_clear(&inode->synced);
    for (size_t i = 0; i < inode->pages_len; i++) {
        if (inode->pages[i].synced != inode->pages[i].live)
            free(inode->pages[i].synced);
        free(inode->pages[i].live);
    }
    free(inode->pages);
    free(inode->dirty);
    free(inode);
}

/* The inode of a path; with ret_name its directory instead, and the last name. NULL: there is none.
 */
struct inode *volume_lookup(struct volume *v, const char *path, const char **ret_name)
{
    struct inode *at = v->root;
    while (at != NULL && *path == '/' && path[1] != '\0') {
        const char *name = path + 1, *end = strchrnul(name, '/');
        if (ret_name != NULL && *end == '\0') {
            *ret_name = name;
            return S_ISDIR(at->mode) ? at : NULL;
        }
        char *copy = strndup(name, (size_t)(end - name));
        MUST(copy != NULL);
        struct entry *entry = entries_find(&at->live, copy);
        free(copy);
        at = entry != NULL ? entry->inode : NULL;
        path = end;
    }
    return at;
}

/* --- bytes --- */

static struct page *page_of(struct inode *inode, size_t index)
{
    if (index >= inode->pages_len) {
        size_t len = index + 1 > 2 * inode->pages_len ? index + 1 : 2 * inode->pages_len;
        inode->pages = realloc(inode->pages, len * sizeof *inode->pages);
        MUST(inode->pages != NULL);
        memset(inode->pages + inode->pages_len, 0, (len - inode->pages_len) * sizeof *inode->pages);
        inode->pages_len = len;
    }
    return &inode->pages[index];
}

static void mark_dirty(struct inode *inode, size_t index)
{
    struct page *page = page_of(inode, index);
    if (page->dirty)
        return;
    page->dirty = true;
    if (inode->dirty_len == inode->dirty_cap) {
        inode->dirty_cap = inode->dirty_cap == 0 ? 16 : 2 * inode->dirty_cap;
        inode->dirty = realloc(inode->dirty, inode->dirty_cap * sizeof *inode->dirty);
        MUST(inode->dirty != NULL);
    }
    inode->dirty[inode->dirty_len++] = index;
}

uint8_t *file_writable(struct inode *inode, size_t index)
{
    struct page *page = page_of(inode, index);
    mark_dirty(inode, index);
    if (page->live == NULL || page->live == page->synced) {
        uint8_t *copy = calloc(1, PAGE_BYTES);
        MUST(copy != NULL);
        if (page->live != NULL)
            memcpy(copy, page->live, PAGE_BYTES);
        page->live = copy;
    }
    return page->live;
}

void file_resize(struct inode *inode, uint64_t size)
{
    size_t whole = (size_t)((size + PAGE_BYTES - 1) / PAGE_BYTES);
    for (size_t i = whole; size < inode->size && i < inode->pages_len; i++) {
        struct page *page = &inode->pages[i];
        if (page->live == NULL)
            continue;
        mark_dirty(inode, i);
        if (page->live != page->synced)
            free(page->live);
        page->live = NULL;
    }
    size_t last = (size_t)(size / PAGE_BYTES), rest = (size_t)(size % PAGE_BYTES);
    if (size < inode->size && rest != 0 && last < inode->pages_len &&
        inode->pages[last].live != NULL)
        memset(file_writable(inode, last) + rest, 0, PAGE_BYTES - rest);
    inode->size = size;
}

void file_sync(struct inode *inode)
{
    for (size_t i = 0; i < inode->dirty_len; i++) {
        struct page *page = &inode->pages[inode->dirty[i]];
        if (page->synced != page->live)
            free(page->synced);
        page->synced = page->live;
        page->dirty = false;
    }
    inode->dirty_len = 0;
    inode->synced_size = inode->size;
}

/* --- the cut --- */

static uint64_t next_random(struct volume *v)
{
    uint64_t z = v->random += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Some pieces of what was written last may have reached the disk, in any order. */
static void cut_file(struct volume *v, struct inode *inode, bool all, struct loss *loss)
{
    static const uint8_t zeros[PAGE_BYTES];
    uint64_t size = inode->synced_size, part = next_random(v) % 4; /* of four, kept */
    if (!all && next_random(v) % 2 != 0)
        size = inode->size;
    for (size_t i = 0; i < inode->dirty_len; i++) {
        size_t index = inode->dirty[i];
        struct page *page = &inode->pages[index];
        uint8_t *synced = page->synced;
        if (synced == page->live) /* both are NULL: zeros again */
            continue;
        uint8_t *live = file_writable(inode, index);
        const uint8_t *old = synced != NULL ? synced : zeros;
        for (size_t at = 0; at < PAGE_BYTES; at += PIECE_BYTES) {
            if (memcmp(live + at, old + at, PIECE_BYTES) == 0)
                continue;
            bool keep = !all && next_random(v) % 4 < part;
            loss->pieces++;
            loss->kept += keep;
            if (!keep)
                memcpy(live + at, old + at, PIECE_BYTES);
        }
    }
    inode->size = size < inode->size ? inode->size : size;
    file_resize(inode, size);
    file_sync(inode);
}

/* Changes of names last in their order: a journal keeps the first ones. */
static void cut_dir(struct volume *v, struct inode *dir, bool all, struct loss *loss)
{
    size_t keep = all ? 0 : (size_t)(next_random(v) % (dir->changes_len + 1));
    while (keep > 0 && keep < dir->changes_len &&
           dir->changes[keep].operation == dir->changes[keep - 1].operation)
        keep--;
    loss->names += dir->changes_len;
    loss->names_kept += keep;
    dir_settle(dir, keep);
    entries_clear(&dir->live);
    for (size_t i = 0; i < dir->synced.len; i++) {
        entries_put(&dir->live, dir->synced.list[i].name, dir->synced.list[i].inode);
        struct inode *inode = dir->synced.list[i].inode;
        if (S_ISDIR(inode->mode))
            cut_dir(v, inode, all, loss);
        else
            cut_file(v, inode, all, loss);
    }
}

static void count_unsynced(struct inode *dir, struct loss *loss)
{
    loss->names += dir->changes_len;
    for (size_t i = 0; i < dir->live.len; i++) {
        struct inode *inode = dir->live.list[i].inode;
        loss->pieces += inode->dirty_len;
        if (S_ISDIR(inode->mode))
            count_unsynced(inode, loss);
    }
}

void volume_wipe(struct volume *v)
{
    struct inode *old = v->root;
    v->root = inode_ref(inode_new(v, S_IFDIR | 0755));
    inode_unref(old);
}

void volume_obey(struct volume *v, const char *line)
{
    struct loss loss = {0};
    unsigned long number = 0;
    pthread_mutex_lock(&v->mutex);
    if (sscanf(line, "cut %lu", &number) == 1) {
        v->random = number;
        cut_dir(v, v->root, number == 0, &loss);
    } else if (strcmp(line, "wipe\n") == 0) {
        volume_wipe(v);
    } else if (sscanf(line, "lie %lu", &number) == 1) {
        v->lies = number != 0;
    } else if (sscanf(line, "slow %lu", &number) == 1) {
        v->slow_ms = (unsigned)number;
    } else {
        count_unsynced(v->root, &loss);
    }
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", loss.pieces, loss.kept,
           loss.names, loss.names_kept, v->syncs);
    fflush(stdout);
    pthread_mutex_unlock(&v->mutex);
}
