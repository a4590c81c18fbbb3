/* Announcements and questions there and back, and everything else that somebody may send. */
#include "netd/mdns_packet.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static struct mdns_self selves[3];
static struct buf packet;
static struct mdns_announcement heard;

static const struct mdns_address v4 = {.ip = {10, 1, 2, 3}};
static const struct mdns_address v6 = {.v6 = true, .ip = {0xfd, 1, [15] = 9}};

static void setup(void)
{
    for (uint32_t node = 0; node < 3; node++) {
        selves[node] = (struct mdns_self){.cluster_id = {{1, 2, 3, 0xab}},
                                          .cluster_name = span_str("flights"),
                                          .node = node,
                                          .node_count = 3,
                                          .port = (uint16_t)(9190 + node)};
        mdns_make_label(&selves[node], 0x1234567890abcdefull + node);
    }
    packet.len = 0;
    heard = (struct mdns_announcement){.node = 99};
}

static void teardown(void)
{
    buf_release(&packet);
}

static void announce(uint32_t node, bool goodbye)
{
    struct mdns_address addresses[] = {v4, v6};
    packet.len = 0;
    mdns_write_announcement(&packet, &selves[node], addresses, 2, goodbye);
}

static enum mdns_reading reads(uint32_t at)
{
    return mdns_read(buf_span(&packet), &selves[at], &heard);
}

/* Replaces the first `from` in the packet by as many bytes. */
static void replace(const char *from, const char *to)
{
    size_t len = strlen(from);
    ck_assert_uint_eq(len, strlen(to));
    uint8_t *at = memmem(packet.ptr, packet.len, from, len);
    ck_assert_ptr_nonnull(at);
    memcpy(at, to, len);
}

START_TEST(an_announcement_says_all)
{
    announce(1, false);
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
    ck_assert_uint_eq(heard.node, 1);
    ck_assert_uint_eq(heard.port, 9191);
    ck_assert_uint_eq(heard.ttl_s, MDNS_TTL_S);
    ck_assert_uint_eq(heard.address_count, 2);
    ck_assert(mdns_address_equal(&heard.addresses[0], &v4));
    ck_assert(mdns_address_equal(&heard.addresses[1], &v6));
    /* For people; and nothing of the secret could be in it, since it isn't given. */
    ck_assert_ptr_nonnull(memmem(packet.ptr, packet.len, "cluster=flights", 15));
}
END_TEST

START_TEST(a_goodbye_has_no_time_to_live)
{
    announce(2, true);
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
    ck_assert_uint_eq(heard.node, 2);
    ck_assert_uint_eq(heard.ttl_s, 0);
    /* Others may go on offering the service. */
    ck_assert_ptr_null(memmem(packet.ptr, packet.len, "_dns-sd", 7));
}
END_TEST

START_TEST(own_ones_and_twins)
{
    announce(1, false);
    ck_assert_int_eq(reads(1), MDNS_OWN);
    struct mdns_self twin = selves[1];
    mdns_make_label(&twin, 77);
    ck_assert_int_eq(mdns_read(buf_span(&packet), &twin, &heard), MDNS_TWIN);
    ck_assert_uint_eq(heard.node, 99);
}
END_TEST

START_TEST(other_clusters_and_formats_are_nothing)
{
    struct mdns_self other = selves[0];
    other.cluster_id.bytes[15] = 1;
    announce(1, false);
    ck_assert_int_eq(mdns_read(buf_span(&packet), &other, &heard), MDNS_NOTHING);
    static const char *const changes[][2] = {
        {"v=1", "v=2"},       {"v=1", "x=1"}, {"node=1", "node=3"},    {"node=1", "node=a"},
        {"node=1", "node1="}, {"id=", "ie="}, {"node=1", "node=\xff"}, {"id=0102", "id=0202"}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        announce(1, false);
        replace(changes[i][0], changes[i][1]);
        ck_assert_int_eq(reads(0), MDNS_NOTHING);
    }
    ck_assert_uint_eq(heard.node, 99);
}
END_TEST

START_TEST(names_are_the_same_in_any_case)
{
    announce(1, false);
    /* The SRV's owner; others stay as they are. */
    for (size_t i = 0; i + 9 < packet.len; i++)
        if (memcmp(packet.ptr + i, "_sierradb", 9) == 0)
            memcpy(packet.ptr + i, i % 2 == 0 ? "_SIERRAdb" : "_sierraDB", 9);
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
}
END_TEST

