/* A session with one other node: who may be believed, and which frames.
 *
 * Each side keeps a random nonce for the other. A hello carries the sender's nonce and echoes the
 * last one heard from the receiver; it is sealed with a key made from cluster.secret and the
 * cluster's id. A hello that echoes our nonce was made after that nonce, by somebody who knows the
 * secret: that opens a session with its sender's boot. The keys of a session come from the secret,
 * both nodes, both boots and both nonces, one for each direction, so a frame fits one session, one
 * direction and one place in it alone. A new nonce for each session makes all recordings worthless.
 *
 *     A                                             B
 *     hello(nonce a, echo 0, want)      ------>
 *                                       <------     hello(nonce b, echo a, want)
 *     open: its echo is ours
 *     hello(nonce a, echo b)            ------>     open
 *                                       <------     hello(nonce b, echo a)
 *
 * Who has opened a session says a hello before anything else: the other side counts from it.
 *
 * Frames are numbered from 1 for the life of the sending process, hellos included. In a session
 * each number must follow the last one: a frame twice is refused, a frame that is missing ends the
 * session. A hello from the session's boot with another nonce says that the other side has lost the
 * session; its number shows that it isn't a recording.
 *
 * Boots grow. A hello of a lower boot than the last one's is refused, unless there is no session
 * and it echoes our nonce, which is younger than the last session: a node whose clock and disk were
 * both lost is taken in again.
 *
 * Pure: random bytes come in, frames go out. */
#pragma once

#include "netd/peer_frame.h"
#include "proto/messages.h"

/* This node as it presents itself; borrowed by all its sessions. */
struct peer_identity {
    struct uuid cluster_id;
    struct span secret;
    uint32_t node;
    uint64_t boot;
    uint64_t age_ms;
    struct span version;
};

struct peer_session {
    const struct peer_identity *own;
    uint32_t peer;              /* its index */
    struct peer_key *hello_key; /* of the cluster; borrowed */
    struct uuid nonce;          /* ours for it, of this session or the next one */
    struct uuid heard_nonce;    /* of its last hello; zero: none yet */
    uint64_t sent;              /* number of the last frame made for it */
    uint64_t boot, number;      /* of the last frame believed */
    bool open;
    struct uuid peer_nonce; /* from here on: of the open session; its boot is `boot` */
    uint64_t id_out, id_in;
    struct peer_key *key_out, *key_in;
};

/* The key of hellos, for all sessions of a node. */
struct peer_key *peer_hello_key_new(const struct peer_identity *own);

void peer_session_init(struct peer_session *session, const struct peer_identity *own,
                       struct peer_key *hello_key, uint32_t peer, struct uuid nonce);
void peer_session_release(struct peer_session *session);
/* Forgets the keys; the next session needs a new random nonce. */
void peer_session_end(struct peer_session *session, struct uuid nonce);

/* Writes a frame of this session, which must be open; returns its length. Room as for
 * peer_frame_seal. */
size_t peer_session_seal(struct peer_session *session, struct span body, uint8_t *to);
/* A hello: always possible. */
size_t peer_session_seal_hello(struct peer_session *session,
                               uint8_t to[static PEER_HELLO_BYTES_MAX]);

/* Who says that it sent this frame, before anything is believed: its index, for the session that
 * peer_session_open is to be asked of. Refusals: LENGTH, MAGIC, VERSION, SIZE, CLUSTER, TO_NODE,
 * FROM_NODE (not below node_count, or this node itself). */
enum peer_refusal peer_session_sender(const struct peer_identity *own, uint32_t node_count,
                                      struct span frame, struct peer_head *ret_head);
/* Believes the frame or says why not. PEER_OK: *ret_body is a view of frame or scratch; of a hello
 * it goes to peer_session_on_hello next. PEER_REFUSED_GAP: true as far as it goes, the caller ends
 * the session. */
enum peer_refusal peer_session_open(struct peer_session *session, const struct peer_head *head,
                                    struct span frame, struct buf *scratch, struct span *ret_body);

/* What a node answers to a hello on the connection that it came by: whoever made the connection
 * knows then that it leads to the right place, or to somebody who passes on what is said, before
 * the other node has found the way back. Worth patience, not trust. */
#define PEER_VOUCH_BYTES PEER_MAC_BYTES
void peer_session_vouch(const struct peer_session *session, const struct msg_peer_hello *hello,
                        uint8_t to[static PEER_VOUCH_BYTES]);
/* It answers our last hello, and comes from the node that this session is to be with. */
bool peer_session_vouched(const struct peer_session *session,
                          const uint8_t vouch[static PEER_VOUCH_BYTES]);

/* What a hello changed. */
struct peer_hello_result {
    bool ended;  /* the session that was open isn't any more */
    bool opened; /* there is a new one (perhaps after `ended`) */
    bool answer; /* a hello is due, before anything else: so it is where a session opened */
};
/* The body of a hello that peer_session_open believed. `nonce`: 16 random bytes, used where a
 * session ended. Refusals: BODY; OLD_BOOT and GAP as above. */
enum peer_refusal peer_session_on_hello(struct peer_session *session, const struct peer_head *head,
                                        struct span body, struct uuid nonce,
                                        struct peer_hello_result *ret_result,
                                        struct msg_peer_hello *ret_hello);
