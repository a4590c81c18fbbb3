/* A disk and an environment in memory: see mem_disk.h. */
#include "tests/unit/bucketd/mem_disk.h"

#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "common/assert.h"

struct mem_inode {
    struct buf live;    /* as the process sees it */
    struct buf durable; /* as it would be found after a power failure */
    struct buf dirty;   /* one byte for each sector of live: written since it was synced */
    bool is_dir;
};

struct mem_name {
    char path[96];
    size_t inode;
};

struct mem_names {
    struct mem_name *list; /* in ascending order of paths */
    size_t count;
};

struct file {
    struct mem_inode *inode;
};

static const struct disk_ops mem_ops;
static const struct env_ops mem_env_ops;

static struct mem_disk *mem_of(struct disk *disk)
{
    return (struct mem_disk *)disk;
}

/* --- names --- */

static size_t names_at(const struct mem_names *names, const char *path)
{
    size_t i = 0;
    while (i < names->count && strcmp(names->list[i].path, path) < 0)
        i++;
    return i;
}

static const struct mem_name *names_find(const struct mem_names *names, const char *path)
{
    size_t i = names_at(names, path);
    return i < names->count && strcmp(names->list[i].path, path) == 0 ? &names->list[i] : NULL;
}

static void names_remove(struct mem_names *names, const char *path)
{
    size_t i = names_at(names, path);
    if (names_find(names, path) == NULL)
        return;
    memmove(&names->list[i], &names->list[i + 1], (names->count - i - 1) * sizeof *names->list);
    names->count--;
}

static void names_put(struct mem_names *names, const char *path, size_t inode)
{
    names_remove(names, path);
    size_t i = names_at(names, path);
    names->list = realloc(names->list, (names->count + 1) * sizeof *names->list);
    ASSERT(names->list != NULL && strlen(path) < sizeof names->list->path);
    memmove(&names->list[i + 1], &names->list[i], (names->count - i) * sizeof *names->list);
    names->count++;
    snprintf(names->list[i].path, sizeof names->list[i].path, "%s", path);
    names->list[i].inode = inode;
}

/* Whether `path` lies directly in `dir` ("." is the root). */
static bool path_in(const char *path, const char *dir)
{
    const char *slash = strrchr(path, '/');
    if (strcmp(dir, ".") == 0)
        return slash == NULL;
    return slash != NULL && (size_t)(slash - path) == strlen(dir) &&
           strncmp(path, dir, strlen(dir)) == 0;
}

/* Names directly in `dir` become in `to` what they are in `from`. */
static void names_copy_dir(struct mem_names *to, const struct mem_names *from, const char *dir)
{
    for (size_t i = to->count; i-- > 0;) {
        char path[96];
        memcpy(path, to->list[i].path, sizeof path);
        if (path_in(path, dir) && names_find(from, path) == NULL)
            names_remove(to, path);
    }
    for (size_t i = 0; i < from->count; i++) {
        if (path_in(from->list[i].path, dir))
            names_put(to, from->list[i].path, from->list[i].inode);
    }
}

static size_t inode_new(struct mem_disk *mem, bool is_dir)
{
    mem->inodes = realloc(mem->inodes, (mem->inodes_count + 1) * sizeof(struct mem_inode *));
    ASSERT(mem->inodes != NULL);
    struct mem_inode *inode = calloc(1, sizeof *inode);
    ASSERT(inode != NULL);
    inode->is_dir = is_dir;
    mem->inodes[mem->inodes_count] = inode;
    return mem->inodes_count++;
}

/* --- life --- */

static void mem_log(void *ctx, enum log_level level, const char *line)
{
    struct mem_disk *mem = ctx;
    if (level == LOG_ERROR)
        snprintf(mem->last_error, sizeof mem->last_error, "%s", line);
}

