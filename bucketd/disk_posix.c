/* POSIX files behind struct disk: openat below the bucket's directory, whole reads and writes,
 * errors logged once where errno is known. Has no state but the directory's descriptor, so any
 * thread may use it. */
#include "bucketd/disk_posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/assert.h"

#define LOCK_WAIT_MS_MAX 5000
#define ZERO_BYTES       (64u << 10)
#define ASIDE_DIR        "damaged"

struct disk_posix {
    struct disk disk; /* first: the core knows only this */
    int dir;
    char *path;
    const struct log *log;
};

struct file {
    int fd;
    char *path; /* for the log */
};

static const struct disk_ops posix_ops;

static bool make_dirs(const char *path, const struct log *log);
static int compare_names(const void *a, const void *b);

static struct disk_posix *posix_of(struct disk *disk)
{
    return (struct disk_posix *)disk;
}

struct disk *disk_posix_open(const char *bucket_dir, const struct log *log)
{
    if (!make_dirs(bucket_dir, log))
        return NULL;
    int dir = open(bucket_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) {
        log_error(log, "disk.open_failed", "path=\"%s\" error=\"%s\"", bucket_dir, strerror(errno));
        return NULL;
    }
    for (unsigned waited_ms = 0; flock(dir, LOCK_EX | LOCK_NB) != 0; waited_ms += 10) {
        if (waited_ms >= LOCK_WAIT_MS_MAX || (errno != EWOULDBLOCK && errno != EINTR)) {
            log_error(log, "disk.lock_failed", "path=\"%s\" error=\"%s\"", bucket_dir,
                      strerror(errno));
            close(dir);
            return NULL;
        }
        usleep(10000);
    }
    struct disk_posix *posix = calloc(1, sizeof *posix);
    ASSERT(posix != NULL);
    posix->disk.ops = &posix_ops;
    posix->dir = dir;
    posix->path = strdup(bucket_dir);
    posix->log = log;
    ASSERT(posix->path != NULL);
    return &posix->disk;
}

void disk_posix_close(struct disk *disk)
{
    struct disk_posix *posix = posix_of(disk);
    close(posix->dir);
    free(posix->path);
    free(posix);
}

