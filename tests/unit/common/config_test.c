/* Configuration: defaults, every kind of error with its place, precedence, the round trip to the
 * children. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/config_keys.h"
#include "common/limits.h"

static struct config config;
static struct buf error;

static void setup(void)
{
    config_init(&config);
}

static void teardown(void)
{
    config_release(&config);
    buf_release(&error);
}

static enum err parse(const char *text)
{
    return config_parse(&config, span_str(text), "f.yaml", &error);
}

/* The error of the last call, whole. */
static void check_error(const char *text)
{
    buf_append_zeros(&error, 1);
    ck_assert_str_eq((char *)error.ptr, text);
}

static void check_parse_error(const char *text, const char *expected)
{
    ck_assert_int_eq(parse(text), ERR_CONFIG);
    check_error(expected);
}

static void check_finish_error(const char *text, const char *expected)
{
    ck_assert_int_eq(parse(text), ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_CONFIG);
    check_error(expected);
}

START_TEST(defaults_are_those_of_the_documentation)
{
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    ck_assert_uint_eq(config.bucket.count, 4);
    ck_assert_uint_eq(config.bucket.ids_count, 0);
    ck_assert_uint_eq(config.partition.count, 32);
    ck_assert_str_eq(config.network.client_address, "0.0.0.0:9090");
    ck_assert_uint_eq(config.cache.capacity_bytes, 256 << 20);
    ck_assert_uint_eq(config.segment.size_bytes, 256 << 20);
    ck_assert_uint_eq(config.append.max_event_bytes, EVENT_BYTES_DEFAULT);
    ck_assert_uint_eq(config.append.max_transaction_bytes, TRANSACTION_BYTES_DEFAULT);
    ck_assert_uint_eq(config.network.bucket_inflight_bytes, APPEND_BATCH_BYTES);
    ck_assert_uint_eq(config.network.reply_bytes, 8 << 20);
    ck_assert_uint_eq(config.replication.factor, 1);
    ck_assert(config.append.strict_versioning);
    ck_assert(!config.network.mdns);
    ck_assert_uint_eq(config.heartbeat.timeout_ms, 6000);
    ck_assert_uint_eq(config.sync.interval_ms, 5);
    ck_assert_uint_eq(config.replication.catchup_timeout_ms, 2000);
    ck_assert_uint_eq(config.replication.tick_ms, 100);
    ck_assert_uint_eq(config.replication.election_timeout_ms, 1000);
    ck_assert_uint_eq(config.replication.stale_after_ms, 10000);
    ck_assert_uint_eq(config.replication.uncommitted_bytes, 64 << 20);
    ck_assert_str_eq(config.cluster.name, "sierradb");
    ck_assert_str_eq(config.cluster.secret, "");
    ck_assert(config.cluster.balance_leaders);
    ck_assert_uint_eq(config.network.peers.count, 0);
    ck_assert_int_eq(config.dir[0], '/');
    char run[4096];
    snprintf(run, sizeof run, "%s/run", config.dir);
    ck_assert_str_eq(config.run_dir, run);
}
END_TEST

START_TEST(yaml_and_json_are_read)
{
    ck_assert_int_eq(parse("# comment\ndir: /x/y\nbucket:\n  count: 8\n  ids: [0, 3]\n"
                           "segment: {size_bytes: 1MiB, compression: no}\n"), ERR_OK);
    ck_assert_int_eq(
        parse("{\"network\": {\"client_address\": \"127.0.0.1:1\",\n\t"
              "\"max_clients\": 7, \"default_protocol\": 2, \"password\": \"a\\\"b\"}}"),
        ERR_OK);
    ck_assert_str_eq(config.dir, "/x/y");
    ck_assert_uint_eq(config.bucket.count, 8);
    ck_assert_uint_eq(config.bucket.ids_count, 2);
    ck_assert_uint_eq(config.bucket.ids[1], 3);
    ck_assert_uint_eq(config.segment.size_bytes, 1 << 20);
    ck_assert(!config.segment.compression);
    ck_assert_uint_eq(config.network.max_clients, 7);
    ck_assert_str_eq(config.network.default_protocol, "2");
    ck_assert_str_eq(config.network.password, "a\"b");
    ck_assert_int_eq(parse(""), ERR_OK);
    ck_assert_int_eq(parse("# nothing\n"), ERR_OK);
    ck_assert_int_eq(parse("---\n"), ERR_OK);
}
END_TEST