struct mem_disk *mem_disk_new(void)
{
    struct mem_disk *mem = calloc(1, sizeof *mem);
    ASSERT(mem != NULL);
    mem->disk.ops = &mem_ops;
    mem->env = (struct env){.ops = &mem_env_ops, .disk = &mem->disk, .log = &mem->log};
    mem->log = (struct log){.level = LOG_INFO, .sink = mem_log, .sink_ctx = mem};
    mem->live = calloc(1, sizeof *mem->live);
    mem->durable = calloc(1, sizeof *mem->durable);
    ASSERT(mem->live != NULL && mem->durable != NULL);
    return mem;
}

void mem_disk_free(struct mem_disk *mem)
{
    for (size_t i = 0; i < mem->inodes_count; i++) {
        buf_release(&mem->inodes[i]->live);
        buf_release(&mem->inodes[i]->durable);
        buf_release(&mem->inodes[i]->dirty);
        free(mem->inodes[i]);
    }
    free(mem->inodes);
    free(mem->live->list);
    free(mem->durable->list);
    free(mem->live);
    free(mem->durable);
    free(mem->jobs);
    free(mem);
}

void mem_disk_kill(struct mem_disk *mem)
{
    mem->jobs_count = 0;
    mem->fail_at = mem->crash_at = mem->ops = 0;
    mem->crashed = mem->fatal = false;
    mem->last_error[0] = '\0';
}

