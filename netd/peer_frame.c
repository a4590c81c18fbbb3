/* Frames between nodes: OpenSSL's HMAC-SHA256, lz4's blocks, and bounds. */
#include "netd/peer_frame.h"

#include <lz4.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>

#include "common/assert.h"

#define MAGIC 0x50424453u /* "SDBP" */
/* Below it compressing saves no packet worth the time. */
#define COMPRESS_BYTES_MIN 4096u
#define KEY_BYTES          32u

struct peer_key {
    EVP_MAC_CTX *ctx;
};

static void derive(struct span secret, const char *label, struct span context,
                   uint8_t ret_key[static KEY_BYTES]);
static void write_head(const struct peer_head *head, uint8_t *to);

static const char *const refusal_names[PEER_REFUSAL_COUNT] = {
    [PEER_OK] = "ok",
    [PEER_REFUSED_LENGTH] = "length",
    [PEER_REFUSED_MAGIC] = "magic",
    [PEER_REFUSED_VERSION] = "version",
    [PEER_REFUSED_CLUSTER] = "cluster",
    [PEER_REFUSED_FROM_NODE] = "from_node",
    [PEER_REFUSED_TO_NODE] = "to_node",
    [PEER_REFUSED_TO_BOOT] = "to_boot",
    [PEER_REFUSED_OLD_BOOT] = "old_boot",
    [PEER_REFUSED_REPLAY] = "replay",
    [PEER_REFUSED_SESSION] = "session",
    [PEER_REFUSED_GAP] = "gap",
    [PEER_REFUSED_MAC] = "mac",
    [PEER_REFUSED_SIZE] = "size",
    [PEER_REFUSED_LZ4] = "lz4",
    [PEER_REFUSED_BODY] = "body",
};

const char *peer_refusal_name(enum peer_refusal refusal)
{
    ASSERT(refusal < PEER_REFUSAL_COUNT);
    return refusal_names[refusal];
}

/* --- Keys --- */

struct peer_key *peer_key_new(struct span secret, const char *label, struct span context)
{
    uint8_t bytes[KEY_BYTES];
    derive(secret, label, context, bytes);
    struct peer_key *key = calloc(1, sizeof *key);
    ASSERT(key != NULL);
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    ASSERT(hmac != NULL);
    key->ctx = EVP_MAC_CTX_new(hmac);
    EVP_MAC_free(hmac);
    ASSERT(key->ctx != NULL);
    char digest[] = "SHA256";
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    ASSERT(EVP_MAC_init(key->ctx, bytes, sizeof bytes, params) == 1);
    OPENSSL_cleanse(bytes, sizeof bytes);
    return key;
}

void peer_key_free(struct peer_key *key)
{
    if (key == NULL)
        return;
    EVP_MAC_CTX_free(key->ctx); /* wipes it */
    free(key);
}

uint64_t peer_key_number(struct span secret, const char *label, struct span context)
{
    uint8_t bytes[KEY_BYTES];
    derive(secret, label, context, bytes);
    uint64_t number = load_u64(bytes);
    return number != 0 ? number : 1;
}

/* HMAC(secret, label NUL context), as HKDF's expansion does it for one block. */
static void derive(struct span secret, const char *label, struct span context,
                   uint8_t ret_key[static KEY_BYTES])
{
    uint8_t text[256];
    size_t label_len = strlen(label) + 1;
    ASSERT(label_len + context.len <= sizeof text && secret.len <= INT32_MAX);
    memcpy(text, label, label_len);
    if (context.len > 0)
        memcpy(text + label_len, context.ptr, context.len);
    unsigned len = KEY_BYTES;
    ASSERT(HMAC(EVP_sha256(), secret.ptr, (int)secret.len, text, label_len + context.len, ret_key,
                &len) != NULL &&
           len == KEY_BYTES);
}

void peer_key_mac(struct peer_key *key, struct span bytes, uint8_t ret_mac[static PEER_MAC_BYTES])
{
    size_t len = 0;
    /* Without a key: the one it has, from the start. */
    ASSERT(EVP_MAC_init(key->ctx, NULL, 0, NULL) == 1);
    ASSERT(EVP_MAC_update(key->ctx, bytes.ptr, bytes.len) == 1);
    ASSERT(EVP_MAC_final(key->ctx, ret_mac, &len, PEER_MAC_BYTES) == 1 && len == PEER_MAC_BYTES);
}

/* --- Out --- */