/* Makes each directory of the path that doesn't exist and syncs the one that holds it. */
static bool make_dirs(const char *path, const struct log *log)
{
    char *copy = strdup(path);
    ASSERT(copy != NULL);
    bool made = true;
    for (char *end = copy; made && *end != '\0';) {
        end = strchrnul(end + 1, '/');
        char saved = *end;
        *end = '\0';
        if (mkdir(copy, 0755) == 0) {
            char *slash = strrchr(copy, '/');
            char held = slash[1];
            slash[1] = '\0'; /* "/a/b" -> "/a/" */
            int parent = open(copy, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            made = parent >= 0 && fsync(parent) == 0;
            if (parent >= 0)
                close(parent);
            slash[1] = held;
        } else {
            made = errno == EEXIST;
        }
        if (!made)
            log_error(log, "disk.mkdir_failed", "path=\"%s\" error=\"%s\"", copy, strerror(errno));
        *end = saved;
    }
    free(copy);
    return made;
}

/* --- Errors --- */

/* Of errno. Full disks and missing or present files are ordinary news; the rest is logged. */
static enum err error_of(struct disk *disk, const char *operation, const char *path)
{
    int number = errno;
    if (number == ENOSPC || number == EDQUOT || number == EFBIG)
        return ERR_FULL;
    if (number == ENOENT)
        return ERR_NOTFOUND;
    if (number == EEXIST)
        return ERR_EXISTS;
    const struct disk_posix *posix = posix_of(disk);
    log_error(posix->log, "disk.error", "operation=%s path=\"%s/%s\" errno=%d error=\"%s\"",
              operation, posix->path, path, number, strerror(number));
    return ERR_IO;
}

static enum err result_of(struct disk *disk, int result, const char *operation, const char *path)
{
    return result == 0 ? ERR_OK : error_of(disk, operation, path);
}

/* --- Files --- */

static enum err posix_open(struct disk *disk, const char *path, enum open_mode mode,
                           struct file **ret_file)
{
    static const int flags[] = {
        [OPEN_READ] = O_RDONLY, [OPEN_WRITE] = O_RDWR, [OPEN_CREATE] = O_RDWR | O_CREAT | O_EXCL};
    int fd;
    do
        fd = openat(posix_of(disk)->dir, path, flags[mode] | O_CLOEXEC, 0644);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return error_of(disk, "open", path);
    struct file *file = malloc(sizeof *file);
    ASSERT(file != NULL);
    file->fd = fd;
    file->path = strdup(path);
    ASSERT(file->path != NULL);
    *ret_file = file;
    return ERR_OK;
}

static void posix_close(struct disk *disk, struct file *file)
{
    (void)disk;
    close(file->fd);
    free(file->path);
    free(file);
}

static enum err posix_pread(struct disk *disk, struct file *file, uint64_t offset, void *to,
                            size_t len, size_t *ret_len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t got = pread(file->fd, (char *)to + done, len - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_of(disk, "read", file->path);
        if (got == 0)
            break;
        done += (size_t)got;
    }
    *ret_len = done;
    return ERR_OK;
}

static enum err posix_pwrite(struct disk *disk, struct file *file, uint64_t offset,
                             const void *from, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t put =
            pwrite(file->fd, (const char *)from + done, len - done, (off_t)(offset + done));
        if (put < 0 && errno == EINTR)
            continue;
        if (put == 0)
            errno = EIO;
        if (put <= 0)
            return error_of(disk, "write", file->path);
        done += (size_t)put;
    }
    return ERR_OK;
}

static enum err posix_sync(struct disk *disk, struct file *file)
{
    int result;
    do
        result = fdatasync(file->fd);
    while (result != 0 && errno == EINTR);
    return result_of(disk, result, "fdatasync", file->path);
}

/* File systems without fallocate get zeros written, but only where the file doesn't reach yet:
 * what is there may be data. */
static enum err allocate_by_writing(struct disk *disk, struct file *file, uint64_t offset,
                                    uint64_t len)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0)
        return error_of(disk, "stat", file->path);
    uint64_t end = offset + len;
    uint64_t at = max_u64(offset, (uint64_t)info.st_size);
    void *zeros = calloc(1, ZERO_BYTES);
    ASSERT(zeros != NULL);
    enum err err = ERR_OK;
    while (err == ERR_OK && at < end) {
        uint64_t step = min_u64(end - at, ZERO_BYTES);
        err = posix_pwrite(disk, file, at, zeros, (size_t)step);
        at += step;
    }
    free(zeros);
    return err;
}

static enum err posix_allocate(struct disk *disk, struct file *file, uint64_t offset, uint64_t len)
{
    int result;
    do
        result = fallocate(file->fd, 0, (off_t)offset, (off_t)len);
    while (result != 0 && errno == EINTR);
    if (result != 0 && errno == EOPNOTSUPP)
        return allocate_by_writing(disk, file, offset, len);
    return result_of(disk, result, "fallocate", file->path);
}

static enum err posix_size(struct disk *disk, struct file *file, uint64_t *ret_size)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0)
        return error_of(disk, "stat", file->path);
    *ret_size = (uint64_t)info.st_size;
    return ERR_OK;
}

static enum err posix_truncate(struct disk *disk, struct file *file, uint64_t size)
{
    int result;
    do
        result = ftruncate(file->fd, (off_t)size);
    while (result != 0 && errno == EINTR);
    return result_of(disk, result, "truncate", file->path);
}

