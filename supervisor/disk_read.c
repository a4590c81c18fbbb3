/* A read-only disk for the operator's commands. Operations that would change something fail. */
#include "supervisor/disk_read.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/buf.h"

struct disk_read {
    struct disk disk; /* first */
    const char *root;
    const char *one_name, *one_file;
};

struct file {
    int fd;
};

static const struct disk_ops read_ops;

struct disk *disk_read_open(const char *root)
{
    struct disk_read *read = calloc(1, sizeof *read);
    ASSERT(read != NULL);
    read->disk.ops = &read_ops;
    read->root = root;
    return &read->disk;
}

struct disk *disk_read_open_one(const char *name, const char *file)
{
    struct disk *disk = disk_read_open(".");
    ((struct disk_read *)disk)->one_name = name;
    ((struct disk_read *)disk)->one_file = file;
    return disk;
}

void disk_read_close(struct disk *disk)
{
    free(disk);
}

/* The path in the file system; NULL: not on this disk. */
static const char *full_path(struct disk *disk, const char *path, struct buf *text)
{
    const struct disk_read *read = (struct disk_read *)disk;
    if (read->one_name != NULL)
        return strcmp(path, read->one_name) == 0 ? read->one_file : NULL;
    buf_printf(text, "%s/%s", read->root, path);
    buf_append(text, "", 1);
    return (const char *)text->ptr;
}

static enum err read_open(struct disk *disk, const char *path, enum open_mode mode,
                          struct file **ret_file)
{
    if (mode != OPEN_READ)
        return ERR_IO;
    struct buf text = {0};
    const char *full = full_path(disk, path, &text);
    int fd = full == NULL ? -1 : open(full, O_RDONLY | O_CLOEXEC);
    bool missing = full == NULL || (fd < 0 && errno == ENOENT);
    if (fd < 0 && !missing)
        fprintf(stderr, "%s: %s\n", full, strerror(errno));
    buf_release(&text);
    if (fd < 0)
        return missing ? ERR_NOTFOUND : ERR_IO;
    struct file *file = calloc(1, sizeof *file);
    ASSERT(file != NULL);
    file->fd = fd;
    *ret_file = file;
    return ERR_OK;
}

static void read_close(struct disk *disk, struct file *file)
{
    (void)disk;
    close(file->fd);
    free(file);
}

static enum err read_pread(struct disk *disk, struct file *file, uint64_t offset, void *to,
                           size_t len, size_t *ret_len)
{
    (void)disk;
    size_t got = 0;
    while (got < len) {
        ssize_t n = pread(file->fd, (uint8_t *)to + got, len - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            fprintf(stderr, "read at %llu: %s\n", (unsigned long long)(offset + got),
                    strerror(errno));
            return ERR_IO;
        }
        if (n == 0)
            break;
        got += (size_t)n;
    }
    *ret_len = got;
    return ERR_OK;
}

static enum err read_size(struct disk *disk, struct file *file, uint64_t *ret_size)
{
    (void)disk;
    struct stat stat;
    if (fstat(file->fd, &stat) != 0)
        return ERR_IO;
    *ret_size = (uint64_t)stat.st_size;
    return ERR_OK;
}

static enum err read_map(struct disk *disk, struct file *file, struct span *ret_view)
{
    uint64_t size = 0;
    enum err err = read_size(disk, file, &size);
    if (err != ERR_OK || size == 0) {
        *ret_view = (struct span){0};
        return err;
    }
    void *view = mmap(NULL, size, PROT_READ, MAP_SHARED, file->fd, 0);
    if (view == MAP_FAILED)
        return ERR_IO;
    *ret_view = span_of(view, size);
    return ERR_OK;
}

static void read_unmap(struct disk *disk, struct span view)
{
    (void)disk;
    if (view.len > 0)
        munmap((void *)(uintptr_t)view.ptr, view.len);
}

static enum err read_list(struct disk *disk, const char *path,
                          void (*each)(void *ctx, const char *name), void *ctx)
{
    struct buf text = {0};
    const char *full = full_path(disk, path, &text);
    struct dirent **names = NULL;
    int count = full == NULL ? -1 : scandir(full, &names, NULL, alphasort);
    enum err err = count >= 0 ? ERR_OK : errno == ENOENT ? ERR_NOTFOUND : ERR_IO;
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i]->d_name, ".") != 0 && strcmp(names[i]->d_name, "..") != 0)
            each(ctx, names[i]->d_name);
        free(names[i]);
    }
    free(names);
    buf_release(&text);
    return err;
}

/* --- what a read-only disk refuses --- */

static enum err refuse_pwrite(struct disk *disk, struct file *file, uint64_t offset,
                              const void *from, size_t len)
{
    (void)disk, (void)file, (void)offset, (void)from, (void)len;
    return ERR_IO;
}

static enum err refuse_file(struct disk *disk, struct file *file)
{
    (void)disk, (void)file;
    return ERR_IO;
}

static enum err refuse_allocate(struct disk *disk, struct file *file, uint64_t offset, uint64_t len)
{
    (void)disk, (void)file, (void)offset, (void)len;
    return ERR_IO;
}

static enum err refuse_truncate(struct disk *disk, struct file *file, uint64_t size)
{
    (void)disk, (void)file, (void)size;
    return ERR_IO;
}

static enum err refuse_rename(struct disk *disk, const char *from, const char *to)
{
    (void)disk, (void)from, (void)to;
    return ERR_IO;
}

static enum err refuse_path(struct disk *disk, const char *path)
{
    (void)disk, (void)path;
    return ERR_IO;
}

static const struct disk_ops read_ops = {
    .open = read_open,
    .close = read_close,
    .pread = read_pread,
    .pwrite = refuse_pwrite,
    .sync = refuse_file,
    .allocate = refuse_allocate,
    .size = read_size,
    .truncate = refuse_truncate,
    .map = read_map,
    .unmap = read_unmap,
    .rename = refuse_rename,
    .unlink = refuse_path,
    .mkdir = refuse_path,
    .sync_dir = refuse_path,
    .list = read_list,
};
