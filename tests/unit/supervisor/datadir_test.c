/* The data directory: locks, numbers that are never given twice, the run directory, meta.json. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "supervisor/datadir.h"
#include "supervisor/meta.h"

static char root[64];
static struct config config;
static struct buf error;

static void configure(const char *dir, const char *more)
{
    char text[512];
    config_release(&config);
    config_init(&config);
    snprintf(text, sizeof text, "dir: %s/%s\n%s\n", root, dir, more);
    ck_assert_int_eq(config_parse(&config, span_str(text), "test", &error), ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
}

static void setup(void)
{
    snprintf(root, sizeof root, "/tmp/sierradb-datadir-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    configure("data", "");
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
    config_release(&config);
    buf_release(&error);
}

static const char *error_text(void)
{
    buf_append_zeros(&error, 1);
    return (char *)error.ptr;
}

/* In a process of its own, as locks and numbers live: opens, takes numbers, ends. Returns the first
 * and last number taken. */
static void take_numbers(unsigned count, uint64_t ret_ends[2])
{
    int pipe_fds[2];
    ck_assert_int_eq(pipe(pipe_fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct datadir *datadir;
        uint64_t ends[2] = {0, 0};
        if (datadir_open(&config, &datadir, &error) != ERR_OK)
            _exit(1);
        for (unsigned i = 0; i < count; i++) {
            ends[1] = datadir_next_number(datadir);
            if (i == 0)
                ends[0] = ends[1];
        }
        _exit(write(pipe_fds[1], ends, sizeof ends) == sizeof ends ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(read(pipe_fds[0], ret_ends, 2 * sizeof *ret_ends), 2 * sizeof *ret_ends);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

START_TEST(numbers_are_never_given_twice)
{
    uint64_t before[2] = {0, 0}, ends[2];
    static const unsigned counts[] = {1, 99, 100, 101, 250, 1};
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
        take_numbers(counts[i], ends);
        ck_assert_uint_gt(ends[0], before[1]);
        ck_assert_uint_eq(ends[1], ends[0] + counts[i] - 1);
        before[1] = ends[1];
    }
}
END_TEST

static uint64_t clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Other nodes would take a lower number for a process that ended before. */
START_TEST(numbers_grow_when_the_directory_was_lost)
{
    uint64_t before[2], after[2], begin = clock_us();
    char command[128];
    take_numbers(1000, before);
    ck_assert_uint_gt(before[0], begin);
    while (clock_us() <= before[1])
        ;
    snprintf(command, sizeof command, "rm -rf %s/data", root);
    ck_assert_int_eq(system(command), 0);
    take_numbers(1, after);
    ck_assert_uint_gt(after[0], before[1]);
}
END_TEST

static void write_number(const char *text)
{
    mkdir(config.dir, 0755);
    ck_assert_int_eq(datadir_write_file(config.dir, "boot", span_str(text), &error), ERR_OK);
}

START_TEST(numbers_grow_when_the_clock_goes_back)
{
    uint64_t ends[2];
    write_number("00005000000000000000\n"); /* of a time when the clock was ahead */
    take_numbers(2, ends);
    ck_assert_uint_eq(ends[0], 5000000000000001);
    take_numbers(1, ends);
    ck_assert_uint_eq(ends[0], 5000000000000101);
    write_number("00000000000000000017\n"); /* of a version that counted from 1 */
    take_numbers(1, ends);
    ck_assert_uint_gt(ends[0], 1600000000000000);
}
END_TEST

START_TEST(a_damaged_number_file_is_refused)
{
    uint64_t ends[2];
    take_numbers(1, ends);
    char path[128];
    snprintf(path, sizeof path, "%s/data/boot", root);
    ck_assert_int_eq(truncate(path, 7), 0);
    struct datadir *datadir;
    ck_assert_int_eq(datadir_open(&config, &datadir, &error), ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(error_text(), "/data/boot: expected a number of 20 digits"));
}
END_TEST

START_TEST(a_second_node_is_refused_by_pid)
{
    struct datadir *datadir, *second;
    char expected[64];
    ck_assert_int_eq(datadir_open(&config, &datadir, &error), ERR_OK);
    ck_assert_int_eq(datadir_open(&config, &second, &error), ERR_LOCKED);
    datadir_close(datadir);
    snprintf(expected, sizeof expected, "another sierradb (pid %d) runs", getpid());
    ck_assert_ptr_nonnull(strstr(error_text(), expected));
}
END_TEST

START_TEST(a_run_directory_belongs_to_one_node)
{
    char more[128];
    struct datadir *datadir, *second;
    snprintf(more, sizeof more, "run_dir: %s/run", root);
    configure("one", more);
    ck_assert_int_eq(datadir_open(&config, &datadir, &error), ERR_OK);
    configure("two", more);
    ck_assert_int_eq(datadir_open(&config, &second, &error), ERR_LOCKED);
    snprintf(more, sizeof more, "run_dir: %s/three", root);
    configure("three", more);
    ck_assert_int_eq(datadir_open(&config, &second, &error), ERR_CONFIG);
    datadir_close(datadir);
}
END_TEST

START_TEST(the_run_directory_is_private_and_tidied)
{
    char path[128];
    struct stat info;
    uint64_t ends[2];
    take_numbers(1, ends);
    snprintf(path, sizeof path, "%s/data/run/netd-b0.4.ipc", root);
    fclose(fopen(path, "w"));
    snprintf(path, sizeof path, "%s/data/run/keep.txt", root);
    fclose(fopen(path, "w"));
    ck_assert_int_eq(chmod(config.run_dir, 0755), 0);
    take_numbers(1, ends);
    ck_assert_int_eq(stat(config.run_dir, &info), 0);
    ck_assert_uint_eq(info.st_mode & 0777, 0700);
    ck_assert_int_eq(access(path, F_OK), 0);
    snprintf(path, sizeof path, "%s/data/run/netd-b0.4.ipc", root);
    ck_assert_int_ne(access(path, F_OK), 0);
}
END_TEST

START_TEST(a_run_directory_with_too_long_a_path_is_refused)
{
    char more[256];
    struct datadir *datadir;
    snprintf(more, sizeof more, "run_dir: /%0*d", 77, 0);
    configure("data", more);
    ck_assert_int_eq(datadir_open(&config, &datadir, &error), ERR_CONFIG);
    ck_assert_ptr_nonnull(strstr(error_text(), "run_dir: expected a path of at most 77 bytes"));
    ck_assert_int_ne(access(config.dir, F_OK), 0); /* refused before anything was made */
}
END_TEST

static void open_meta(const char *more, enum err expected, struct uuid *ret_id)
{
    configure("data", more);
    mkdir(config.dir, 0755);
    buf_clear(&error, 0);
    ck_assert_int_eq(meta_open(&config, ret_id, &error), expected);
}

START_TEST(meta_keeps_what_cannot_change)
{
    struct uuid first, second;
    open_meta("", ERR_OK, &first);
    open_meta("segment: {size_bytes: 1MiB}", ERR_OK, &second); /* may change */
    ck_assert(uuid_equal(&first, &second));
    open_meta("bucket: {count: 8}", ERR_CONFIG, &second);
    ck_assert_ptr_nonnull(strstr(error_text(), "bucket.count is 8 in the configuration, but this "
                                               "data directory was created with 4"));
    open_meta("partition: {count: 64}", ERR_CONFIG, &second);
    ck_assert_ptr_nonnull(strstr(error_text(), "partition.count is 64"));
    open_meta("node: {index: 0}\nnetwork: {peers: 'a:1,b:1,c:1'}\n"
              "cluster: {secret: 0123456789abcdef}",
              ERR_CONFIG, &second);
    ck_assert_ptr_nonnull(strstr(error_text(), "node.count is 3"));
}
END_TEST

/* A node of three; `more` are further lines. */
static void open_cluster_meta(const char *more, enum err expected, struct uuid *ret_id)
{
    char text[384];
    snprintf(text, sizeof text, "network: {peers: 'a:1,b:1,c:1'}\n%s", more);
    open_meta(text, expected, ret_id);
}

#define SECRET "secret: 0123456789abcdef"

START_TEST(meta_of_a_cluster)
{
    struct uuid first, again, expected = uuid_of_cluster(span_str("blue"));
    open_cluster_meta("node: {index: 1}\ncluster: {name: blue, " SECRET "}", ERR_OK, &first);
    ck_assert(uuid_equal(&first, &expected));
    open_cluster_meta("node: {index: 1}\ncluster: {name: blue, " SECRET "}", ERR_OK, &again);
    ck_assert(uuid_equal(&first, &again));
    open_cluster_meta("node: {index: 1}\ncluster: {name: red, " SECRET "}", ERR_CONFIG, &again);
    ck_assert_ptr_nonnull(strstr(error_text(),
                                 "cluster.name is 'red' in the configuration, but "
                                 "this data directory belongs to the cluster 'blue'"));
    open_cluster_meta("node: {index: 2}\ncluster: {name: blue, " SECRET "}", ERR_CONFIG, &again);
    ck_assert_ptr_nonnull(strstr(error_text(), "node.index is 2 in the configuration, but this "
                                               "data directory was created with 1"));
    open_cluster_meta("node: {index: 1}\ncluster: {name: blue, " SECRET "}\n"
                      "replication: {factor: 2}",
                      ERR_CONFIG, &again);
    ck_assert_ptr_nonnull(strstr(error_text(), "replication.factor is 2"));
    ck_assert_ptr_nonnull(strstr(error_text(), "can't change yet: buckets would have to move"));
    open_meta("network: {peers: 'a:1,b:1,c:1,d:1'}\nnode: {index: 1}\n"
              "cluster: {name: blue, " SECRET "}",
              ERR_CONFIG, &again);
    ck_assert_ptr_nonnull(strstr(error_text(), "node.count is 4"));
    ck_assert_ptr_nonnull(strstr(error_text(), "can't change yet: buckets would have to move"));
    open_meta("", ERR_CONFIG, &again); /* nor become a single node */
}
END_TEST

START_TEST(meta_of_a_single_node_from_before_there_were_others)
{
    struct uuid id;
    configure("data", "");
    mkdir(config.dir, 0755);
    static const char text[] =
        "{\"format\": 1, \"cluster_id\": \"550e8400-e29b-41d4-a716-446655440000\", \"bucket\": "
        "{\"count\": 4}, \"partition\": {\"count\": 32}, \"node\": {\"count\": 1, \"index\": 0}}";
    ck_assert_int_eq(datadir_write_file(config.dir, "meta.json", span_str(text), &error), ERR_OK);
    open_meta("", ERR_OK, &id);
    ck_assert_uint_eq(id.bytes[0], 0x55);
}
END_TEST

static void write_meta(const char *text)
{
    configure("data", "");
    mkdir(config.dir, 0755);
    ck_assert_int_eq(datadir_write_file(config.dir, "meta.json", span_str(text), &error), ERR_OK);
}

START_TEST(damaged_meta_is_refused)
{
    struct uuid id;
    write_meta("{\"format\": 1,\n\"cluster");
    open_meta("", ERR_CORRUPT, &id);
    ck_assert_ptr_nonnull(strstr(error_text(), "/data/meta.json:2: "));
    write_meta("{\"format\": 2}");
    open_meta("", ERR_CONFIG, &id);
    write_meta("{\"format\": 1, \"cluster_id\": \"x\"}");
    open_meta("", ERR_CORRUPT, &id);
    write_meta("[]");
    open_meta("", ERR_CONFIG, &id);
    write_meta("{\"format\": 1, \"cluster_id\": \"550e8400-e29b-41d4-a716-446655440000\", "
               "\"bucket\": {\"count\": \"4\"}}");
    open_meta("", ERR_CORRUPT, &id);
}
END_TEST

START_TEST(missing_meta_beside_data_is_refused)
{
    struct uuid id;
    char path[128];
    snprintf(path, sizeof path, "%s/data", root);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/data/buckets", root);
    mkdir(path, 0755);
    open_meta("", ERR_CORRUPT, &id);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("datadir");
    TCase *tcase = tcase_create("datadir");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, numbers_are_never_given_twice);
    tcase_add_test(tcase, numbers_grow_when_the_directory_was_lost);
    tcase_add_test(tcase, numbers_grow_when_the_clock_goes_back);
    tcase_add_test(tcase, a_damaged_number_file_is_refused);
    tcase_add_test(tcase, a_second_node_is_refused_by_pid);
    tcase_add_test(tcase, a_run_directory_belongs_to_one_node);
    tcase_add_test(tcase, the_run_directory_is_private_and_tidied);
    tcase_add_test(tcase, a_run_directory_with_too_long_a_path_is_refused);
    tcase_add_test(tcase, meta_keeps_what_cannot_change);
    tcase_add_test(tcase, meta_of_a_cluster);
    tcase_add_test(tcase, meta_of_a_single_node_from_before_there_were_others);
    tcase_add_test(tcase, damaged_meta_is_refused);
    tcase_add_test(tcase, missing_meta_beside_data_is_refused);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