static enum err posix_map(struct disk *disk, struct file *file, struct span *ret_view)
{
    uint64_t size;
    enum err err = posix_size(disk, file, &size);
    if (err != ERR_OK)
        return err;
    if (size == 0) {
        *ret_view = (struct span){0}; /* nothing to map */
        return ERR_OK;
    }
    void *view = mmap(NULL, size, PROT_READ, MAP_SHARED, file->fd, 0);
    if (view == MAP_FAILED)
        return error_of(disk, "mmap", file->path);
    *ret_view = span_of(view, size);
    return ERR_OK;
}

static void posix_unmap(struct disk *disk, struct span view)
{
    (void)disk;
    if (view.len > 0)
        munmap((void *)(uintptr_t)view.ptr, view.len);
}

/* --- Directories --- */

static enum err posix_rename(struct disk *disk, const char *from, const char *to)
{
    int dir = posix_of(disk)->dir;
    return result_of(disk, renameat(dir, from, dir, to), "rename", from);
}

enum err disk_posix_set_aside(struct disk *disk)
{
    const struct disk_posix *posix = posix_of(disk);
    if (disk_posix_has_aside(disk))
        return ERR_EXISTS;
    enum err err = posix_rename(disk, "segments", ASIDE_DIR);
    return err == ERR_OK ? result_of(disk, fsync(posix->dir), "fsync", ASIDE_DIR) : err;
}

bool disk_posix_has_aside(struct disk *disk)
{
    struct stat status;
    return fstatat(posix_of(disk)->dir, ASIDE_DIR, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

static enum err posix_unlink(struct disk *disk, const char *path)
{
    int dir = posix_of(disk)->dir;
    if (unlinkat(dir, path, 0) == 0)
        return ERR_OK;
    if (errno != EISDIR && errno != EPERM)
        return error_of(disk, "unlink", path);
    return result_of(disk, unlinkat(dir, path, AT_REMOVEDIR), "rmdir", path);
}

static enum err posix_mkdir(struct disk *disk, const char *path)
{
    if (mkdirat(posix_of(disk)->dir, path, 0755) == 0 || errno == EEXIST)
        return ERR_OK;
    return error_of(disk, "mkdir", path);
}

static int open_dir(struct disk *disk, const char *path)
{
    return openat(posix_of(disk)->dir, path[0] != '\0' ? path : ".",
                  O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static enum err posix_sync_dir(struct disk *disk, const char *path)
{
    int fd = open_dir(disk, path);
    if (fd < 0)
        return error_of(disk, "open", path);
    enum err err = result_of(disk, fsync(fd), "fsync", path);
    close(fd);
    return err;
}

static enum err posix_list(struct disk *disk, const char *path,
                           void (*each)(void *ctx, const char *name), void *ctx)
{
    int fd = open_dir(disk, path);
    if (fd < 0)
        return error_of(disk, "open", path);
    DIR *dir = fdopendir(fd);
    ASSERT(dir != NULL);
    char **names = NULL;
    size_t count = 0;
    struct dirent *entry;
    errno = 0;
    while ((entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if ((count & (count - 1)) == 0) {
            names = reallocarray(names, count == 0 ? 1 : 2 * count, sizeof *names);
            ASSERT(names != NULL);
        }
        names[count] = strdup(entry->d_name);
        ASSERT(names[count] != NULL);
        count++;
        errno = 0;
    }
    enum err err = errno == 0 ? ERR_OK : error_of(disk, "readdir", path);
    closedir(dir);
    if (count > 1)
        qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (err == ERR_OK)
            each(ctx, names[i]);
        free(names[i]);
    }
    free(names);
    return err;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static const struct disk_ops posix_ops = {
    .open = posix_open,
    .close = posix_close,
    .pread = posix_pread,
    .pwrite = posix_pwrite,
    .sync = posix_sync,
    .allocate = posix_allocate,
    .size = posix_size,
    .truncate = posix_truncate,
    .map = posix_map,
    .unmap = posix_unmap,
    .rename = posix_rename,
    .unlink = posix_unlink,
    .mkdir = posix_mkdir,
    .sync_dir = posix_sync_dir,
    .list = posix_list,
};