static uint64_t mix(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Whether something unsynced was on the disk already. */
static bool survives(uint64_t seed, uint64_t *state)
{
    return seed != 0 && (seed == 1 || (mix(state) & 1) != 0);
}

static void inode_crash(const struct mem_inode *from, struct mem_inode *to, uint64_t seed,
                        uint64_t *state)
{
    bool size_live = survives(seed, state);
    size_t size = size_live ? from->live.len : from->durable.len;
    buf_append_zeros(&to->live, size);
    if (min_u64(size, from->durable.len) > 0)
        memcpy(to->live.ptr, from->durable.ptr, min_u64(size, from->durable.len));
    for (size_t at = 0; at < from->live.len && at < size; at += MEM_SECTOR) {
        size_t len = min_u64(min_u64(MEM_SECTOR, from->live.len - at), size - at);
        if (from->dirty.ptr[at / MEM_SECTOR] && survives(seed, state))
            memcpy(to->live.ptr + at, from->live.ptr + at, len);
    }
}

static void inode_settle(struct mem_inode *inode)
{
    buf_clear(&inode->durable, SIZE_MAX);
    buf_append_span(&inode->durable, buf_span(&inode->live));
    buf_clear(&inode->dirty, SIZE_MAX);
    buf_append_zeros(&inode->dirty, inode->live.len / MEM_SECTOR + 1);
}

static void names_clone(struct mem_names *to, const struct mem_names *from)
{
    for (size_t i = 0; i < from->count; i++)
        names_put(to, from->list[i].path, from->list[i].inode);
}

struct mem_disk *mem_disk_crash(const struct mem_disk *mem, uint64_t seed)
{
    struct mem_disk *after = mem_disk_new();
    uint64_t state = seed;
    after->capacity = mem->capacity;
    for (size_t i = 0; i < mem->inodes_count; i++) {
        inode_new(after, mem->inodes[i]->is_dir);
        struct mem_inode *inode = after->inodes[i];
        inode_crash(mem->inodes[i], inode, seed, &state);
        inode_settle(inode);
    }
    names_clone(after->live, mem->durable);
    if (survives(seed, &state))
        names_copy_dir(after->live, mem->live, ".");
    for (size_t i = 0; i < mem->inodes_count; i++) {
        for (size_t j = 0; mem->inodes[i]->is_dir && j < mem->live->count; j++) {
            if (mem->live->list[j].inode == i && survives(seed, &state))
                names_copy_dir(after->live, mem->live, mem->live->list[j].path);
        }
    }
    /* What lies in a directory that isn't there is not there either. */
    for (size_t i = 0; i < after->live->count;) {
        char dir[96];
        memcpy(dir, after->live->list[i].path, sizeof dir);
        char *slash = strrchr(dir, '/');
        if (slash != NULL)
            *slash = '\0';
        if (slash != NULL && names_find(after->live, dir) == NULL) {
            char path[96];
            memcpy(path, after->live->list[i].path, sizeof path);
            names_remove(after->live, path);
            i = 0;
        } else {
            i++;
        }
    }
    names_clone(after->durable, after->live);
    return after;
}

struct mem_disk *mem_disk_copy(const struct mem_disk *mem)
{
    return mem_disk_crash(mem, 1);
}

struct buf *mem_disk_bytes(struct mem_disk *mem, const char *path)
{
    const struct mem_name *name = names_find(mem->live, path);
    return name == NULL ? NULL : &mem->inodes[name->inode]->live;
}

void mem_disk_resize(struct mem_disk *mem, const char *path, size_t size)
{
    const struct mem_name *name = names_find(mem->live, path);
    ASSERT(name != NULL);
    struct mem_inode *inode = mem->inodes[name->inode];
    if (size > inode->live.len)
        buf_append_zeros(&inode->live, size - inode->live.len);
    inode->live.len = size;
    inode_settle(inode);
}

uint64_t mem_disk_hash(const struct mem_disk *mem, const char *ending)
{
    uint64_t hash = 0;
    for (size_t i = 0; i < mem->live->count; i++) {
        const struct mem_name *name = &mem->live->list[i];
        const struct buf *bytes = &mem->inodes[name->inode]->live;
        size_t len = strlen(name->path);
        if (len < strlen(ending) || strcmp(name->path + len - strlen(ending), ending) != 0)
            continue;
        hash = XXH3_64bits_withSeed(name->path, strlen(name->path), hash);
        hash = XXH3_64bits_withSeed(bytes->ptr, bytes->len, hash);
    }
    return hash;
}

/* --- the disk's operations --- */

/* Counts one; an error where it has to fail. The one a crash comes in still has its effect in
 * memory. */
static enum err mem_op(struct mem_disk *mem)
{
    if (mem->crashed)
        return ERR_IO;
    mem->ops++;
    if (mem->ops == mem->crash_at)
        mem->crashed = true;
    return mem->ops == mem->fail_at ? mem->fail_with : ERR_OK;
}

static enum err mem_room(const struct mem_disk *mem, size_t more)
{
    size_t used = 0;
    for (size_t i = 0; i < mem->live->count; i++)
        used += mem->inodes[mem->live->list[i].inode]->live.len;
    return mem->capacity != 0 && used + more > mem->capacity ? ERR_FULL : ERR_OK;
}

static enum err mem_grow(struct mem_disk *mem, struct mem_inode *inode, uint64_t size)
{
    if (size <= inode->live.len)
        return ERR_OK;
    enum err err = mem_room(mem, size - inode->live.len);
    if (err != ERR_OK)
        return err;
    buf_append_zeros(&inode->live, size - inode->live.len);
    size_t sectors = inode->live.len / MEM_SECTOR + 1;
    if (sectors > inode->dirty.len)
        buf_append_zeros(&inode->dirty, sectors - inode->dirty.len);
    return ERR_OK;
}

static enum err mem_open(struct disk *disk, const char *path, enum open_mode mode,
                         struct file **ret_file)
{
    struct mem_disk *mem = mem_of(disk);
    const struct mem_name *name = names_find(mem->live, path);
    if (mode == OPEN_CREATE) {
        enum err err = mem_op(mem);
        if (err != ERR_OK)
            return err;
        if (name != NULL)
            return ERR_EXISTS;
        char dir[96];
        snprintf(dir, sizeof dir, "%s", path);
        char *slash = strrchr(dir, '/');
        ASSERT(slash != NULL);
        *slash = '\0';
        if (names_find(mem->live, dir) == NULL)
            return ERR_NOTFOUND;
        names_put(mem->live, path, inode_new(mem, false));
        name = names_find(mem->live, path);
        inode_settle(mem->inodes[name->inode]);
    }
    if (name == NULL)
        return ERR_NOTFOUND;
    struct file *file = calloc(1, sizeof *file);
    ASSERT(file != NULL);
    file->inode = mem->inodes[name->inode];
    mem->files_open++;
    *ret_file = file;
    return ERR_OK;
}

static void mem_close(struct disk *disk, struct file *file)
{
    mem_of(disk)->files_open--;
    free(file);
}

static enum err mem_pread(struct disk *disk, struct file *file, uint64_t offset, void *to,
                          size_t len, size_t *ret_len)
{
    (void)disk;
    const struct buf *bytes = &file->inode->live;
    size_t got = offset >= bytes->len ? 0 : (size_t)min_u64(len, bytes->len - offset);
    if (got > 0)
        memcpy(to, bytes->ptr + offset, got);
    *ret_len = got;
    return ERR_OK;
}

static enum err mem_pwrite(struct disk *disk, struct file *file, uint64_t offset, const void *from,
                           size_t len)
{
    struct mem_disk *mem = mem_of(disk);
    enum err err = mem_op(mem);
    if (err == ERR_OK)
        err = mem_grow(mem, file->inode, offset + len);
    if (err != ERR_OK || len == 0)
        return err;
    memcpy(file->inode->live.ptr + offset, from, len);
    for (uint64_t at = offset / MEM_SECTOR; at <= (offset + len - 1) / MEM_SECTOR; at++)
        file->inode->dirty.ptr[at] = 1;
    return ERR_OK;
}

/* The crash of a sync comes before it has synced anything. */
static enum err mem_sync(struct disk *disk, struct file *file)
{
    struct mem_disk *mem = mem_of(disk);
    struct mem_inode *inode = file->inode;
    enum err err = mem_op(mem);
    mem->sync_count++;
    if (mem->crashed)
        return ERR_IO;
    if (err != ERR_OK && mem->fail_drops)
        memset(inode->dirty.ptr, 0, inode->dirty.len);
    if (err != ERR_OK)
        return err;
    if (inode->durable.len < inode->live.len)
        buf_append_zeros(&inode->durable, inode->live.len - inode->durable.len);
    inode->durable.len = inode->live.len;
    for (size_t at = 0; at < inode->live.len; at += MEM_SECTOR) {
        if (inode->dirty.ptr[at / MEM_SECTOR])
            memcpy(inode->durable.ptr + at, inode->live.ptr + at,
                   min_u64(MEM_SECTOR, inode->live.len - at));
    }
    memset(inode->dirty.ptr, 0, inode->dirty.len);
    return ERR_OK;
}

static enum err mem_allocate(struct disk *disk, struct file *file, uint64_t offset, uint64_t len)
{
    enum err err = mem_op(mem_of(disk));
    return err == ERR_OK ? mem_grow(mem_of(disk), file->inode, offset + len) : err;
}

static enum err mem_size(struct disk *disk, struct file *file, uint64_t *ret_size)
{
    (void)disk;
    *ret_size = file->inode->live.len;
    return ERR_OK;
}

static enum err mem_truncate(struct disk *disk, struct file *file, uint64_t size)
{
    enum err err = mem_op(mem_of(disk));
    if (err != ERR_OK)
        return err;
    if (size > file->inode->live.len)
        return mem_grow(mem_of(disk), file->inode, size);
    file->inode->live.len = size;
    return ERR_OK;
}

static enum err mem_map(struct disk *disk, struct file *file, struct span *ret_view)
{
    (void)disk;
    uint8_t *copy = malloc(file->inode->live.len + 1);
    ASSERT(copy != NULL);
    memcpy(copy, file->inode->live.ptr, file->inode->live.len);
    *ret_view = span_of(copy, file->inode->live.len);
    return ERR_OK;
}

static void mem_unmap(struct disk *disk, struct span view)
{
    (void)disk;
    free((void *)(uintptr_t)view.ptr);
}

static enum err mem_rename(struct disk *disk, const char *from, const char *to)
{
    struct mem_disk *mem = mem_of(disk);
    enum err err = mem_op(mem);
    if (err != ERR_OK)
        return err;
    const struct mem_name *name = names_find(mem->live, from);
    if (name == NULL)
        return ERR_NOTFOUND;
    size_t inode = name->inode;
    names_remove(mem->live, from);
    names_put(mem->live, to, inode);
    return ERR_OK;
}

static enum err mem_unlink(struct disk *disk, const char *path)
{
    struct mem_disk *mem = mem_of(disk);
    enum err err = mem_op(mem);
    if (err != ERR_OK)
        return err;
    if (names_find(mem->live, path) == NULL)
        return ERR_NOTFOUND;
    for (size_t i = 0; i < mem->live->count; i++) {
        if (path_in(mem->live->list[i].path, path))
            return ERR_IO; /* not empty */
    }
    names_remove(mem->live, path);
    return ERR_OK;
}

static enum err mem_mkdir(struct disk *disk, const char *path)
{
    struct mem_disk *mem = mem_of(disk);
    enum err err = mem_op(mem);
    if (err == ERR_OK && names_find(mem->live, path) == NULL)
        names_put(mem->live, path, inode_new(mem, true));
    return err;
}

static enum err mem_sync_dir(struct disk *disk, const char *path)
{
    struct mem_disk *mem = mem_of(disk);
    enum err err = mem_op(mem);
    if (err != ERR_OK || mem->crashed)
        return err != ERR_OK ? err : ERR_IO;
    names_copy_dir(mem->durable, mem->live, path);
    return ERR_OK;
}

static enum err mem_list(struct disk *disk, const char *path,
                         void (*each)(void *ctx, const char *name), void *ctx)
{
    struct mem_disk *mem = mem_of(disk);
    if (strcmp(path, ".") != 0 && names_find(mem->live, path) == NULL)
        return ERR_NOTFOUND;
    for (size_t i = 0; i < mem->live->count; i++) {
        const char *at = mem->live->list[i].path;
        if (path_in(at, path))
            each(ctx, strrchr(at, '/') != NULL ? strrchr(at, '/') + 1 : at);
    }
    return ERR_OK;
}

static const struct disk_ops mem_ops = {
    .open = mem_open,
    .close = mem_close,
    .pread = mem_pread,
    .pwrite = mem_pwrite,
    .sync = mem_sync,
    .allocate = mem_allocate,
    .size = mem_size,
    .truncate = mem_truncate,
    .map = mem_map,
    .unmap = mem_unmap,
    .rename = mem_rename,
    .unlink = mem_unlink,
    .mkdir = mem_mkdir,
    .sync_dir = mem_sync_dir,
    .list = mem_list,
};

/* --- the environment --- */

bool mem_disk_run_job(struct mem_disk *mem, size_t i)
{
    if (i >= mem->jobs_count)
        return false;
    struct job *job = mem->jobs[i];
    mem->jobs_count--;
    memmove(&mem->jobs[i], &mem->jobs[i + 1], (mem->jobs_count - i) * sizeof(struct job *));
    job->work(job, &mem->disk);
    job->done(job);
    return true;
}

void mem_disk_settle(struct mem_disk *mem)
{
    while (mem_disk_run_job(mem, 0))
        continue;
}

static struct mem_disk *mem_of_env(struct env *env)
{
    return (struct mem_disk *)(void *)((uint8_t *)env - offsetof(struct mem_disk, env));
}

static uint64_t mem_now_ns(struct env *env)
{
    (void)env;
    return 0;
}

static void mem_random(struct env *env, void *to, size_t len)
{
    (void)env;
    memset(to, 7, len);
}

static void mem_submit(struct env *env, struct job *job)
{
    struct mem_disk *mem = mem_of_env(env);
    mem->jobs = realloc(mem->jobs, (mem->jobs_count + 1) * sizeof(struct job *));
    ASSERT(mem->jobs != NULL);
    mem->jobs[mem->jobs_count++] = job;
}

static struct buf *mem_outbox(struct env *env, uint32_t link)
{
    (void)env;
    (void)link;
    return NULL;
}

static void mem_fatal(struct env *env, enum err err, const char *what)
{
    struct mem_disk *mem = mem_of_env(env);
    (void)what;
    mem->fatal = true;
    mem->fatal_err = err;
}

static const struct env_ops mem_env_ops = {
    .now_ns = mem_now_ns,
    .random = mem_random,
    .submit = mem_submit,
    .outbox = mem_outbox,
    .fatal = mem_fatal,
};
