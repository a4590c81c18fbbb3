/* Frames at a node's cluster port. The first byte chooses who sends: a stranger, whose bytes are
 * taken as they are and never believed; or a member gone mad, whose bytes get the right MAC, as a
 * hello or as a frame of the open session. Whatever is believed keeps to its bounds. */
#include <stdlib.h>

#include "common/assert.h"
#include "netd/peer_items.h"
#include "netd/peer_session.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

struct side {
    struct peer_identity own;
    struct peer_key *hello_key;
    struct peer_session session;
    uint8_t nonce;
    struct buf scratch;
};

static struct uuid nonce_of(struct side *side)
{
    struct uuid nonce = {{(uint8_t)side->own.node, ++side->nonce, 0x55}};
    return nonce;
}

static void start(struct side *side, uint32_t node)
{
    *side = (struct side){.own = {.cluster_id = {{1}},
                                  .secret = span_str("0123456789abcdef"),
                                  .node = node,
                                  .boot = 5 + node,
                                  .version = span_str("1")}};
    side->hello_key = peer_hello_key_new(&side->own);
    peer_session_init(&side->session, &side->own, side->hello_key, 1 - node, nonce_of(side));
}

static void stop(struct side *side)
{
    peer_session_release(&side->session);
    peer_key_free(side->hello_key);
    buf_release(&side->scratch);
}

/* As netd/peers.c does it. *ret_hello: it was one. */
static enum peer_refusal receive(struct side *to, struct span frame, bool *ret_hello,
                                 struct span *ret_body)
{
    struct peer_head head;
    enum peer_refusal refusal = peer_session_sender(&to->own, 2, frame, &head);
    if (refusal == PEER_OK)
        refusal = peer_session_open(&to->session, &head, frame, &to->scratch, ret_body);
    *ret_hello = refusal == PEER_OK && (head.flags & PEER_HELLO) != 0;
    if (*ret_hello) {
        struct peer_hello_result result;
        struct msg_peer_hello hello;
        refusal =
            peer_session_on_hello(&to->session, &head, *ret_body, nonce_of(to), &result, &hello);
        ASSERT(refusal != PEER_OK || !result.opened || to->session.open);
    }
    return refusal;
}

static void shake_hands(struct side *a, struct side *b)
{
    uint8_t frame[PEER_HELLO_BYTES_MAX];
    bool hello;
    struct span body;
    for (int i = 0; i < 4; i++) {
        struct side *from = i % 2 == 0 ? a : b, *to = i % 2 == 0 ? b : a;
        size_t len = peer_session_seal_hello(&from->session, frame);
        ASSERT(receive(to, span_of(frame, len), &hello, &body) == PEER_OK && hello);
    }
    ASSERT(a->session.open && b->session.open);
}

/* The messages of a frame that was believed. */
static void read_messages(struct span body)
{
    struct peer_inbox inbox = {0};
    struct span rest = body;
    struct msg msg;
    size_t taken = 0;
    while (rest.len > 0) {
        enum err err = msg_unpack(&rest, &msg);
        if (err == ERR_NOTFOUND)
            continue;
        if (err != ERR_OK || msg.tag != TAG_item)
            break;
        bool whole;
        struct span bytes;
        if (peer_inbox_put(&inbox, &msg.u.item, &whole, &bytes) != ERR_OK)
            break;
        taken += msg.u.item.bytes.len;
        ASSERT(inbox.bytes.len <= taken && inbox.bytes.cap <= 4 * taken + 4096);
        if (whole)
            ASSERT(bytes.len == msg.u.item.total && bytes.len <= taken);
    }
    peer_inbox_release(&inbox);
}

/* A frame of node 1's with these flags, raw_bytes, number and body, and the MAC that belongs to it.
 * Bytes beyond the flags' meaning go into the head, too. */
static void seal_anything(struct side *from, struct span input, struct buf *frame)
{
    struct peer_head head = {.cluster_id = from->own.cluster_id,
                             .from_node = from->own.node,
                             .from_boot = from->own.boot,
                             .number = from->session.sent + 1};
    uint16_t flags = input.ptr[0] & 3;
    bool is_hello = (flags & PEER_HELLO) != 0;
    if (!is_hello) {
        head.to_boot = from->session.boot;
        head.session = from->session.id_out;
    }
    struct span body = span_of(input.ptr + 8, input.len - 8);
    /* Head first: sealed with one byte, then changed. */
    struct peer_key *key = is_hello ? from->hello_key : from->session.key_out;
    head.flags = is_hello ? PEER_HELLO : 0;
    buf_reserve(frame, peer_frame_bytes_max(body.len + 1));
    peer_frame_seal(&head, key, span_str("x"), frame->ptr);
    uint32_t raw_bytes = (flags & PEER_LZ4) != 0 ? load_u32(input.ptr + 4) : (uint32_t)body.len;
    store_u16(frame->ptr + 6, flags);
    store_u32(frame->ptr + 64, raw_bytes);
    frame->ptr[56] = (uint8_t)(frame->ptr[56] + (input.ptr[1] & 1)); /* a gap, now and then */
    memcpy(frame->ptr + PEER_HEAD_BYTES, body.ptr, body.len);
    frame->len = PEER_HEAD_BYTES + body.len;
    peer_key_mac(key, buf_span(frame), frame->ptr + frame->len);
    frame->len += PEER_MAC_BYTES;
}

/* Making keys takes most of the time: they last from one input to the next, unless it spent them.
 */
struct pair {
    struct side a, b;
    struct peer_session kept_a, kept_b;
    bool ready;
};

static void prepare(struct pair *pair, bool with_session)
{
    if (!pair->ready) {
        start(&pair->a, 0);
        start(&pair->b, 1);
        if (with_session)
            shake_hands(&pair->a, &pair->b);
        pair->kept_a = pair->a.session;
        pair->kept_b = pair->b.session;
        pair->ready = true;
    }
    pair->a.session = pair->kept_a;
    pair->b.session = pair->kept_b;
    pair->a.scratch.len = 0;
}

static void settle(struct pair *pair)
{
    if (pair->a.session.key_in == pair->kept_a.key_in && pair->a.session.open == pair->kept_a.open)
        return;
    stop(&pair->a);
    stop(&pair->b);
    pair->ready = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static struct pair pairs[2];
    if (len < 10 || len > PEER_FRAME_BYTES_MAX)
        return 0;
    bool with_session = bytes[0] % 4 != 0;
    struct pair *pair = &pairs[with_session];
    prepare(pair, with_session);
    struct span body, input = span_of(bytes + 1, len - 1);
    bool hello;
    if (bytes[0] % 4 < 2) {
        /* Nobody guesses a MAC. */
        ASSERT(receive(&pair->a, input, &hello, &body) != PEER_OK);
        ASSERT(pair->a.session.open == with_session);
    } else {
        struct buf frame = {0};
        seal_anything(&pair->b, input, &frame);
        if (receive(&pair->a, buf_span(&frame), &hello, &body) == PEER_OK && !hello) {
            ASSERT(body.len <= PEER_BODY_BYTES_MAX);
            read_messages(body);
        }
        buf_release(&frame);
    }
    ASSERT(pair->a.scratch.cap <= 2 * PEER_BODY_BYTES_MAX);
    settle(pair);
    return 0;
}
