/* A disk whose power can be cut: a FUSE file system in memory that knows of every byte and every
 * name whether it was synced. It promises what POSIX does and nothing more: fsync and fdatasync of
 * a file keep its bytes and its size, fsync of a directory keeps its names; a file that is synced
 * in a directory that isn't has no name after a cut.
 *
 *     power_disk MOUNTPOINT
 *
 * Commands on standard input, each answered with a line (volume_obey); at its end the file system
 * is unmounted:
 *   cut SEED   what wasn't synced is lost: all of it (0), or at random from the seed: some pieces
 *              of 512 bytes of each file stay, and the first changes of each directory. Whoever
 *              has files open must be dead
 *   wipe       everything is lost
 *   lie 0|1    while 1, syncs keep nothing and say that they did
 *   slow MS    each sync takes so much longer
 *   stats      what isn't synced */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 31
#include "volume.h"

#include <errno.h>
#include <fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct shell {
    struct volume volume;
    struct fuse *fuse;
    pthread_t listener;
};

static struct shell *shell(void)
{
    return fuse_get_context()->private_data;
}

static void *listen_to_commands(void *ctx)
{
    struct shell *s = ctx;
    char line[64];
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        volume_obey(&s->volume, line);
    fuse_unmount(s->fuse); /* ends the loop */
    return NULL;
}

/* --- what the kernel asks --- */

static void *op_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    struct shell *s = shell();
    (void)connection;
    config->hard_remove = config->nullpath_ok = config->use_ino = 1;
    config->entry_timeout = config->negative_timeout = config->attr_timeout = 0;
    MUST(pthread_create(&s->listener, NULL, listen_to_commands, s) == 0);
    return s;
}

/* Every operation below stands between these. */
static struct volume *enter(void)
{
    struct volume *v = &shell()->volume;
    pthread_mutex_lock(&v->mutex);
    v->operation++;
    return v;
}

static int leave(struct volume *v, int result)
{
    pthread_mutex_unlock(&v->mutex);
    return result;
}

static struct inode *opened(struct volume *v, const char *path, struct fuse_file_info *info)
{
    return info != NULL ? (struct inode *)(uintptr_t)info->fh : volume_lookup(v, path, NULL);
}

static int op_getattr(const char *path, struct stat *out, struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = opened(v, path, info);
    if (inode == NULL)
        return leave(v, -ENOENT);
    *out = (struct stat){.st_mode = inode->mode, .st_ino = inode->number, .st_nlink = 1};
    out->st_uid = getuid();
    out->st_gid = getgid();
    out->st_size = (off_t)inode->size;
    out->st_blocks = (blkcnt_t)((inode->size + 511) / 512);
    out->st_mtim = out->st_ctim = out->st_atim = inode->changed;
    return leave(v, 0);
}

static int make(const char *path, mode_t mode, struct fuse_file_info *info)
{
    struct volume *v = enter();
    const char *name = NULL;
    struct inode *dir = volume_lookup(v, path, &name);
    if (dir == NULL)
        return leave(v, -ENOENT);
    if (entries_find(&dir->live, name) != NULL)
        return leave(v, -EEXIST);
    struct inode *inode = inode_new(v, mode);
    dir_change(v, dir, name, inode);
    if (info != NULL)
        info->fh = (uintptr_t)inode_ref(inode);
    return leave(v, 0);
}

static int op_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    return make(path, S_IFREG | (mode & 07777), info);
}

static int op_mknod(const char *path, mode_t mode, dev_t device)
{
    (void)device;
    return make(path, mode, NULL);
}

static int op_mkdir(const char *path, mode_t mode)
{
    return make(path, S_IFDIR | (mode & 07777), NULL);
}

static int op_open(const char *path, struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = inode_ref(volume_lookup(v, path, NULL));
    info->fh = (uintptr_t)inode;
    return leave(v, inode != NULL ? 0 : -ENOENT);
}

static int op_release(const char *path, struct fuse_file_info *info)
{
    struct volume *v = enter();
    (void)path;
    inode_unref((struct inode *)(uintptr_t)info->fh);
    return leave(v, 0);
}

static int op_remove(const char *path)
{
    struct volume *v = enter();
    const char *name = NULL;
    struct inode *dir = volume_lookup(v, path, &name);
    struct entry *entry = dir != NULL ? entries_find(&dir->live, name) : NULL;
    if (entry == NULL)
        return leave(v, -ENOENT);
    if (S_ISDIR(entry->inode->mode) && entry->inode->live.len > 0)
        return leave(v, -ENOTEMPTY);
    dir_change(v, dir, name, NULL);
    return leave(v, 0);
}

static int op_rename(const char *from, const char *to, unsigned flags)
{
    struct volume *v = enter();
    const char *name = NULL, *new_name = NULL;
    struct inode *dir = volume_lookup(v, from, &name), *new_dir = volume_lookup(v, to, &new_name);
    struct entry *entry = dir != NULL ? entries_find(&dir->live, name) : NULL;
    if (flags != 0)
        return leave(v, -EINVAL);
    if (entry == NULL || new_dir == NULL)
        return leave(v, -ENOENT);
    struct inode *inode = inode_ref(entry->inode);
    dir_change(v, dir, name, NULL);
    dir_change(v, new_dir, new_name, inode);
    inode_unref(inode);
    return leave(v, 0);
}