START_TEST(long_names_are_cut_in_whole_characters)
{
    char name[201];
    for (size_t i = 0; i < 200; i += 2)
        memcpy(name + i, "\xc3\xa9", 2);
    name[0] = 'x';
    name[1] = 'y';
    selves[1].cluster_name = span_of(name + 1, 199); /* so that the cut falls inside one */
    announce(1, false);
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
    const uint8_t *at = memmem(packet.ptr, packet.len, "cluster=", 8);
    ck_assert_uint_eq(at[-1], 8 + 99);
}
END_TEST

START_TEST(void_addresses_are_none)
{
    struct mdns_address nowhere[] = {{.ip = {0}},
                                     {.ip = {224, 0, 0, 251}},
                                     {.ip = {255, 255, 255, 255}},
                                     {.v6 = true, .ip = {0xff, 2}}};
    packet.len = 0;
    mdns_write_announcement(&packet, &selves[1], nowhere, 4, false);
    ck_assert_int_eq(reads(0), MDNS_NOTHING);
    packet.len = 0;
    mdns_write_announcement(&packet, &selves[1], &v4, 1, false);
    selves[1].port = 0;
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
    packet.len = 0;
    mdns_write_announcement(&packet, &selves[1], &v4, 1, false);
    ck_assert_int_eq(reads(0), MDNS_NOTHING);
}
END_TEST

START_TEST(questions_are_for_whom_they_name)
{
    mdns_write_query(&packet, &selves[0], (uint32_t[]){1}, 1);
    ck_assert_int_eq(reads(0), MDNS_NOTHING);
    ck_assert_int_eq(reads(1), MDNS_ASKS);
    ck_assert_int_eq(reads(2), MDNS_NOTHING);
    packet.len = 0;
    mdns_write_query(&packet, &selves[0], (uint32_t[]){2, 1}, 2);
    ck_assert_int_eq(reads(1), MDNS_ASKS);
    ck_assert_int_eq(reads(2), MDNS_ASKS);
    struct mdns_self other = selves[1];
    other.cluster_id.bytes[0] = 9;
    ck_assert_int_eq(mdns_read(buf_span(&packet), &other, &heard), MDNS_NOTHING);
    packet.len = 0;
    mdns_write_query(&packet, &selves[0], NULL, 0);
    ck_assert_int_eq(reads(1), MDNS_ASKS);
    ck_assert_int_eq(mdns_read(buf_span(&packet), &other, &heard), MDNS_ASKS);
    uint32_t many[MDNS_WANTED_MAX];
    for (uint32_t i = 0; i < MDNS_WANTED_MAX; i++)
        many[i] = 1000 + i;
    many[MDNS_WANTED_MAX - 1] = 2;
    packet.len = 0;
    mdns_write_query(&packet, &selves[0], many, MDNS_WANTED_MAX);
    ck_assert_int_eq(reads(2), MDNS_ASKS);
    ck_assert_int_eq(reads(1), MDNS_NOTHING);
}
END_TEST

/* A question for all, with the sender's list of what it knows: node 1's announcement as a part. */
static void ask_knowing(uint32_t node, bool goodbye)
{
    struct buf known = {0};
    mdns_write_announcement(&known, &selves[node], &v4, 1, goodbye);
    mdns_write_query(&packet, &selves[0], NULL, 0);
    packet.ptr[7] = known.ptr[7];
    buf_append(&packet, known.ptr + 12, known.len - 12);
    buf_release(&known);
}

START_TEST(who_is_known_need_not_answer)
{
    ask_knowing(1, false);
    ck_assert_int_eq(reads(1), MDNS_NOTHING);
    ck_assert_int_eq(reads(2), MDNS_ASKS);
    packet.len = 0;
    ask_knowing(1, true); /* about to be forgotten */
    ck_assert_int_eq(reads(1), MDNS_ASKS);
}
END_TEST

