/* Spawning with libuv. */
#include "supervisor/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/assert.h"
#include "proto/child.h"

#define CONFIG_FD 3
#define ENV_MAX   16

struct process {
    uv_process_t handle;
    process_exit_fn *on_exit;
    void *ctx;
};

static void make_env(unsigned pool_threads, char *env[ENV_MAX]);
static void on_process_exit(uv_process_t *handle, int64_t status, int signal_number);
static void free_process(uv_handle_t *handle);

static char *format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));

static char *format(const char *pattern, ...)
{
    char *text;
    va_list args;
    va_start(args, pattern);
    ASSERT(vasprintf(&text, pattern, args) >= 0);
    va_end(args);
    return text;
}

struct process *process_start(uv_loop_t *loop, const struct process_spec *spec,
                              process_exit_fn *on_exit, void *ctx, const struct log *log)
{
    char cluster_id[UUID_TEXT_LEN];
    uuid_format(&spec->cluster_id, cluster_id);
    /* --index first: `ps` shows which bucket it is. */
    char *args[] = {
        format("%s", spec->exe),
        format("--index=%lu", spec->index),
        format("--boot=%lu", spec->boot),
        format("--supervisor-boot=%lu", spec->supervisor_boot),
        format("--age=%lu", spec->age_ms),
        format("--supervisor=%s", spec->link_path),
        format("--config-fd=%d", CONFIG_FD),
        format("--parent=%d", getpid()),
        format("--cluster=%.*s", UUID_TEXT_LEN, cluster_id),
        NULL,
    };
    char *env[ENV_MAX] = {0};
    make_env(spec->pool_threads, env);
    uv_stdio_container_t stdio[CONFIG_FD + 1] = {
        {.flags = UV_IGNORE},
        {.flags = UV_INHERIT_FD, .data.fd = STDOUT_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO},
        {.flags = UV_INHERIT_FD, .data.fd = spec->config_fd},
    };
    uv_process_options_t options = {.file = spec->exe,
                                    .args = args,
                                    .env = env,
                                    .exit_cb = on_process_exit,
                                    .stdio = stdio,
                                    .stdio_count = CONFIG_FD + 1};
    struct process *process = calloc(1, sizeof *process);
    ASSERT(process != NULL);
    process->on_exit = on_exit;
    process->ctx = ctx;
    process->handle.data = process;
    int error = uv_spawn(loop, &process->handle, &options);
    for (unsigned i = 0; args[i] != NULL; i++)
        free(args[i]);
    for (unsigned i = 0; env[i] != NULL; i++)
        free(env[i]);
    if (error == 0)
        return process;
    log_error(log, "process.spawn_failed", "exe=\"%s\" error=\"%s\"", spec->exe,
              uv_strerror(error));
    uv_close((uv_handle_t *)&process->handle, free_process);
    return NULL;
}

/* What a child may need, and nothing that happened to be in the operator's shell. */
static void make_env(unsigned pool_threads, char *env[ENV_MAX])
{
    static const char *const kept[] = {
        "PATH",         "LANG",          "LC_ALL",       "TZ",
        "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "ASAN_SYMBOLIZER_PATH"};
    unsigned count = 0;
    for (unsigned i = 0; i < sizeof kept / sizeof *kept; i++) {
        const char *value = getenv(kept[i]);
        if (value != NULL)
            env[count++] = format("%s=%s", kept[i], value);
    }
    env[count++] = format("UV_THREADPOOL_SIZE=%u", pool_threads);
    /* An arena for each thread would cost memory for nothing. */
    env[count++] = format("MALLOC_ARENA_MAX=2");
    ASSERT(count < ENV_MAX);
}

void process_kill(struct process *process)
{
    uv_process_kill(&process->handle, SIGKILL);
}

int process_pid(const struct process *process)
{
    return process->handle.pid;
}

static void on_process_exit(uv_process_t *handle, int64_t status, int signal_number)
{
    struct process *process = handle->data;
    char how[64];
    if (signal_number != 0)
        snprintf(how, sizeof how, "signal %d (%s)", signal_number, strsignal(signal_number));
    else
        snprintf(how, sizeof how, "exit %ld", (long)status);
    bool again = signal_number == 0 && status == CHILD_EXIT_AGAIN;
    process->on_exit(process->ctx, how, again);
    uv_close((uv_handle_t *)handle, free_process);
}

static void free_process(uv_handle_t *handle)
{
    free(handle->data);
}

enum err process_find_exe(const char *name, const char *build_folder, char **ret_path)
{
    char self[4096];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    ASSERT(len > 0);
    self[len] = '\0';
    *strrchr(self, '/') = '\0';
    char *candidates[] = {
        format("%s/%s", self, name),
        format("%s/../%s/%s", self, build_folder, name),
        format("%s/../libexec/sierradb/%s", self, name),
        format("%s/%s", SIERRADB_LIBEXEC_DIR, name),
    };
    char *found = NULL;
    for (unsigned i = 0; i < sizeof candidates / sizeof *candidates; i++) {
        if (found == NULL && access(candidates[i], X_OK) == 0)
            found = realpath(candidates[i], NULL);
        free(candidates[i]);
    }
    if (found == NULL)
        return ERR_NOTFOUND;
    *ret_path = found;
    return ERR_OK;
}

int process_config_fd(const struct config *config)
{
    struct buf text = {0};
    config_print(config, &text);
    int fd = memfd_create("sierradb-config", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ASSERT(fd >= 0);
    for (size_t done = 0; done < text.len;) {
        ssize_t len = write(fd, text.ptr + done, text.len - done);
        ASSERT(len > 0);
        done += (size_t)len;
    }
    ASSERT(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    buf_release(&text);
    return fd;
}
