/* UUIDs: text form by tables, version 5 by SHA-1, event ids that carry a partition hash. */
#define OPENSSL_SUPPRESS_DEPRECATED /* see uuid_partition_key */
#include "common/uuid.h"

#include <openssl/sha.h>
#include <strings.h>
#include <xxhash.h>

#include "common/assert.h"

#define UUID_BARE_LEN 32u
#define URN_PREFIX    "urn:uuid:"

/* Two lower-case characters for each byte value. */
#define HEX_ROW(h)                                                                                 \
    {h, '0'}, {h, '1'}, {h, '2'}, {h, '3'}, {h, '4'}, {h, '5'}, {h, '6'}, {h, '7'}, {h, '8'},      \
        {h, '9'}, {h, 'a'}, {h, 'b'}, {h, 'c'}, {h, 'd'}, {h, 'e'},                                \
    {                                                                                              \
        h, 'f'                                                                                     \
    }
static const char hex_pairs[256][2] = {
    HEX_ROW('0'), HEX_ROW('1'), HEX_ROW('2'), HEX_ROW('3'), HEX_ROW('4'), HEX_ROW('5'),
    HEX_ROW('6'), HEX_ROW('7'), HEX_ROW('8'), HEX_ROW('9'), HEX_ROW('a'), HEX_ROW('b'),
    HEX_ROW('c'), HEX_ROW('d'), HEX_ROW('e'), HEX_ROW('f'),
};

/* Value + 1 of each hex digit, 0 for any other character. */
static const uint8_t hex_values[256] = {
    ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,  ['6'] = 7,  ['7'] = 8,
    ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12, ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16,
    ['A'] = 11, ['B'] = 12, ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16,
};

/* Where byte i's two digits stand in the form with dashes (8-4-4-4-12). */
static const uint8_t dashed_place[16] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};
static const uint8_t dash_place[4] = {8, 13, 18, 23};

static struct span trim(struct span text);
static struct span unwrap(struct span text);
static void set_version(struct uuid *uuid, unsigned version);

void uuid_format(const struct uuid *uuid, char text[static UUID_TEXT_LEN])
{
    for (unsigned i = 0; i < 16; i++)
        memcpy(text + dashed_place[i], hex_pairs[uuid->bytes[i]], 2);
    for (unsigned i = 0; i < 4; i++)
        text[dash_place[i]] = '-';
}

bool uuid_parse(struct span text, struct uuid *ret_uuid)
{
    text = unwrap(trim(text));
    bool dashed = text.len == UUID_TEXT_LEN;
    if (!dashed && text.len != UUID_BARE_LEN)
        return false;
    if (dashed)
        for (unsigned i = 0; i < 4; i++)
            if (text.ptr[dash_place[i]] != '-')
                return false;

    struct uuid uuid;
    for (unsigned i = 0; i < 16; i++) {
        const uint8_t *pair = text.ptr + (dashed ? dashed_place[i] : 2 * i);
        unsigned high = hex_values[pair[0]];
        unsigned low = hex_values[pair[1]];
        if (high == 0 || low == 0)
            return false;
        uuid.bytes[i] = (uint8_t)((high - 1) << 4 | (low - 1));
    }
    *ret_uuid = uuid;
    return true;
}

/* The plain SHA1_ calls are deprecated in OpenSSL 3 in favour of EVP, which looks its algorithm up
 * by name at each call (or wants a handle kept somewhere) and costs several times the hash itself;
 * this runs once for each append. SHA-1 is what UUIDv5 is made of; nothing here rests on its
 * strength. */
struct uuid uuid_partition_key(struct span stream_id)
{
    static const uint8_t namespace[16] = {0x21, 0x9b, 0xd6, 0x37, 0xe2, 0x79, 0x53, 0xe9,
                                          0x9e, 0x2b, 0xea, 0xbe, 0x5d, 0x91, 0x20, 0xcc};
    uint8_t digest[SHA_DIGEST_LENGTH];
    SHA_CTX sha;
    SHA1_Init(&sha);
    SHA1_Update(&sha, namespace, sizeof namespace);
    if (stream_id.len > 0)
        SHA1_Update(&sha, stream_id.ptr, stream_id.len);
    SHA1_Final(digest, &sha);

    struct uuid uuid;
    memcpy(uuid.bytes, digest, sizeof uuid.bytes);
    set_version(&uuid, 5);
    return uuid;
}

struct uuid uuid_event_id(uint64_t time_ms, uint16_t hash, const uint8_t random[static 16])
{
    struct uuid uuid;
    memcpy(uuid.bytes, random, sizeof uuid.bytes);
    for (unsigned i = 0; i < 6; i++)
        uuid.bytes[i] = (uint8_t)(time_ms >> (40 - 8 * i));
    uuid.bytes[8] = (uint8_t)(hash >> 10);
    uuid.bytes[9] = (uint8_t)(hash >> 2);
    uuid.bytes[10] = (uint8_t)((hash & 3) << 6 | (random[10] & 0x3f));
    set_version(&uuid, 7);
    ASSERT(uuid_hash(&uuid) == hash);
    return uuid;
}

struct uuid uuid_random(const uint8_t random[static 16])
{
    struct uuid uuid;
    memcpy(uuid.bytes, random, sizeof uuid.bytes);
    set_version(&uuid, 4);
    return uuid;
}

struct uuid uuid_of_cluster(struct span name)
{
    struct uuid uuid;
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(name.ptr, name.len));
    memcpy(uuid.bytes, canonical.digest, sizeof uuid.bytes);
    set_version(&uuid, 8);
    return uuid;
}

static struct span trim(struct span text)
{
    while (text.len > 0 && (text.ptr[0] == ' ' || text.ptr[0] == '\t')) {
        text.ptr++;
        text.len--;
    }
    while (text.len > 0 && (text.ptr[text.len - 1] == ' ' || text.ptr[text.len - 1] == '\t'))
        text.len--;
    return text;
}

/* Takes {…} or urn:uuid: off. */
static struct span unwrap(struct span text)
{
    const size_t prefix = sizeof URN_PREFIX - 1;
    if (text.len >= 2 && text.ptr[0] == '{' && text.ptr[text.len - 1] == '}')
        return span_of(text.ptr + 1, text.len - 2);
    if (text.len > prefix && strncasecmp((const char *)text.ptr, URN_PREFIX, prefix) == 0)
        return span_of(text.ptr + prefix, text.len - prefix);
    return text;
}

/* The version's nibble, and the variant of RFC 9562 (binary 10). */
static void set_version(struct uuid *uuid, unsigned version)
{
    uuid->bytes[6] = (uint8_t)(version << 4 | (uuid->bytes[6] & 0x0f));
    uuid->bytes[8] = (uint8_t)(0x80 | (uuid->bytes[8] & 0x3f));
}
