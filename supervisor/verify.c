/* `sierradb verify DIR`: reads a whole data directory, shows its progress on stderr, and prints
 * what it found. It changes nothing. */
#include "supervisor/verify.h"

#include <dirent.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/limits.h"
#include "supervisor/verify_internal.h"

static const char usage[] =
    "Usage: sierradb verify [--json] DIR\n"
    "\n"
    "Checks everything stored in a data directory: every checksum, the chain over all entries, "
    "that\n"
    "sequences and versions have no gaps, and that the index files find every event where it "
    "lies.\n"
    "The node must be stopped. Nothing is changed. Needs some 100 bytes of memory for each "
    "stream.\n"
    "Exit status: 0 all is well; 1 something is damaged; 2 it couldn't be checked.\n";

struct verify {
    bool json, tty;
    const char *dir;
    struct uuid cluster_id;
    uint32_t bucket_count, partition_count;
    struct verify_bucket *buckets;
    size_t buckets_count;
    uint64_t bytes_total, bytes_done;
    struct timespec started, shown;
};

static bool parse(struct verify *verify, int argc, char **argv, int *ret_status);
static bool read_meta(struct verify *verify);
static bool find_buckets(struct verify *verify);
static uint64_t bucket_bytes(const char *dir);
static bool check_buckets(struct verify *verify);
static void progress(void *ctx);
static void print_table(const struct verify *verify);
static void print_problems(const struct verify_bucket *bucket);
static void print_json(const struct verify *verify);
static json_t *json_of_bucket(const struct verify_bucket *bucket);
static double seconds_since(const struct timespec *from);

int verify_main(int argc, char **argv)
{
    struct verify verify = {.tty = isatty(STDERR_FILENO)};
    int status = 2;
    if (!parse(&verify, argc, argv, &status))
        return status;
    clock_gettime(CLOCK_MONOTONIC, &verify.started);
    if (read_meta(&verify) && find_buckets(&verify) && check_buckets(&verify)) {
        status = 0;
        for (size_t i = 0; i < verify.buckets_count; i++) {
            if (verify.buckets[i].problems > 0)
                status = 1;
        }
        if (verify.json)
            print_json(&verify);
        else
            print_table(&verify);
    }
    for (size_t i = 0; i < verify.buckets_count; i++) {
        free((char *)(uintptr_t)verify.buckets[i].dir);
        verify_bucket_release(&verify.buckets[i]);
    }
    free(verify.buckets);
    return status;
}

static bool parse(struct verify *verify, int argc, char **argv, int *ret_status)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            *ret_status = 0;
            return false;
        }
        if (strcmp(argv[i], "--json") == 0) {
            verify->json = true;
        } else if (argv[i][0] == '-' || verify->dir != NULL) {
            fprintf(stderr, "sierradb verify: unexpected argument '%s'\n%s", argv[i], usage);
            return false;
        } else {
            verify->dir = argv[i];
        }
    }
    if (verify->dir == NULL)
        fputs(usage, stderr);
    return verify->dir != NULL;
}

/* --- what there is to check --- */

static bool read_meta(struct verify *verify)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/meta.json", verify->dir);
    json_error_t error;
    json_t *meta = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    const char *id = NULL;
    json_int_t buckets = 0, partitions = 0;
    bool ok = meta != NULL &&
              json_unpack_ex(meta, &error, 0, "{s:s, s:{s:I}, s:{s:I}}", "cluster_id", &id,
                             "bucket", "count", &buckets, "partition", "count", &partitions) == 0;
    if (!ok)
        fprintf(stderr, "%s: %s\n", path, error.text);
    if (ok && (!uuid_parse(span_str(id), &verify->cluster_id) || buckets < 1 ||
               buckets > (json_int_t)BUCKET_COUNT_MAX || partitions < 1 ||
               partitions > (json_int_t)PARTITION_COUNT_MAX)) {
        fprintf(stderr, "%s: cluster_id, bucket.count or partition.count is no valid value\n",
                path);
        ok = false;
    }
    verify->bucket_count = ok ? (uint32_t)buckets : 0;
    verify->partition_count = ok ? (uint32_t)partitions : 0;
    json_decref(meta);
    return ok;
}