static int op_read(const char *path, char *to, size_t len, off_t offset,
                   struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = opened(v, path, info);
    uint64_t at = (uint64_t)offset, end = at + len < inode->size ? at + len : inode->size;
    size_t done = 0;
    while (at < end) {
        size_t index = (size_t)(at / PAGE_BYTES), in_page = (size_t)(at % PAGE_BYTES);
        size_t step = PAGE_BYTES - in_page < end - at ? PAGE_BYTES - in_page : (size_t)(end - at);
        const uint8_t *live = index < inode->pages_len ? inode->pages[index].live : NULL;
        if (live != NULL)
            memcpy(to + done, live + in_page, step);
        else
            memset(to + done, 0, step);
        done += step;
        at += step;
    }
    return leave(v, (int)done);
}

static int op_write(const char *path, const char *from, size_t len, off_t offset,
                    struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = opened(v, path, info);
    uint64_t at = (uint64_t)offset, end = at + len;
    if (end > inode->size)
        file_resize(inode, end);
    for (size_t done = 0; at < end;) {
        size_t in_page = (size_t)(at % PAGE_BYTES);
        size_t step = PAGE_BYTES - in_page < end - at ? PAGE_BYTES - in_page : (size_t)(end - at);
        memcpy(file_writable(inode, (size_t)(at / PAGE_BYTES)) + in_page, from + done, step);
        done += step;
        at += step;
    }
    clock_gettime(CLOCK_REALTIME, &inode->changed);
    return leave(v, (int)len);
}

static int op_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = opened(v, path, info);
    if (inode == NULL)
        return leave(v, -ENOENT);
    file_resize(inode, (uint64_t)size);
    return leave(v, 0);
}

static int op_fallocate(const char *path, int mode, off_t offset, off_t len,
                        struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = opened(v, path, info);
    if (mode != 0)
        return leave(v, -EOPNOTSUPP);
    if ((uint64_t)(offset + len) > inode->size)
        file_resize(inode, (uint64_t)(offset + len));
    return leave(v, 0);
}

static struct volume *enter_sync(void)
{
    struct volume *v = enter();
    unsigned slow_ms = v->slow_ms;
    v->syncs++;
    leave(v, 0);
    usleep(slow_ms * 1000); /* the others go on */
    return enter();
}

static int op_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    struct volume *v = enter_sync();
    (void)data_only; /* the size is part of what makes data readable */
    if (!v->lies)
        file_sync(opened(v, path, info));
    return leave(v, 0);
}

static int op_fsyncdir(const char *path, int data_only, struct fuse_file_info *info)
{
    struct volume *v = enter_sync();
    struct inode *dir = opened(v, path, info);
    (void)data_only;
    if (!v->lies)
        dir_settle(dir, dir->changes_len);
    return leave(v, 0);
}

static int op_readdir(const char *path, void *to, fuse_fill_dir_t fill, off_t offset,
                      struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    struct volume *v = enter();
    struct inode *dir = opened(v, path, info);
    (void)offset;
    (void)flags;
    fill(to, ".", NULL, 0, 0);
    fill(to, "..", NULL, 0, 0);
    for (size_t i = 0; i < dir->live.len; i++)
        fill(to, dir->live.list[i].name, NULL, 0, 0);
    return leave(v, 0);
}

static int op_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    struct volume *v = enter();
    struct inode *inode = opened(v, path, info);
    if (inode == NULL)
        return leave(v, -ENOENT);
    inode->mode = (inode->mode & (mode_t)S_IFMT) | (mode & 07777);
    return leave(v, 0);
}

static int op_statfs(const char *path, struct statvfs *out)
{
    (void)path;
    *out = (struct statvfs){.f_bsize = PAGE_BYTES, .f_frsize = PAGE_BYTES, .f_namemax = 255};
    out->f_blocks = 1u << 22; /* 16 GiB */
    out->f_bfree = out->f_bavail = 1u << 21;
    out->f_files = out->f_ffree = 1u << 20;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct fuse_operations operations = {
        .init = op_init,
        .getattr = op_getattr,
        .create = op_create,
        .mknod = op_mknod,
        .mkdir = op_mkdir,
        .open = op_open,
        .opendir = op_open,
        .release = op_release,
        .releasedir = op_release,
        .unlink = op_remove,
        .rmdir = op_remove,
        .rename = op_rename,
        .read = op_read,
        .write = op_write,
        .truncate = op_truncate,
        .fallocate = op_fallocate,
        .fsync = op_fsync,
        .fsyncdir = op_fsyncdir,
        .readdir = op_readdir,
        .chmod = op_chmod,
        .statfs = op_statfs,
    };
    if (argc != 2) {
        fprintf(stderr, "usage: power_disk MOUNTPOINT\n");
        return 2;
    }
    struct shell s = {.volume = {.mutex = PTHREAD_MUTEX_INITIALIZER}};
    volume_wipe(&s.volume);
    char *words[] = {argv[0], "-o", "fsname=sierradb-test", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, words);
    s.fuse = fuse_new(&args, &operations, sizeof operations, &s);
    if (s.fuse == NULL || fuse_mount(s.fuse, argv[1]) != 0)
        return 1;
    int result = fuse_loop_mt(s.fuse, 0);
    pthread_join(s.listener, NULL);
    fuse_destroy(s.fuse);
    return result == 0 ? 0 : 1;
}
