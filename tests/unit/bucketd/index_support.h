/* For tests of index files: a small disk in memory that notices what must be synced and can fail at a chosen call, and
 * signing, which makes changed files pass their CRCs. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/index.h"
#include "bucketd/core/index_format.h"
#include "common/assert.h"

#define TINY_FILES 12

struct tiny_file {
    char path[128]; /* empty: unused */
    uint8_t *bytes;
    size_t len;
    bool synced;
};

struct tiny_disk {
    struct disk disk;
    struct tiny_file files[TINY_FILES];
    int open, mapped;        /* now */
    bool dir_dirty;          /* a rename isn't durable yet */
    bool renamed_unsynced;   /* a file got its name before its bytes were durable */
    int calls, fail_at;      /* the fail_at-th changing call fails; 0 = never */
    enum err fail_with;
};

struct file {
    struct tiny_file *of;
};

static struct tiny_file *tiny_find(struct tiny_disk *disk, const char *path)
{
    for (int i = 0; i < TINY_FILES; i++) {
        if (disk->files[i].path[0] != '\0' && strcmp(disk->files[i].path, path) == 0)
            return &disk->files[i];
    }
    return NULL;
}

static bool tiny_fails(struct tiny_disk *disk)
{
    return ++disk->calls == disk->fail_at;
}

static enum err tiny_open(struct disk *base, const char *path, enum open_mode mode, struct file **ret_file)
{
    struct tiny_disk *disk = (struct tiny_disk *)base;
    struct tiny_file *found = tiny_find(disk, path);
    if (mode == OPEN_CREATE) {
        if (tiny_fails(disk))
            return disk->fail_with;
        if (found != NULL)
            return ERR_EXISTS;
        for (int i = 0; i < TINY_FILES && found == NULL; i++) {
            if (disk->files[i].path[0] == '\0')
                found = &disk->files[i];
        }
        ASSERT(found != NULL);
        *found = (struct tiny_file){0};
        snprintf(found->path, sizeof found->path, "%s", path);
    }
    if (found == NULL)
        return ERR_NOTFOUND;
    *ret_file = malloc(sizeof **ret_file);
    ASSERT(*ret_file != NULL);
    (*ret_file)->of = found;
    disk->open++;
    return ERR_OK;
}

static void tiny_close(struct disk *base, struct file *file)
{
    ((struct tiny_disk *)base)->open--;
    free(file);
}

static enum err tiny_pwrite(struct disk *base, struct file *file, uint64_t offset, const void *from, size_t len)
{
    if (tiny_fails((struct tiny_disk *)base))
        return ((struct tiny_disk *)base)->fail_with;
    struct tiny_file *of = file->of;
    if (offset + len > of->len) {
        of->bytes = realloc(of->bytes, offset + len);
        ASSERT(of->bytes != NULL);
        memset(of->bytes + of->len, 0, offset + len - of->len);
        of->len = offset + len;
    }
    memcpy(of->bytes + offset, from, len);
    of->synced = false;
    return ERR_OK;
}

static enum err tiny_sync(struct disk *base, struct file *file)
{
    if (tiny_fails((struct tiny_disk *)base))
        return ((struct tiny_disk *)base)->fail_with;
    file->of->synced = true;
    return ERR_OK;
}

static enum err tiny_size(struct disk *base, struct file *file, uint64_t *ret_size)
{
    (void)base;
    *ret_size = file->of->len;
    return ERR_OK;
}

/* A copy, of exactly the file's size: the address sanitizer sees every read beyond it. */
static enum err tiny_map(struct disk *base, struct file *file, struct span *ret_view)
{
    ASSERT(file->of->len > 0);
    uint8_t *copy = malloc(file->of->len);
    ASSERT(copy != NULL);
    memcpy(copy, file->of->bytes, file->of->len);
    *ret_view = span_of(copy, file->of->len);
    ((struct tiny_disk *)base)->mapped++;
    return ERR_OK;
}

static void tiny_unmap(struct disk *base, struct span view)
{
    ((struct tiny_disk *)base)->mapped--;
    free((void *)(uintptr_t)view.ptr);
}

static void tiny_drop(struct tiny_file *file)
{
    free(file->bytes);
    *file = (struct tiny_file){0};
}

static enum err tiny_rename(struct disk *base, const char *from, const char *to)
{
    struct tiny_disk *disk = (struct tiny_disk *)base;
    if (tiny_fails(disk))
        return disk->fail_with;
    struct tiny_file *source = tiny_find(disk, from), *target = tiny_find(disk, to);
    if (source == NULL)
        return ERR_NOTFOUND;
    if (target != NULL)
        tiny_drop(target);
    snprintf(source->path, sizeof source->path, "%s", to);
    disk->dir_dirty = true;
    disk->renamed_unsynced |= !source->synced;
    return ERR_OK;
}

static enum err tiny_unlink(struct disk *base, const char *path)
{
    struct tiny_file *file = tiny_find((struct tiny_disk *)base, path);
    if (file == NULL)
        return ERR_NOTFOUND;
    tiny_drop(file);
    return ERR_OK;
}

static enum err tiny_sync_dir(struct disk *base, const char *path)
{
    (void)path;
    if (tiny_fails((struct tiny_disk *)base))
        return ((struct tiny_disk *)base)->fail_with;
    ((struct tiny_disk *)base)->dir_dirty = false;
    return ERR_OK;
}

static const struct disk_ops tiny_ops = {
    .open = tiny_open, .close = tiny_close, .pwrite = tiny_pwrite, .sync = tiny_sync, .size = tiny_size,
    .map = tiny_map, .unmap = tiny_unmap, .rename = tiny_rename, .unlink = tiny_unlink, .sync_dir = tiny_sync_dir,
};

static void tiny_init(struct tiny_disk *disk)
{
    *disk = (struct tiny_disk){.disk.ops = &tiny_ops, .fail_with = ERR_IO};
}

static void tiny_release(struct tiny_disk *disk)
{
    ASSERT(disk->open == 0 && disk->mapped == 0);
    for (int i = 0; i < TINY_FILES; i++)
        tiny_drop(&disk->files[i]);
}

static struct tiny_file *tiny_index_file(struct tiny_disk *disk, const char *dir, enum index_kind kind)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, index_file_names[kind]);
    struct tiny_file *file = tiny_find(disk, path);
    ASSERT(file != NULL);
    return file;
}

/* Makes all CRCs of a file right again, as far as its header and size allow. */
static void sign_index_file(uint8_t *bytes, size_t len, enum index_kind kind)
{
    struct index_header header;
    struct index_layout layout;
    if (len < INDEX_PAGE)
        return;
    memcpy(&header, bytes, sizeof header);
    const struct format_salt salt = {header.cluster_id, header.bucket, header.segment, 0};
    if (index_layout(&header, kind, &layout) && layout.file_bytes == len) {
        for (uint64_t page = 1; page < layout.pages; page++)
            store_u32(bytes + layout.page_crcs + page * sizeof(uint32_t),
                      index_page_crc(&salt, kind, page, bytes + page * INDEX_PAGE));
        header.pages_crc =
            index_pages_crc(&salt, kind, span_of(bytes + layout.page_crcs, layout.pages * sizeof(uint32_t)));
        memcpy(bytes, &header, sizeof header);
    }
    header.crc = index_header_crc(&salt, kind, bytes);
    memcpy(bytes, &header, sizeof header);
}
