/* Sessions between nodes: the handshake, numbers, and what is refused. */
#include "netd/peer_session.h"

#include <openssl/crypto.h>

#include "common/assert.h"

#define VERSION_LEN_MAX 48u

static enum peer_refusal check_number(const struct peer_session *session,
                                      const struct peer_head *head);
static void open_session(struct peer_session *session, uint64_t boot, struct uuid peer_nonce);
static void forget_keys(struct peer_session *session);
static struct peer_head head_of(struct peer_session *session);

struct peer_key *peer_hello_key_new(const struct peer_identity *own)
{
    return peer_key_new(own->secret, "sierradb peer hello",
                        span_of(own->cluster_id.bytes, sizeof own->cluster_id.bytes));
}

void peer_session_init(struct peer_session *session, const struct peer_identity *own,
                       struct peer_key *hello_key, uint32_t peer, struct uuid nonce)
{
    *session =
        (struct peer_session){.own = own, .hello_key = hello_key, .peer = peer, .nonce = nonce};
}

void peer_session_release(struct peer_session *session)
{
    forget_keys(session);
    *session = (struct peer_session){0};
}

void peer_session_end(struct peer_session *session, struct uuid nonce)
{
    forget_keys(session);
    session->open = false;
    session->nonce = nonce;
}

/* --- Out --- */

size_t peer_session_seal(struct peer_session *session, struct span body, uint8_t *to)
{
    ASSERT(session->open);
    struct peer_head head = head_of(session);
    head.to_boot = session->boot;
    head.session = session->id_out;
    return peer_frame_seal(&head, session->key_out, body, to);
}

size_t peer_session_seal_hello(struct peer_session *session,
                               uint8_t to[static PEER_HELLO_BYTES_MAX])
{
    struct peer_head head = head_of(session);
    head.flags = PEER_HELLO;
    struct msg_peer_hello hello = {
        .nonce = session->nonce,
        .echo = session->heard_nonce,
        .want = !session->open,
        .age = session->own->age_ms,
        .version = session->own->version,
    };
    hello.version.len = min_u64(hello.version.len, VERSION_LEN_MAX);
    struct buf body = {0};
    msg_pack_peer_hello(&body, &hello);
    ASSERT(peer_frame_bytes_max(body.len) <= PEER_HELLO_BYTES_MAX);
    size_t len = peer_frame_seal(&head, session->hello_key, buf_span(&body), to);
    buf_release(&body);
    return len;
}

static struct peer_head head_of(struct peer_session *session)
{
    return (struct peer_head){
        .cluster_id = session->own->cluster_id,
        .from_node = session->own->node,
        .to_node = session->peer,
        .from_boot = session->own->boot,
        .number = ++session->sent,
    };
}

/* --- In --- */

enum peer_refusal peer_session_sender(const struct peer_identity *own, uint32_t node_count,
                                      struct span frame, struct peer_head *ret_head)
{
    struct peer_head head;
    enum peer_refusal refusal = peer_frame_head(frame, &head);
    if (refusal != PEER_OK)
        return refusal;
    if (!uuid_equal(&head.cluster_id, &own->cluster_id))
        return PEER_REFUSED_CLUSTER;
    if (head.to_node != own->node)
        return PEER_REFUSED_TO_NODE;
    if (head.from_node >= node_count || head.from_node == own->node)
        return PEER_REFUSED_FROM_NODE;
    *ret_head = head;
    return PEER_OK;
}

enum peer_refusal peer_session_open(struct peer_session *session, const struct peer_head *head,
                                    struct span frame, struct buf *scratch, struct span *ret_body)
{
    ASSERT(head->from_node == session->peer);
    if (head->from_boot == session->boot && head->number <= session->number)
        return PEER_REFUSED_REPLAY;
    if ((head->flags & PEER_HELLO) != 0)
        return peer_frame_open(frame, head, session->hello_key, scratch, ret_body);

    if (head->to_boot != session->own->boot)
        return PEER_REFUSED_TO_BOOT;
    if (head->from_boot < session->boot)
        return PEER_REFUSED_OLD_BOOT;
    if (!session->open || head->session != session->id_in || head->from_boot != session->boot)
        return PEER_REFUSED_SESSION;
    enum peer_refusal refusal = peer_frame_open(frame, head, session->key_in, scratch, ret_body);
    if (refusal == PEER_OK)
        refusal = check_number(session, head);
    if (refusal == PEER_OK)
        session->number = head->number;
    return refusal;
}

/* Only after the MAC: who can't make one must not be able to end a session. */
static enum peer_refusal check_number(const struct peer_session *session,
                                      const struct peer_head *head)
{
    return head->number == session->number + 1 ? PEER_OK : PEER_REFUSED_GAP;
}