static bool find_buckets(struct verify *verify)
{
    for (uint32_t i = 0; i < verify->bucket_count; i++) {
        char dir[4096];
        struct stat stat_of;
        snprintf(dir, sizeof dir, "%s/buckets/%05" PRIu32, verify->dir, i);
        if (stat(dir, &stat_of) != 0 || !S_ISDIR(stat_of.st_mode))
            continue; /* another node may hold it */
        verify->buckets =
            realloc(verify->buckets, (verify->buckets_count + 1) * sizeof *verify->buckets);
        ASSERT(verify->buckets != NULL);
        verify->buckets[verify->buckets_count++] = (struct verify_bucket){
            .bucket = i,
            .bucket_count = verify->bucket_count,
            .partition_count = verify->partition_count,
            .cluster_id = verify->cluster_id,
            .dir = strdup(dir),
            .bytes_done = &verify->bytes_done,
            .progress = progress,
            .progress_ctx = verify,
        };
        verify->bytes_total += bucket_bytes(dir);
    }
    if (verify->buckets_count == 0)
        fprintf(stderr, "%s/buckets: no bucket's directory there\n", verify->dir);
    return verify->buckets_count > 0;
}

static uint64_t bucket_bytes(const char *dir)
{
    char path[8192];
    uint64_t bytes = 0;
    snprintf(path, sizeof path, "%s/segments", dir);
    DIR *segments = opendir(path);
    for (struct dirent *entry; segments != NULL && (entry = readdir(segments)) != NULL;) {
        struct stat stat_of;
        snprintf(path, sizeof path, "%s/segments/%s/data.evts", dir, entry->d_name);
        if (stat(path, &stat_of) == 0)
            bytes += (uint64_t)stat_of.st_size;
    }
    if (segments != NULL)
        closedir(segments);
    return bytes;
}

static bool check_buckets(struct verify *verify)
{
    for (size_t i = 0; i < verify->buckets_count; i++) {
        struct verify_bucket *bucket = &verify->buckets[i];
        enum err err = verify_bucket(bucket);
        if (err != ERR_OK) {
            fprintf(stderr, "%s%s: %s\n", verify->tty ? "\n" : "", bucket->dir,
                    err == ERR_LOCKED ? "a node runs on it: stop it first" : err_text(err));
            return false;
        }
        if (!verify->tty)
            fprintf(stderr, "verify: bucket %" PRIu32 " done, %zu of %zu, %.1f of %.1f MB\n",
                    bucket->bucket, i + 1, verify->buckets_count, (double)verify->bytes_done / 1e6,
                    (double)verify->bytes_total / 1e6);
    }
    if (verify->tty)
        fprintf(stderr, "\r%60s\r", "");
    return true;
}

static void progress(void *ctx)
{
    struct verify *verify = ctx;
    if (!verify->tty || seconds_since(&verify->shown) < 0.1)
        return;
    clock_gettime(CLOCK_MONOTONIC, &verify->shown);
    double seconds = seconds_since(&verify->started);
    fprintf(stderr, "\rverify: %3.0f %%, %.0f of %.0f MB, %.0f MB/s ",
            100 * (double)verify->bytes_done / (double)(verify->bytes_total + 1),
            (double)verify->bytes_done / 1e6, (double)verify->bytes_total / 1e6,
            (double)verify->bytes_done / 1e6 / (seconds + 1e-9));
}

/* --- the report --- */