size_t peer_frame_seal(const struct peer_head *head, struct peer_key *key, struct span body,
                       uint8_t *to)
{
    ASSERT(body.len > 0 && body.len <= PEER_BODY_BYTES_MAX);
    struct peer_head own = *head;
    own.version = PEER_FRAME_VERSION;
    own.raw_bytes = (uint32_t)body.len;
    own.flags &= (uint16_t)~PEER_LZ4;
    uint8_t *at = to + PEER_HEAD_BYTES;
    int packed = 0;
    if (body.len >= COMPRESS_BYTES_MIN)
        packed = LZ4_compress_default((const char *)body.ptr, (char *)at, (int)body.len,
                                      (int)(body.len - body.len / 8));
    if (packed > 0) {
        own.flags |= PEER_LZ4;
        at += packed;
    } else {
        memcpy(at, body.ptr, body.len);
        at += body.len;
    }
    write_head(&own, to);
    peer_key_mac(key, span_of(to, (size_t)(at - to)), at);
    return (size_t)(at - to) + PEER_MAC_BYTES;
}

static void write_head(const struct peer_head *head, uint8_t *to)
{
    store_u32(to, MAGIC);
    store_u16(to + 4, head->version);
    store_u16(to + 6, head->flags);
    memcpy(to + 8, head->cluster_id.bytes, sizeof head->cluster_id.bytes);
    store_u32(to + 24, head->from_node);
    store_u32(to + 28, head->to_node);
    store_u64(to + 32, head->from_boot);
    store_u64(to + 40, head->to_boot);
    store_u64(to + 48, head->session);
    store_u64(to + 56, head->number);
    store_u32(to + 64, head->raw_bytes);
    store_u32(to + 68, 0);
}

/* --- In --- */

enum peer_refusal peer_frame_head(struct span frame, struct peer_head *ret_head)
{
    if (frame.len < PEER_HEAD_BYTES + 1 + PEER_MAC_BYTES || frame.len > PEER_FRAME_BYTES_MAX)
        return PEER_REFUSED_LENGTH;
    const uint8_t *at = frame.ptr;
    if (load_u32(at) != MAGIC)
        return PEER_REFUSED_MAGIC;
    struct peer_head head = {
        .version = load_u16(at + 4),
        .flags = load_u16(at + 6),
        .from_node = load_u32(at + 24),
        .to_node = load_u32(at + 28),
        .from_boot = load_u64(at + 32),
        .to_boot = load_u64(at + 40),
        .session = load_u64(at + 48),
        .number = load_u64(at + 56),
        .raw_bytes = load_u32(at + 64),
    };
    memcpy(head.cluster_id.bytes, at + 8, sizeof head.cluster_id.bytes);
    if (head.version != PEER_FRAME_VERSION)
        return PEER_REFUSED_VERSION;
    size_t body_len = frame.len - PEER_HEAD_BYTES - PEER_MAC_BYTES;
    bool hello = (head.flags & PEER_HELLO) != 0, lz4 = (head.flags & PEER_LZ4) != 0;
    bool fits = (head.flags & ~(PEER_HELLO | PEER_LZ4)) == 0 && load_u32(at + 68) == 0 &&
                head.raw_bytes <= PEER_BODY_BYTES_MAX &&
                (lz4 ? head.raw_bytes > body_len : head.raw_bytes == body_len) &&
                hello == (head.session == 0) &&
                (!hello || (head.to_boot == 0 && frame.len <= PEER_HELLO_BYTES_MAX));
    if (!fits)
        return PEER_REFUSED_SIZE;
    *ret_head = head;
    return PEER_OK;
}

enum peer_refusal peer_frame_open(struct span frame, const struct peer_head *head,
                                  struct peer_key *key, struct buf *scratch, struct span *ret_body)
{
    ASSERT(frame.len >= PEER_HEAD_BYTES + PEER_MAC_BYTES);
    size_t sealed = frame.len - PEER_MAC_BYTES;
    uint8_t expected[PEER_MAC_BYTES];
    peer_key_mac(key, span_of(frame.ptr, sealed), expected);
    if (CRYPTO_memcmp(expected, frame.ptr + sealed, PEER_MAC_BYTES) != 0)
        return PEER_REFUSED_MAC;
    struct span body = span_of(frame.ptr + PEER_HEAD_BYTES, sealed - PEER_HEAD_BYTES);
    if ((head->flags & PEER_LZ4) != 0) {
        ASSERT(head->raw_bytes <= PEER_BODY_BYTES_MAX);
        scratch->len = 0;
        uint8_t *raw = buf_reserve(scratch, head->raw_bytes);
        int len = LZ4_decompress_safe((const char *)body.ptr, (char *)raw, (int)body.len,
                                      (int)head->raw_bytes);
        if (len < 0 || (uint32_t)len != head->raw_bytes)
            return PEER_REFUSED_LZ4;
        body = span_of(raw, head->raw_bytes);
    }
    *ret_body = body;
    return PEER_OK;
}