enum peer_refusal peer_session_on_hello(struct peer_session *session, const struct peer_head *head,
                                        struct span body, struct uuid nonce,
                                        struct peer_hello_result *ret_result,
                                        struct msg_peer_hello *ret_hello)
{
    struct msg msg;
    struct span rest = body;
    if (msg_unpack(&rest, &msg) != ERR_OK || msg.tag != TAG_peer_hello || rest.len > 0)
        return PEER_REFUSED_BODY;
    const struct msg_peer_hello *hello = &msg.u.peer_hello;
    bool ours = uuid_equal(&hello->echo, &session->nonce);
    if (head->from_boot < session->boot && (session->open || !ours))
        return PEER_REFUSED_OLD_BOOT;

    struct peer_hello_result result = {0};
    bool same_boot = session->open && head->from_boot == session->boot;
    if (same_boot && uuid_equal(&hello->nonce, &session->peer_nonce)) {
        enum peer_refusal refusal = check_number(session, head);
        if (refusal != PEER_OK)
            return refusal;
        session->number = head->number;
        result.answer = hello->want || !ours;
    } else if (ours) {
        result.ended = session->open;
        session->number = head->number;
        open_session(session, head->from_boot, hello->nonce);
        result.opened = result.answer = true;
    } else {
        /* From another boot it may be a recording: it must echo our nonce first. */
        result.ended = same_boot;
        if (same_boot) {
            session->number = head->number;
            peer_session_end(session, nonce);
        }
        result.answer = true;
    }
    session->heard_nonce = hello->nonce;
    *ret_result = result;
    *ret_hello = *hello;
    return PEER_OK;
}

/* --- Vouching --- */

/* No frame begins like this, so neither can be taken for the other. */
static void make_vouch(struct peer_key *key, uint32_t by, uint32_t towards,
                       const struct uuid *nonce, uint8_t to[static PEER_VOUCH_BYTES])
{
    uint8_t said[4 + 2 * sizeof(uint32_t) + sizeof nonce->bytes] = "SDBV";
    store_u32(said + 4, by);
    store_u32(said + 8, towards);
    memcpy(said + 12, nonce->bytes, sizeof nonce->bytes);
    peer_key_mac(key, span_of(said, sizeof said), to);
}

void peer_session_vouch(const struct peer_session *session, const struct msg_peer_hello *hello,
                        uint8_t to[static PEER_VOUCH_BYTES])
{
    make_vouch(session->hello_key, session->own->node, session->peer, &hello->nonce, to);
}

bool peer_session_vouched(const struct peer_session *session,
                          const uint8_t vouch[static PEER_VOUCH_BYTES])
{
    uint8_t expected[PEER_VOUCH_BYTES];
    make_vouch(session->hello_key, session->peer, session->own->node, &session->nonce, expected);
    return CRYPTO_memcmp(expected, vouch, sizeof expected) == 0;
}

/* --- Keys --- */

/* Everything that tells this session and this direction from all others. */
static void context_of(const struct peer_session *session, bool out, struct buf *to)
{
    const struct peer_identity *own = session->own;
    buf_append(to, own->cluster_id.bytes, sizeof own->cluster_id.bytes);
    uint8_t numbers[2][12];
    store_u32(numbers[0], own->node);
    store_u64(numbers[0] + 4, own->boot);
    store_u32(numbers[1], session->peer);
    store_u64(numbers[1] + 4, session->boot);
    buf_append(to, numbers[out ? 0 : 1], sizeof numbers[0]);
    buf_append(to, numbers[out ? 1 : 0], sizeof numbers[0]);
    const struct uuid *from = out ? &session->nonce : &session->peer_nonce;
    const struct uuid *towards = out ? &session->peer_nonce : &session->nonce;
    buf_append(to, from->bytes, sizeof from->bytes);
    buf_append(to, towards->bytes, sizeof towards->bytes);
}

static void open_session(struct peer_session *session, uint64_t boot, struct uuid peer_nonce)
{
    forget_keys(session);
    session->open = true;
    session->boot = boot;
    session->peer_nonce = peer_nonce;
    for (int out = 0; out < 2; out++) {
        struct buf context = {0};
        context_of(session, out == 1, &context);
        struct span secret = session->own->secret;
        uint64_t id = peer_key_number(secret, "sierradb peer session id", buf_span(&context));
        struct peer_key *key =
            peer_key_new(secret, "sierradb peer session key", buf_span(&context));
        *(out == 1 ? &session->id_out : &session->id_in) = id;
        *(out == 1 ? &session->key_out : &session->key_in) = key;
        buf_release(&context);
    }
}

static void forget_keys(struct peer_session *session)
{
    peer_key_free(session->key_out);
    peer_key_free(session->key_in);
    session->key_out = session->key_in = NULL;
    session->id_out = session->id_in = 0;
}
