/* Locks, the run directory and numbers of the data directory. */
#include "supervisor/datadir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/limits.h"

/* Numbers are reserved on disk in steps: one sync for so many. */
#define NUMBER_STEP 100u
/* Whoever reads JSON can hold them. In microseconds it is the year 2255. */
#define NUMBER_MAX (1ull << 53)

struct datadir {
    int lock_fd, run_lock_fd;
    int number_fd;
    uint64_t number, number_reserved;
};

static enum err make_dir(const char *path, mode_t mode, struct buf *error);
static enum err lock_dir(const char *dir, int *ret_fd, struct buf *error);
static enum err check_run_dir(const struct config *config, struct buf *error);
static enum err open_numbers(struct datadir *datadir, const char *dir, struct buf *error);
static bool reserve_numbers(struct datadir *datadir);

static enum err fail(struct buf *error, const char *path, const char *what)
{
    buf_printf(error, "%s: %s: %s\n", path, what, strerror(errno));
    return ERR_IO;
}

enum err datadir_open(const struct config *config, struct datadir **ret_datadir, struct buf *error)
{
    struct datadir *datadir = calloc(1, sizeof *datadir);
    ASSERT(datadir != NULL);
    datadir->lock_fd = datadir->run_lock_fd = datadir->number_fd = -1;
    enum err err = check_run_dir(config, error);
    if (err == ERR_OK)
        err = make_dir(config->dir, 0700, error);
    if (err == ERR_OK)
        err = lock_dir(config->dir, &datadir->lock_fd, error);
    if (err == ERR_OK)
        err = make_dir(config->run_dir, 0700, error);
    if (err == ERR_OK && chmod(config->run_dir, 0700) != 0)
        err = fail(error, config->run_dir, "chmod 0700");
    /* Two nodes may have been given one run directory for two data directories. */
    if (err == ERR_OK)
        err = lock_dir(config->run_dir, &datadir->run_lock_fd, error);
    /* Those of a node that ended without tidying up: the lock is ours, and every path is used by
     * one incarnation only. */
    if (err == ERR_OK)
        datadir_remove_sockets(config->run_dir, "");
    if (err == ERR_OK)
        err = open_numbers(datadir, config->dir, error);
    if (err == ERR_OK)
        *ret_datadir = datadir;
    else
        datadir_close(datadir);
    return err;
}

void datadir_close(struct datadir *datadir)
{
    int fds[] = {datadir->number_fd, datadir->run_lock_fd, datadir->lock_fd};
    for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    free(datadir);
}

static enum err sync_dir(const char *path, struct buf *error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(error, path, "open");
    enum err err = fsync(fd) == 0 ? ERR_OK : fail(error, path, "fsync");
    close(fd);
    return err;
}

/* With its parents. */
static enum err make_dir(const char *path, mode_t mode, struct buf *error)
{
    char *copy = strdup(path);
    ASSERT(copy != NULL && copy[0] == '/');
    enum err err = ERR_OK;
    for (char *end = copy; err == ERR_OK && *end != '\0';) {
        end = strchrnul(end + 1, '/');
        char saved = *end;
        *end = '\0';
        if (mkdir(copy, saved == '\0' ? mode : 0755) == 0) {
            char *slash = strrchr(copy, '/');
            char held = slash[1];
            slash[1] = '\0';
            err = sync_dir(copy, error);
            slash[1] = held;
        } else if (errno != EEXIST) {
            err = fail(error, copy, "can't create directory");
        }
        *end = saved;
    }
    struct stat info;
    if (err == ERR_OK && (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))) {
        buf_printf(error, "%s: expected a directory\n", path);
        err = ERR_IO;
    }
    free(copy);
    return err;
}

