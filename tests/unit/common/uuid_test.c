/* UUIDs: published test vectors, text forms, and the fields of generated ids. */
#include "common/uuid.h"

#include <check.h>
#include <stdlib.h>

static const char sample[] = "550e8400-e29b-41d4-a716-446655440000";

static void expect_text(const struct uuid *uuid, const char *expected)
{
    char text[UUID_TEXT_LEN + 1] = {0};
    uuid_format(uuid, text);
    ck_assert_str_eq(text, expected);
}

static void expect_parsed(const char *text, const char *expected)
{
    struct uuid uuid;
    ck_assert_msg(uuid_parse(span_str(text), &uuid), "refused: '%s'", text);
    expect_text(&uuid, expected);
}

/* The text is copied to a block of its exact size, so that a read beyond it is caught. */
static void expect_refused(const char *text)
{
    size_t len = strlen(text);
    uint8_t *copy = malloc(len + (len == 0));
    memcpy(copy, text, len);
    struct uuid uuid;
    memset(&uuid, 0xab, sizeof uuid);
    ck_assert_msg(!uuid_parse(span_of(copy, len), &uuid), "accepted: '%s'", text);
    for (unsigned i = 0; i < 16; i++)
        ck_assert_uint_eq(uuid.bytes[i], 0xab);
    free(copy);
}

START_TEST(partition_keys_match_the_published_ones)
{
    static const struct {
        const char *stream, *key;
        uint16_t hash, partition, bucket;
    } vectors[] = {
        {"user-123", "7e124fe8-fe28-5398-bb95-53973100148f", 0xee55, 21, 1},
        {"s", "b5caaf75-d5ce-5289-a5cb-29de88f7c202", 0x972c, 12, 0},
        {"my-stream", "fa3e31cd-2f38-5aee-bb91-8bc6fbf950a3", 0xee46, 6, 2},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "f4476fe2-b0ef-5d5a-b58d-0e728dfcd44d", 0xd634, 20, 0},
    };
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        struct uuid key = uuid_partition_key(span_str(vectors[i].stream));
        expect_text(&key, vectors[i].key);
        ck_assert_uint_eq(uuid_hash(&key), vectors[i].hash);
        ck_assert_uint_eq(uuid_hash(&key) % 32, vectors[i].partition);
        ck_assert_uint_eq(uuid_hash(&key) % 32 % 4, vectors[i].bucket);
    }
    struct uuid given;
    ck_assert(uuid_parse(span_str(sample), &given));
    ck_assert_uint_eq(uuid_hash(&given), 0x9c59);
}
END_TEST

START_TEST(every_text_form_is_parsed)
{
    expect_parsed(sample, sample);
    expect_parsed("550e8400e29b41d4a716446655440000", sample);
    expect_parsed("550E8400-E29B-41D4-A716-446655440000", sample);
    expect_parsed("{550e8400-e29b-41d4-a716-446655440000}", sample);
    expect_parsed("{550e8400e29b41d4a716446655440000}", sample);
    expect_parsed("urn:uuid:550e8400-e29b-41d4-a716-446655440000", sample);
    expect_parsed("URN:UUID:550e8400-e29b-41d4-a716-446655440000", sample);
    expect_parsed("  550e8400-e29b-41d4-a716-446655440000\t ", sample);
    expect_parsed("00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000");
    expect_parsed("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", "ffffffff-ffff-ffff-ffff-ffffffffffff");
}
END_TEST

START_TEST(what_is_no_uuid_is_refused)
{
    static const char *const texts[] = {
        "",
        " ",
        "{",
        "{}",
        "}",
        "urn:uuid:",
        "x",
        "550e8400-e29b-41d4-a716-44665544000",
        "550e8400-e29b-41d4-a716-4466554400000",
        "550e8400e29b41d4a71644665544000",
        "550e8400e29b41d4a7164466554400000",
        "550e8400+e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-44665544000g",
        "550e8400-e29b-41d4-a716-44665544000 x",
        "{550e8400-e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-446655440000}",
        "550e840-0e29b-41d4-a716-446655440000",
        "-550e8400-e29b-41d4-a716446655440000",
        "urn:uuid:{550e8400-e29b-41d4-a716-446655440000}",
        "550e8400-e29b-41d4-a716_446655440000",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_refused(texts[i]);
}
END_TEST

/* Each position of both forms, with each byte value: accepted exactly where it is a hex digit. */
START_TEST(every_digit_is_checked)
{
    static const char hex[] = "0123456789abcdefABCDEF";
    char bare[] = "550e8400e29b41d4a716446655440000";
    for (size_t at = 0; at < sizeof bare - 1; at++) {
        char kept = bare[at];
        for (int c = 1; c < 256; c++) {
            bare[at] = (char)c;
            struct uuid uuid;
            bool edge = (at == 0 || at == sizeof bare - 2) && (c == ' ' || c == '\t');
            ck_assert_int_eq(uuid_parse(span_of(bare, sizeof bare - 1), &uuid),
                             !edge && strchr(hex, c) != NULL);
        }
        bare[at] = kept;
    }
}
END_TEST

START_TEST(event_ids_have_their_fields_in_place)
{
    uint8_t zeros[16] = {0};
    uint8_t ones[16];
    memset(ones, 0xff, sizeof ones);
    struct uuid id = uuid_event_id(0x0123456789ab, 0x9c59, zeros);
    expect_text(&id, "01234567-89ab-7000-a716-400000000000");
    id = uuid_event_id(0, 0, ones);
    expect_text(&id, "00000000-0000-7fff-8000-3fffffffffff");
    id = uuid_event_id(UINT64_MAX, 0xffff, zeros);
    expect_text(&id, "ffffffff-ffff-7000-bfff-c00000000000");
    for (uint32_t hash = 0; hash <= UINT16_MAX; hash++) {
        id = uuid_event_id(hash, (uint16_t)hash, hash % 2 == 0 ? zeros : ones);
        ck_assert_uint_eq(uuid_hash(&id), hash);
    }
}
END_TEST

START_TEST(random_ids_have_version_and_variant)
{
    uint8_t zeros[16] = {0};
    uint8_t ones[16];
    memset(ones, 0xff, sizeof ones);
    struct uuid id = uuid_random(zeros);
    expect_text(&id, "00000000-0000-4000-8000-000000000000");
    id = uuid_random(ones);
    expect_text(&id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
}
END_TEST

START_TEST(a_clusters_id_is_its_names)
{
    struct uuid id = uuid_of_cluster(span_str("sierradb"));
    expect_text(&id, "db181d14-dc92-8db9-9254-7fea1a3a1d54");
    id = uuid_of_cluster(span_str(""));
    expect_text(&id, "99aa06d3-0147-88d8-a001-c324468d497f");
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("uuid");
    tcase_add_test(tcase, partition_keys_match_the_published_ones);
    tcase_add_test(tcase, every_text_form_is_parsed);
    tcase_add_test(tcase, what_is_no_uuid_is_refused);
    tcase_add_test(tcase, every_digit_is_checked);
    tcase_add_test(tcase, event_ids_have_their_fields_in_place);
    tcase_add_test(tcase, random_ids_have_version_and_variant);
    tcase_add_test(tcase, a_clusters_id_is_its_names);
    Suite *suite = suite_create("uuid");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