static void print_table(const struct verify *verify)
{
    struct verify_bucket sum = {0};
    printf("%6s %9s %12s %12s %10s %12s %14s %9s\n", "BUCKET", "SEGMENTS", "ENTRIES", "EVENTS",
           "STREAMS", "BYTES", "INDEXES", "PROBLEMS");
    for (size_t i = 0; i < verify->buckets_count; i++) {
        const struct verify_bucket *bucket = &verify->buckets[i];
        char indexes[32];
        snprintf(indexes, sizeof indexes, "%" PRIu64 "%s", bucket->indexes,
                 bucket->indexes_missing > 0 ? " (some missing)" : "");
        printf("%6" PRIu32 " %9" PRIu64 " %12" PRIu64 " %12" PRIu64 " %10" PRIu64 " %12" PRIu64
               " %14s %9" PRIu64 "\n",
               bucket->bucket, bucket->segments, bucket->entries, bucket->events, bucket->streams,
               bucket->bytes, indexes, bucket->problems);
        sum.segments += bucket->segments;
        sum.entries += bucket->entries;
        sum.events += bucket->events;
        sum.streams += bucket->streams;
        sum.bytes += bucket->bytes;
        sum.indexes += bucket->indexes;
        sum.torn += bucket->torn;
        sum.problems += bucket->problems;
    }
    printf("%6s %9" PRIu64 " %12" PRIu64 " %12" PRIu64 " %10" PRIu64 " %12" PRIu64 " %14" PRIu64
           " %9" PRIu64 "\n",
           "all", sum.segments, sum.entries, sum.events, sum.streams, sum.bytes, sum.indexes,
           sum.problems);
    for (size_t i = 0; i < verify->buckets_count; i++)
        print_problems(&verify->buckets[i]);
    if (sum.torn > 0)
        printf("%" PRIu64
               " newest segments end with an unfinished write; the next start removes it\n",
               sum.torn);
    printf("%s (%.1f s)\n", sum.problems == 0 ? "All is well." : "There is DAMAGE.",
           seconds_since(&verify->started));
}

static void print_problems(const struct verify_bucket *bucket)
{
    for (size_t i = 0; i < bucket->list_count; i++) {
        const struct verify_problem *problem = &bucket->list[i];
        char dir[32];
        printf("%s/%s/%s, offset %" PRIu64 ": %s\n", bucket->dir,
               wal_segment_dir(problem->segment, dir), problem->file, problem->offset,
               problem->what);
    }
    if (bucket->problems > bucket->list_count)
        printf("bucket %" PRIu32 ": and %" PRIu64 " more\n", bucket->bucket,
               bucket->problems - bucket->list_count);
}

static void print_json(const struct verify *verify)
{
    json_t *buckets = json_array();
    bool ok = true;
    for (size_t i = 0; i < verify->buckets_count; i++) {
        json_array_append_new(buckets, json_of_bucket(&verify->buckets[i]));
        ok = ok && verify->buckets[i].problems == 0;
    }
    json_t *root = json_pack("{s:b, s:s, s:f, s:o}", "ok", (int)ok, "dir", verify->dir, "seconds",
                             seconds_since(&verify->started), "buckets", buckets);
    ASSERT(root != NULL);
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(root);
}

static json_t *json_of_bucket(const struct verify_bucket *bucket)
{
    json_t *problems = json_array();
    for (size_t i = 0; i < bucket->list_count; i++) {
        const struct verify_problem *problem = &bucket->list[i];
        json_t *what = json_string(problem->what);
        if (what == NULL) /* a stream's name may be no UTF-8 */
            what = json_string("problem with a name that is not UTF-8");
        json_array_append_new(problems, json_pack("{s:s, s:I, s:I, s:o}", "file", problem->file,
                                                  "segment", (json_int_t)problem->segment, "offset",
                                                  (json_int_t)problem->offset, "what", what));
    }
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "bucket",
                     (json_int_t)bucket->bucket, "segments", (json_int_t)bucket->segments,
                     "entries", (json_int_t)bucket->entries, "events", (json_int_t)bucket->events,
                     "streams", (json_int_t)bucket->streams, "bytes", (json_int_t)bucket->bytes,
                     "indexes", (json_int_t)bucket->indexes, "indexes_missing",
                     (json_int_t)bucket->indexes_missing, "torn", (json_int_t)bucket->torn,
                     "problem_count", (json_int_t)bucket->problems, "problems", problems);
}

static double seconds_since(const struct timespec *from)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - from->tv_sec) + (double)(now.tv_nsec - from->tv_nsec) / 1e9;
}