/* "_sierradb._tcp.local" once, and pointers to it, as other programs write it. */
START_TEST(compressed_names)
{
    static const uint8_t text[] = "\3v=1\43id=010203ab000000000000000000000000\6node=2";
    static const uint8_t head[] = {0, 0, 0x84, 0, 0, 0, 0, 3, 0, 0, 0, 0};
    static const uint8_t srv[] =
        "\1X\11_sierradb\4_tcp\5local\0\0\41\200\1\0\0\0\170\0\12\0\0\0\0\43\360"
        "\1H\300\32";
    static const uint8_t a[] = "\300\53\0\1\200\1\0\0\0\170\0\4\12\0\0\7";
    buf_append(&packet, head, sizeof head);
    buf_append(&packet, srv, sizeof srv - 1);
    ck_assert_uint_eq(packet.ptr[0x1d], 5); /* where "local" begins */
    packet.ptr[packet.len - 1] = 0x1d;
    size_t host = packet.len - 4;
    buf_append(&packet, "\300\14\0\20\200\1\0\0\0\170\0", 11);
    uint8_t len = sizeof text - 1;
    buf_append(&packet, &len, 1);
    buf_append(&packet, text, len);
    size_t at = packet.len;
    buf_append(&packet, a, sizeof a - 1);
    packet.ptr[at + 1] = (uint8_t)host;
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
    ck_assert_uint_eq(heard.node, 2);
    ck_assert_uint_eq(heard.port, 9200);
    ck_assert_uint_eq(heard.address_count, 1);
    ck_assert_uint_eq(heard.addresses[0].ip[3], 7);
    /* A pointer at itself, forwards, into the head: no name. */
    for (unsigned to = 0; to < 3; to++) {
        packet.ptr[at + 1] = (uint8_t)(to == 0 ? at : to == 1 ? at + 2 : 4);
        ck_assert_int_eq(reads(0), MDNS_NOTHING);
    }
}
END_TEST

START_TEST(what_is_cut_off_or_damaged_does_no_harm)
{
    announce(1, false);
    struct buf whole = {0};
    buf_append(&whole, packet.ptr, packet.len);
    for (size_t len = 0; len < whole.len; len++) {
        /* In memory of its own, so that a byte too far is seen. */
        uint8_t *copy = malloc(len + 1);
        memcpy(copy, whole.ptr, len);
        enum mdns_reading reading = mdns_read(span_of(copy, len), &selves[0], &heard);
        /* Without its last address it is still one. */
        ck_assert(reading == MDNS_NOTHING ||
                  (reading == MDNS_ANNOUNCES && heard.address_count == 1 && len > whole.len / 2));
        free(copy);
    }
    for (size_t at = 0; at < whole.len; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            memcpy(packet.ptr, whole.ptr, whole.len);
            packet.ptr[at] ^= (uint8_t)(1u << bit);
            heard = (struct mdns_announcement){0};
            if (reads(0) == MDNS_ANNOUNCES) {
                ck_assert_uint_lt(heard.node, 3);
                ck_assert_uint_le(heard.address_count, MDNS_ADDRESSES_MAX);
                ck_assert_uint_ne(heard.port, 0);
                ck_assert_uint_le(heard.ttl_s, MDNS_TTL_S);
            }
        }
    }
    buf_release(&whole);
}
END_TEST

START_TEST(larger_packets_and_errors_are_not_looked_at)
{
    announce(1, false);
    packet.ptr[3] = 3; /* an error's code */
    ck_assert_int_eq(reads(0), MDNS_NOTHING);
    announce(1, false);
    size_t len = packet.len;
    buf_append_zeros(&packet, MDNS_PACKET_BYTES_MAX - len);
    ck_assert_int_eq(reads(0), MDNS_ANNOUNCES);
    buf_append_zeros(&packet, 1);
    ck_assert_int_eq(reads(0), MDNS_NOTHING);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mdns_packet");
    TCase *tcase = tcase_create("packets");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, an_announcement_says_all);
    tcase_add_test(tcase, a_goodbye_has_no_time_to_live);
    tcase_add_test(tcase, own_ones_and_twins);
    tcase_add_test(tcase, other_clusters_and_formats_are_nothing);
    tcase_add_test(tcase, names_are_the_same_in_any_case);
    tcase_add_test(tcase, long_names_are_cut_in_whole_characters);
    tcase_add_test(tcase, void_addresses_are_none);
    tcase_add_test(tcase, questions_are_for_whom_they_name);
    tcase_add_test(tcase, who_is_known_need_not_answer);
    tcase_add_test(tcase, compressed_names);
    tcase_add_test(tcase, what_is_cut_off_or_damaged_does_no_harm);
    tcase_add_test(tcase, larger_packets_and_errors_are_not_looked_at);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