START_TEST(byte_sizes_take_suffixes)
{
    static const struct { const char *text; uint64_t bytes; } cases[] = {
        {"131072", 131072}, {"128k", 131072}, {"128K", 131072}, {"256KiB", 262144}, {"1M", 1 << 20},
        {"2MB", 2 << 20}, {"1G", 1 << 30}, {"300000B", 300000}, {"10GiB", 10ull << 30},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(config_set(&config, "segment.size_bytes", cases[i].text, "-x", &error),
                         ERR_OK);
        ck_assert_uint_eq(config.segment.size_bytes, cases[i].bytes);
    }
    static const char *const wrong[] = {"",
                                        "k",
                                        "1x",
                                        "1kk",
                                        "1 k",
                                        "-1",
                                        "1.5M",
                                        "0x10",
                                        "99999999999999999999",
                                        "18446744073709551615T",
                                        "11GiB",
                                        "1iB",
                                        "131071"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        ck_assert_int_eq(config_set(&config, "segment.size_bytes", wrong[i], "-x", &error),
                         ERR_CONFIG);
    ck_assert_uint_eq(config.segment.size_bytes, 10ull << 30);
}
END_TEST

#define PEERS_EXPECTED                                                                             \
    "f.yaml:1: network.peers: expected a list of different HOST:PORT, as in "                      \
    "node0:9190,10.0.0.2:9190,[::1]:9190, got "

static const struct {
    const char *text, *error;
} parse_errors[] = {
    {"bucket:\n  size: 3\n", "f.yaml:2: bucket.size: unknown key; expected one of count, ids\n"},
    {"\n\nsegment:\n  size_bytes: big\n",
     "f.yaml:4: segment.size_bytes: expected a number of bytes from 131072 to 10737418240 (64k, "
     "256MiB, 2G are fine too), got 'big'\n"},
    {"bucket:\n  count: 0\n",
     "f.yaml:2: bucket.count: expected a number from 1 to 1024, got '0'\n"},
    {"bucket:\n  count: 1025\n",
     "f.yaml:2: bucket.count: expected a number from 1 to 1024, got '1025'\n"},
    {"bucket:\n  count: \"4\"\n",
     "f.yaml:2: bucket.count: expected a number from 1 to 1024, got a string\n"},
    {"bucket:\n  count: 99999999999999999999\n",
     "f.yaml:2: bucket.count: expected a number from 1 to 1024, got '99999999999999999999'\n"},
    {"bucket:\n  count: [1]\n",
     "f.yaml:2: bucket.count: expected a number from 1 to 1024, got a list\n"},
    {"bucket:\n  count:\n",
     "f.yaml:2: bucket.count: expected a number from 1 to 1024, got nothing\n"},
    {"bucket: 4\n", "f.yaml:1: bucket: expected a section with keys, got a value\n"},
    {"bucket:\n  ids: [0, x]\n", "f.yaml:2: bucket.ids: expected numbers, got 'x'\n"},
    {"bucket:\n  ids: [1, 1]\n", "f.yaml:2: bucket.ids: expected all, or a list of different "
                                 "numbers from 0 to 1023, got '1,1'\n"},
    {"bucket:\n  ids: []\n",
     "f.yaml:2: bucket.ids: expected all, or a list of different numbers from 0 to 1023, got ''\n"},
    {"append:\n  strict_versioning: maybe\n",
     "f.yaml:2: append.strict_versioning: expected true or false, got 'maybe'\n"},
    {"network:\n  client_address: localhost\n",
     "f.yaml:2: network.client_address: expected IP:PORT, as in 127.0.0.1:9090 or [::1]:9090, got "
     "'localhost'\n"},
    {"network:\n  client_address: 1.2.3.4:70000\n",
     "f.yaml:2: network.client_address: expected IP:PORT, as in 127.0.0.1:9090 or [::1]:9090, got "
     "'1.2.3.4:70000'\n"},
    {"network:\n  default_protocol: 4\n",
     "f.yaml:2: network.default_protocol: expected auto, 2 or 3, got '4'\n"},
    {"replication: {factor: 8}\n",
     "f.yaml:1: replication.factor: expected a number from 0 to 7, got '8'\n"},
    {"network: {peers: [a:1, {b: 1}]}\n",
     "f.yaml:1: network.peers: expected HOST:PORT entries, got a section\n"},
    {"network: {peers: [a:1, 'b:2,c:3']}\n",
     "f.yaml:1: network.peers: expected HOST:PORT entries, got 'b:2,c:3'\n"},
    {"network: {peers: [a:1, b]}\n", PEERS_EXPECTED "entry 1, 'b': no port\n"},
    {"network: {peers: 'a:1,b:1,A:1'}\n", PEERS_EXPECTED "entry 2, 'A:1': it is there already\n"},
    {"cluster:\n  secret: \"very\\nsecret\"\n",
     "f.yaml:2: cluster.secret: expected UTF-8 text without control characters, got something "
     "else\n"},
    {"log_level: loud\n", "f.yaml:1: log_level: expected debug, info, warn or error, got 'loud'\n"},
    {"dir: ~\n",
     "f.yaml:1: dir: expected a path in UTF-8 without control characters, got nothing\n"},
    {"dir: {a: b}\n",
     "f.yaml:1: dir: expected a path in UTF-8 without control characters, got a section\n"},
    {"dir: \"a\\nb\"\n",
     "f.yaml:1: dir: expected a path in UTF-8 without control characters, got 'a\nb'\n"},
    {"dir: \"a\\0b\"\n", "f.yaml:1: dir: expected a path in UTF-8 without control characters, got "
                         "text with a NUL byte\n"},
    {"dir: a\ndir: b\n",
     "f.yaml:2: dir: expected a path in UTF-8 without control characters, got it a second time\n"},
    {"- a\n", "f.yaml:1: expected sections with keys, got a list\n"},
    {"just text\n", "f.yaml:1: expected sections with keys, got a value\n"},
    {"dir: a\n---\ndir: b\n", "f.yaml:2: expected one document, got a second one\n"},
    {"dir: &x a\nrun_dir: *x\n", "f.yaml:2: expected plain values, got an alias (*x)\n"},
    {"? [a]\n: b\n", "f.yaml:1: expected a key, got a list\n"},
    {"bucket:\n  count: 4\n bad: 1\n", "f.yaml:3: not YAML or JSON: did not find expected key\n"},
    {"{\"dir\": \"x\"", "f.yaml:2: not YAML or JSON: did not find expected ',' or '}'\n"},
    {"dir: \x01\n", "f.yaml:1: not YAML or JSON: control characters are not allowed\n"},
    {"nodes: 3\n", "f.yaml:1: nodes: expected a list of entries, one for each node, got a value\n"},
    {"nodes: [x]\n", "f.yaml:1: nodes[0]: expected sections with keys, got a value\n"},
    {"nodes:\n- dir: a\n- bucket:\n    count: x\n",
     "f.yaml:4: nodes[1]: bucket.count: expected a number from 1 to 1024, got 'x'\n"},
    {"nodes:\n- nodes: []\n",
     "f.yaml:2: nodes[0]: nodes: unknown key; expected one of dir, run_dir, log_level, append, "
     "bucket, cache, cluster, heartbeat, network, node, partition, replication, segment, sync, "
     "threads, supervisor, nodes\n"},
};

START_TEST(parse_errors_name_line_key_and_expectation)
{
    check_parse_error(parse_errors[_i].text, parse_errors[_i].error);
}
END_TEST

#define PEERS3  "network: {peers: [a:1, 'b:1', c:1]}\n"
#define SECRET    "cluster: {secret: 0123456789abcdef}\n"

static const struct {
    const char *text, *error;
} finish_errors[] = {
    {"bucket: {count: 6}", "f.yaml:1: bucket.count: expected a power of two, got 6\n"},
    {"bucket: {count: 64}",
     "f.yaml:1: bucket.count: expected at most partition.count (32), got 64\n"},
    {"bucket: {ids: [0, 4]}",
     "f.yaml:1: bucket.ids: expected numbers less than bucket.count (4), got 4\n"},
    {"partition: {ids: [0, 4]}",
     "f.yaml:1: partition.ids: expected all of the 32 partitions, each once, got 2\n"},
    {"heartbeat: {timeout_ms: 1000}",
     "f.yaml:1: heartbeat.timeout_ms: expected more than heartbeat.interval_ms (1000), got 1000\n"},
    {"cluster: {name: ''}", "f.yaml:1: cluster.name: expected a name, got nothing\n"},
    {"cluster: {secret: short}",
     "f.yaml:1: cluster.secret: expected 16 characters at least, got 5: `openssl rand -hex 32` "
     "makes a good one\n"},
    {PEERS3 SECRET "node: {index: 3}",
     "f.yaml:3: node.index: expected less than node.count (3), got 3\n"},
    {PEERS3 SECRET "node: {index: 1}\nreplication: {factor: 4}",
     "f.yaml:4: replication.factor: expected at most node.count (3), got 4\n"},
    {PEERS3 SECRET, "node.index: needed where node.count is above 1 (it is 3): give "
                      "--node-index or set it in the file\n"},
    {PEERS3 SECRET "node: {index: 0, count: 2}",
     "f.yaml:1: network.peers: expected node.count (2) entries, one for each node in the order of "
     "node.index, got 3\n"},
    {PEERS3 SECRET "node: {index: 0, count: 1}",
     "f.yaml:1: network.peers: expected node.count (1) entries, one for each node in the order of "
     "node.index, got 3\n"},
    {SECRET "node: {index: 0, count: 2}",
     "network.peers: expected node.count (2) entries, one for each node in the order of "
     "node.index, got 0; or network.mdns true\n"},
    {SECRET "node: {index: 0, count: 3}\nnetwork: {mdns: true, peers: 'a:1,b:2'}",
     "f.yaml:3: network.peers: expected node.count (3) entries, one for each node in the order of "
     "node.index, got 2\n"},
    {SECRET "node: {count: 3}\nnetwork: {mdns: true}",
     "node.index: needed where node.count is above 1 (it is 3): give "
     "--node-index or set it in the file\n"},
    {PEERS3 "node: {index: 0}",
     "cluster.secret: expected a secret that all nodes share, where node.count is above 1 (it is "
     "3), got none: give cluster.secret_file (or SIERRADB_CLUSTER_SECRET)\n"},
    {PEERS3 "node: {index: 0}\ncluster: {secret_file: /nonexistent/secret}",
     "f.yaml:3: cluster.secret_file: expected a file with the cluster's secret, got "
     "'/nonexistent/secret': No such file or directory\n"},
    {"cluster: {secret_file: /dev/null}",
     "f.yaml:1: cluster.secret_file: expected a regular file, got '/dev/null'\n"},
    {"replication: {tick_ms: 400}",
     "replication.election_timeout_ms: expected at least 3 times replication.tick_ms (400), got "
     "1000\n"},
    {"replication: {stale_after_ms: 999}",
     "f.yaml:1: replication.stale_after_ms: expected at least replication.election_timeout_ms "
     "(1000), got 999\n"},
    {"node: {count: 2}", "node.index: needed where node.count is above 1 (it is 2): give "
                         "--node-index or set it in the file\n"},
    {"node: {count: 2, index: 2}",
     "f.yaml:1: node.index: expected less than node.count (2), got 2\n"},
    {"node: {count: 2, index: 1}\nnetwork: {cluster_enabled: false}",
     "f.yaml:2: network.cluster_enabled: expected true where node.count is above 1 (it is 2), got "
     "false\n"},
    {"replication: {factor: 2}",
     "f.yaml:1: replication.factor: expected at most node.count (1), got 2\n"},
    {"node: {count: 40, index: 1}", "partition.count: expected at least node.count (40), got 32\n"},
    {"segment: {size_bytes: 1MiB}\nappend: {max_event_bytes: 512k}",
     "f.yaml:2: append.max_event_bytes: expected at most a quarter of segment.size_bytes (262144), "
     "got "
     "524288\n"},
    {"append: {max_transaction_bytes: 1MiB}",
     "f.yaml:1: append.max_transaction_bytes: expected at least "
     "append.max_event_bytes (8388608), got 1048576\n"},
    {"dir: \"\"", "f.yaml:1: dir: expected a path, got nothing\n"},
};

START_TEST(relations_between_keys_are_checked)
{
    check_finish_error(finish_errors[_i].text, finish_errors[_i].error);
}
END_TEST

START_TEST(small_segments_lower_the_default_limits)
{
    ck_assert_int_eq(parse("segment: {size_bytes: 128k}"), ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    ck_assert_uint_eq(config.append.max_event_bytes, 32768);
    ck_assert_uint_eq(config.append.max_transaction_bytes, 32768);
}
END_TEST

START_TEST(peers_are_names_or_addresses_with_ports)
{
    struct config_peers peers;
    struct buf why = {0}, text = {0};
    const char *given = "node-0.sierra_net:9190,10.0.0.2:1,[fe80::2]:65535,x:9";
    ck_assert(config_parse_peers(given, &peers, &why));
    ck_assert_uint_eq(peers.count, 4);
    ck_assert_str_eq(peers.list[0].host, "node-0.sierra_net");
    ck_assert_uint_eq(peers.list[0].port, 9190);
    ck_assert_str_eq(peers.list[2].host, "fe80::2");
    ck_assert_uint_eq(peers.list[2].port, 65535);
    for (unsigned i = 0; i < peers.count; i++) {
        buf_printf(&text, i > 0 ? "," : "");
        config_print_peer(&peers.list[i], &text);
    }
    ck_assert(span_equal(buf_span(&text), span_str(given)));
    config_release_peers(&peers);
    ck_assert(config_parse_peers("", &peers, &why));
    ck_assert_uint_eq(peers.count, 0);
    ck_assert_uint_eq(why.len, 0);
    static const char *const wrong[][2] = {
        {",", "entry 0, '': no port"},
        {"a:1,", "entry 1, '': no port"},
        {"a", "entry 0, 'a': no port"},
        {"a:", "entry 0, 'a:': the port is not a number from 1 to 65535"},
        {"a:0", "entry 0, 'a:0': the port is not a number from 1 to 65535"},
        {"a:65536", "entry 0, 'a:65536': the port is not a number from 1 to 65535"},
        {"a:1x", "entry 0, 'a:1x': the port is not a number from 1 to 65535"},
        {":1", "entry 0, ':1': neither a name nor an address"},
        {"a b:1", "entry 0, 'a b:1': neither a name nor an address"},
        {"a..b:1", "entry 0, 'a..b:1': neither a name nor an address"},
        {"300.1.1.1:1", "entry 0, '300.1.1.1:1': neither a name nor an address"},
        {"tcp://a:1", "entry 0, 'tcp://a:1': an IPv6 address stands in [ ]"},
        {"::1:1", "entry 0, '::1:1': an IPv6 address stands in [ ]"},
        {"[::1]", "entry 0, '[::1]': no port"},
        {"[::1:1", "entry 0, '[::1:1': no ]"},
        {"[a]:1", "entry 0, '[a]:1': neither a name nor an address"},
        {"b:2,a:1,b:2", "entry 2, 'b:2': it is there already"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        why.len = 0;
        ck_assert_msg(!config_parse_peers(wrong[i][0], &peers, &why), "taken: %s", wrong[i][0]);
        buf_append_zeros(&why, 1);
        ck_assert_str_eq((char *)why.ptr, wrong[i][1]);
    }
    buf_release(&why);
    buf_release(&text);
}
END_TEST

/* A file in /tmp with this content and mode; its path is set as cluster.secret_file. */
static void give_secret_file(const char *content, size_t len, mode_t mode, char path[static 32])
{
    snprintf(path, 32, "/tmp/config_test.XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, content, len), (ssize_t)len);
    ck_assert_int_eq(fchmod(fd, mode), 0);
    close(fd);
    ck_assert_int_eq(config_set(&config, "cluster.secret_file", path, "-x", &error), ERR_OK);
}

START_TEST(peers_may_be_left_to_multicast_dns)
{
    static const char text[] = SECRET "node: {index: 2, count: 3}\nnetwork: {mdns: true}\n";
    ck_assert_int_eq(config_parse(&config, span_str(text), "f.yaml", &error), ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    ck_assert_uint_eq(config.network.peers.count, 0);
    ck_assert_uint_eq(config.node.count, 3);
    ck_assert_uint_eq(config.replication.factor, 3);
    /* Beside them it changes nothing. */
    ck_assert_int_eq(config_set(&config, "network.peers", "a:1,b:1,c:1", "-x", &error), ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    ck_assert_uint_eq(config.network.peers.count, 3);
}
END_TEST

START_TEST(the_secret_may_come_from_a_file)
{
    char path[32], expected[256];
    char *env[] = {"SIERRADB_NETWORK_PEERS=a:1,b:1,c:1", "SIERRADB_NODE_INDEX=2", NULL};
    ck_assert_int_eq(config_load_env(&config, env, &error), ERR_OK);
    give_secret_file("0123456789abcdef \n\n", 19, 0640, path);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    unlink(path);
    ck_assert_str_eq(config.cluster.secret, "0123456789abcdef");
    ck_assert_uint_eq(config.node.count, 3);
    ck_assert_uint_eq(config.replication.factor, 3);
    /* The children get the secret itself: they may not even see the file. */
    struct buf printed = {0}, shown = {0};
    struct config child;
    config_print(&config, &printed);
    config_init(&child);
    ck_assert_int_eq(config_parse(&child, buf_span(&printed), "config", &error), ERR_OK);
    ck_assert_int_eq(config_finish(&child, &error), ERR_OK);
    ck_assert_str_eq(child.cluster.secret, "0123456789abcdef");
    ck_assert_str_eq(child.network.peers.list[1].host, "b");
    config_release(&child);
    config_print_shown(&config, &shown);
    buf_append_zeros(&shown, 1);
    ck_assert_ptr_null(strstr((char *)shown.ptr, "0123456789abcdef"));
    ck_assert_ptr_nonnull(strstr((char *)shown.ptr, "\n  secret: \"(hidden)\"\n"));
    ck_assert_ptr_nonnull(strstr((char *)shown.ptr, "\n  password: \"\"\n"));
    buf_release(&printed);
    buf_release(&shown);

    static const struct {
        const char *content;
        size_t len;
        mode_t mode;
        const char *error;
    } wrong[] = {
        {"0123456789abcdef", 16, 0644,
         "a file that nobody else may use (chmod 600), got mode 644 of '%s'"},
        {"0123456789abcdef", 16, 0620,
         "a file that nobody else may use (chmod 600), got mode 620 of '%s'"},
        {"\n", 1, 0600, "one line of UTF-8 text, at most 4096 bytes, in '%s'"},
        {"0123456789\nabcdef", 17, 0600, "one line of UTF-8 text, at most 4096 bytes, in '%s'"},
        {"0123456789\0abcdef", 17, 0600, "one line of UTF-8 text, at most 4096 bytes, in '%s'"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ck_assert_int_eq(config_set(&config, "cluster.secret", "", "-x", &error), ERR_OK);
        give_secret_file(wrong[i].content, wrong[i].len, wrong[i].mode, path);
        ck_assert_int_eq(config_finish(&config, &error), ERR_CONFIG);
        unlink(path);
        char text[160];
        snprintf(text, sizeof text, wrong[i].error, path);
        snprintf(expected, sizeof expected, "-x: cluster.secret_file: expected %s\n", text);
        check_error(expected);
        error.len = 0;
    }
}
END_TEST

START_TEST(environment_sets_keys)
{
    char *env[] = {"HOME=/",
                   "SIERRADB_BUCKET_COUNT=16",
                   "SIERRADB_SEGMENT__SIZE_BYTES=1MiB",
                   "SIERRADB_DIR=/d",
                   "SIERRADB_BUCKET_IDS=0-2,5",
                   "SIERRADB_SERVICE_HOST=10.0.0.1",
                   "SIERRADB_PORT=tcp://10.0.0.1:9090",
                   "SIERRADB_PORT_9090_TCP_ADDR=10.0.0.1",
                   "SIERRADB_MAIN_SERVICE_PORT=9",
                   NULL};
    ck_assert_int_eq(config_load_env(&config, env, &error), ERR_OK);
    ck_assert_uint_eq(config.bucket.count, 16);
    ck_assert_uint_eq(config.segment.size_bytes, 1 << 20);
    ck_assert_str_eq(config.dir, "/d");
    ck_assert_uint_eq(config.bucket.ids_count, 4);
    ck_assert_uint_eq(config.bucket.ids[3], 5);
    char *wrong[] = {"SIERRADB_BUCKET_COUNT=many", NULL};
    ck_assert_int_eq(config_load_env(&config, wrong, &error), ERR_CONFIG);
    check_error("environment variable SIERRADB_BUCKET_COUNT: bucket.count: expected a number from "
                "1 to 1024, got 'many'\n");
    buf_clear(&error, 0);
    char *unknown[] = {"SIERRADB_BUCKET_SIZE=4", NULL};
    ck_assert_int_eq(config_load_env(&config, unknown, &error), ERR_CONFIG);
    check_error("environment variable SIERRADB_BUCKET_SIZE: unknown key; `sierradb --help-config` "
                "lists all keys\n");
}
END_TEST

START_TEST(command_line_names_its_option)
{
    ck_assert_int_eq(config_set(&config, "network.client_address", "x", "--client-address", &error),
                     ERR_CONFIG);
    check_error("--client-address: network.client_address: expected IP:PORT, as in 127.0.0.1:9090 "
                "or [::1]:9090, got 'x'\n");
    buf_clear(&error, 0);
    ck_assert_int_eq(config_set(&config, "nothing.here", "x", "-o", &error), ERR_CONFIG);
    check_error("-o: nothing.here: unknown key; `sierradb --help-config` lists all keys\n");
    ck_assert_int_eq(config_set(&config, "network.client_address", "[::1]:9090", "-c", &error),
                     ERR_OK);
}
END_TEST

START_TEST(a_nodes_entry_stands_between_file_and_environment)
{
    ck_assert_int_eq(
        parse(
            "nodes:\n- dir: /n0\n- dir: /n1\n  bucket: {count: 2}\n  cache: {capacity_bytes: 1M}\n"
            "cache: {capacity_bytes: 2M}\nbucket: {count: 1}\nnetwork: {peers: 'a:1,b:1'}\n"
            SECRET),
        ERR_OK);
    char *env[] = {"SIERRADB_BUCKET_COUNT=8", "SIERRADB_NODE_INDEX=1", NULL};
    ck_assert_int_eq(config_load_env(&config, env, &error), ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    ck_assert_uint_eq(config.node.count, 2);
    ck_assert_str_eq(config.dir, "/n1");
    ck_assert_uint_eq(config.cache.capacity_bytes, 1 << 20);
    ck_assert_uint_eq(config.bucket.count, 8);
    ck_assert_uint_eq(config.replication.factor, 2);
}
END_TEST

START_TEST(printed_configuration_reads_back_equal)
{
    ck_assert_int_eq(parse("dir: '/a \"b\\ ü: #'\nbucket: {ids: [3, 0]}\nnetwork: {password: '  *x "
                           "'}\nlog_level: warn\n"),
                     ERR_OK);
    ck_assert_int_eq(config_finish(&config, &error), ERR_OK);
    struct buf first = {0}, second = {0};
    config_print(&config, &first);
    struct config child;
    config_init(&child);
    ck_assert_int_eq(config_parse(&child, buf_span(&first), "config", &error), ERR_OK);
    ck_assert_int_eq(config_finish(&child, &error), ERR_OK);
    config_print(&child, &second);
    ck_assert(span_equal(buf_span(&first), buf_span(&second)));
    ck_assert_str_eq(child.dir, "/a \"b\\ ü: #");
    ck_assert_str_eq(child.network.password, "  *x ");
    config_release(&child);
    buf_release(&first);
    buf_release(&second);
}
END_TEST

START_TEST(files_that_cannot_be_read_are_named)
{
    ck_assert_int_eq(config_load_file(&config, "/nonexistent/x.yaml", &error), ERR_CONFIG);
    check_error("/nonexistent/x.yaml: No such file or directory\n");
    buf_clear(&error, 0);
    ck_assert_int_eq(config_load_file(&config, "/", &error), ERR_CONFIG);
    check_error("/: Is a directory\n");
}
END_TEST

START_TEST(every_key_is_in_the_help)
{
    struct buf help = {0}, all = {0};
    config_print_help(&help);
    config_print(&config, &all);
    size_t help_lines = 0, keys = 0;
    for (size_t i = 0; i < help.len; i++)
        help_lines += help.ptr[i] == '\n';
    for (size_t i = 0; i + 1 < all.len; i++)
        keys += all.ptr[i] == ':' && all.ptr[i + 1] == ' ';
    ck_assert_uint_eq(help_lines, keys + 1);
    buf_release(&help);
    buf_release(&all);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("config");
    TCase *tcase = tcase_create("config");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, defaults_are_those_of_the_documentation);
    tcase_add_test(tcase, yaml_and_json_are_read);
    tcase_add_test(tcase, byte_sizes_take_suffixes);
    tcase_add_loop_test(tcase, parse_errors_name_line_key_and_expectation, 0,
                        sizeof parse_errors / sizeof *parse_errors);
    tcase_add_loop_test(tcase, relations_between_keys_are_checked, 0,
                        sizeof finish_errors / sizeof *finish_errors);
    tcase_add_test(tcase, small_segments_lower_the_default_limits);
    tcase_add_test(tcase, peers_are_names_or_addresses_with_ports);
    tcase_add_test(tcase, peers_may_be_left_to_multicast_dns);
    tcase_add_test(tcase, the_secret_may_come_from_a_file);
    tcase_add_test(tcase, environment_sets_keys);
    tcase_add_test(tcase, command_line_names_its_option);
    tcase_add_test(tcase, a_nodes_entry_stands_between_file_and_environment);
    tcase_add_test(tcase, printed_configuration_reads_back_equal);
    tcase_add_test(tcase, files_that_cannot_be_read_are_named);
    tcase_add_test(tcase, every_key_is_in_the_help);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