/* The lock belongs to the open file and ends with this process, however it ends. */
static enum err lock_dir(const char *dir, int *ret_fd, struct buf *error)
{
    struct buf path = {0};
    buf_printf(&path, "%s/lock", dir);
    buf_append_zeros(&path, 1);
    int fd = open((char *)path.ptr, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    enum err err = ERR_OK;
    if (fd < 0) {
        err = fail(error, (char *)path.ptr, "open");
    } else if (fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        char pid[24] = {0};
        if (pread(fd, pid, sizeof pid - 1, 0) <= 0)
            snprintf(pid, sizeof pid, "unknown");
        pid[strcspn(pid, " \n")] = '\0';
        buf_printf(error, "%s: another sierradb (pid %s) runs on this directory\n", dir, pid);
        close(fd);
        err = ERR_LOCKED;
    } else {
        /* In place, so that it works on a full disk too; where it doesn't, a second node is refused
         * without our pid. */
        char pid[24];
        int len = snprintf(pid, sizeof pid, "%-10d\n", getpid());
        ssize_t written = pwrite(fd, pid, (size_t)len, 0);
        (void)written;
        *ret_fd = fd;
    }
    buf_release(&path);
    return err;
}

/* A socket's path holds 107 bytes. */
static enum err check_run_dir(const struct config *config, struct buf *error)
{
    int bucket = snprintf(NULL, 0, "/netd-b%u.%llu.ipc", config->bucket.count - 1, NUMBER_MAX);
    int netd = snprintf(NULL, 0, "/sup-netd.%llu.ipc", NUMBER_MAX);
    size_t len = strlen(config->run_dir);
    size_t len_max = IPC_PATH_LEN_MAX - (size_t)(bucket > netd ? bucket : netd);
    if (strcmp(config->run_dir, config->dir) == 0) {
        buf_printf(error, "run_dir: expected another directory than dir, got %s\n",
                   config->run_dir);
        return ERR_CONFIG;
    }
    if (len <= len_max)
        return ERR_OK;
    buf_printf(error,
               "run_dir: expected a path of at most %zu bytes (sockets live in it), got %zu: %s\n"
               "Set run_dir to a shorter path, for example /run/sierradb.\n",
               len_max, len, config->run_dir);
    return ERR_CONFIG;
}

void datadir_remove_sockets(const char *run_dir, const char *prefix)
{
    DIR *dir = opendir(run_dir);
    if (dir == NULL)
        return; /* a leftover harms nobody */
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        bool is_socket = dot != NULL && (strcmp(dot, ".ipc") == 0 || strcmp(dot, ".sock") == 0);
        if (is_socket && strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
}

/* --- Numbers --- */

static uint64_t wall_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* <dir>/boot holds the highest reserved number, 20 digits and a newline, rewritten in place: one
 * sector. Numbers go on from the clock where that is ahead, so that they grow also where the
 * directory was lost: other nodes know its last ones. */
static enum err open_numbers(struct datadir *datadir, const char *dir, struct buf *error)
{
    struct buf path = {0};
    buf_printf(&path, "%s/boot", dir);
    buf_append_zeros(&path, 1);
    const char *name = (char *)path.ptr;
    char text[22] = {0};
    enum err err = ERR_OK;
    datadir->number_fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    ssize_t len = datadir->number_fd < 0 ? -1 : pread(datadir->number_fd, text, 21, 0);
    if (len < 0) {
        err = fail(error, name, "open");
    } else if (len > 0) {
        char *end;
        datadir->number = strtoull(text, &end, 10);
        if (len != 21 || end != text + 20 || *end != '\n') {
            buf_printf(error, "%s: expected a number of 20 digits\n", name);
            err = ERR_CORRUPT;
        }
    }
    uint64_t clock = wall_us();
    if (clock > datadir->number && clock < NUMBER_MAX)
        datadir->number = clock;
    datadir->number_reserved = datadir->number;
    if (err == ERR_OK && !reserve_numbers(datadir))
        err = fail(error, name, "write");
    if (err == ERR_OK && len == 0)
        err = sync_dir(dir, error);
    buf_release(&path);
    return err;
}

static bool reserve_numbers(struct datadir *datadir)
{
    char text[22];
    uint64_t upto = datadir->number_reserved + NUMBER_STEP;
    snprintf(text, sizeof text, "%020lu\n", upto);
    if (pwrite(datadir->number_fd, text, 21, 0) != 21 || fdatasync(datadir->number_fd) != 0)
        return false;
    datadir->number_reserved = upto;
    return true;
}

uint64_t datadir_next_number(struct datadir *datadir)
{
    /* Numbers that could be given twice are worse than a node that ends: the disk is broken. */
    if (datadir->number == datadir->number_reserved)
        ASSERT(reserve_numbers(datadir));
    ASSERT(datadir->number < NUMBER_MAX);
    return ++datadir->number;
}

/* --- Files --- */

enum err datadir_write_file(const char *dir, const char *name, struct span content,
                            struct buf *error)
{
    struct buf temporary = {0}, path = {0};
    buf_printf(&path, "%s/%s", dir, name);
    buf_append_zeros(&path, 1);
    buf_printf(&temporary, "%s/%s.new", dir, name);
    buf_append_zeros(&temporary, 1);
    enum err err = ERR_OK;
    int fd = open((char *)temporary.ptr, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, content.ptr, content.len) != (ssize_t)content.len || fsync(fd) != 0)
        err = fail(error, (char *)temporary.ptr, "write");
    if (fd >= 0)
        close(fd);
    if (err == ERR_OK && rename((char *)temporary.ptr, (char *)path.ptr) != 0)
        err = fail(error, (char *)path.ptr, "rename");
    if (err == ERR_OK)
        err = sync_dir(dir, error);
    buf_release(&temporary);
    buf_release(&path);
    return err;
}
