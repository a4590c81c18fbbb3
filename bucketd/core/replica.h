/* Replication of one bucket: its Raft group as this replica sees it (REPLICATION.md). Only the
 * files of the bucket core include this, through bucket_internal.h.
 *
 *   replica.c    roles and terms; messages in, timers
 *   election.c   pre-vote, votes, transfer of leadership
 *   liveness.c   ticks: who lives, who leads, whether a quorum hears us
 *   replicate.c  the leader: what is sent to whom, what is committed
 *   follow.c     the follower: what is accepted, cut, acknowledged
 *   members.c    voters and their disks
 *   reads.c      which reads may be answered now; the others wait
 *   sequence.c   the order of appends across leader changes
 *
 * With one replica there is no replication: it leads from the start, what is durable is committed,
 * and nothing here is called but replica_is_alone.
 *
 * The log's durable state is the only state that safety rests on; everything here is lost in a
 * crash and may be. */
#pragma once

#include "bucketd/core/recent.h"
#include "bucketd/core/wal.h"

struct bucket;

enum progress {
    PROGRESS_PROBE,   /* one message at a time, until the logs' meeting point is found */
    PROGRESS_STREAM,  /* from memory, several messages in flight */
    PROGRESS_CATCHUP, /* from the files, in jobs */
};

/* Entries messages that a peer hasn't acknowledged. */
#define FLIGHTS_MAX 64u
struct entries_flight {
    uint64_t last_idx;
    uint32_t bytes;
};

/* When so many of the last ticks were sent is remembered. */
#define TICKS_REMEMBERED 256u

/* Another replica. */
struct peer {
    uint32_t node;

    /* What its ticks say; boot 0: none heard since this process started. */
    uint64_t boot, age, tick_number;
    uint64_t heard_ns, up_since_ns; /* of this boot of it */
    uint64_t tick_ns;               /* when the last tick came, however it went on */
    uint64_t disk_id, last_idx, term;
    bool confirmed; /* it has echoed a tick of this process: what it says is newer than this boot */
    uint64_t echoed;    /* the highest of our ticks that it has echoed */
    uint64_t echoed_ns; /* when that one was sent */
    bool owes_tick;     /* it asked for an echo */

    bool granted; /* the vote of the round at hand */

    /* The leader's view of its log. */
    enum progress progress;
    uint64_t next, match;
    uint64_t match_disk_id; /* that `match` was acknowledged on */
    uint64_t told_commit;   /* commit_idx in the last message to it */
    uint64_t sent_ns;       /* when something was last sent or acknowledged */
    bool probing;           /* PROBE and CATCHUP: the one message is on its way */
    struct entries_flight flights[FLIGHTS_MAX];
    uint32_t flights_head, flights_len;
    uint64_t flight_bytes;
    struct catchup *catchup; /* a job reads for it */
};

enum election_phase { ELECTION_NONE, ELECTION_PREVOTE, ELECTION_VOTE };

/* A vote's answer that waits until the vote is durable. */
struct pending_grant {
    bool waits, granted;
    uint32_t node;
    uint64_t term, round, batch;
};

/* A refusal of entries that waits until the term is durable. */
struct pending_refusal {
    bool waits;
    uint32_t node;
    uint64_t conflict_idx, conflict_term;
};

/* A client's request that can't be answered yet; its packed message follows in the same buffer. */
struct held_read {
    uint32_t link, len;
    uint64_t deadline_ns;
    uint64_t tick; /* a strong one: echoes of this one are needed; 0: none */
};

/* Where a sender of appends is in its order (sequence.c). */
struct origin {
    uint64_t id, epoch, next;
    bool broken; /* one of this epoch wasn't done: nothing behind it may be */
};

struct replica {
    enum replica_role role;
    uint32_t leader; /* node + 1; 0: none known in this term */
    struct peer peers[REPLICAS_MAX - 1];
    uint32_t peer_count;
    struct recent *recent;

    /* Ticks. */
    uint64_t tick_number, next_tick_ns;
    uint64_t ticked_ns, tick_rounds; /* when the last were sent that were due, and how many */
    uint64_t moved_ns;               /* when log, term, role or peers last changed */
    uint64_t moved_idx, moved_commit_idx, moved_term;
    enum replica_role moved_role;
    uint64_t tick_sent_ns[TICKS_REMEMBERED]; /* of the last ones, by number */
    uint64_t started_ns;
    bool ask; /* the next tick leaves at once and asks for echoes */

    /* Elections. */
    enum election_phase phase;
    uint64_t election_ns; /* when to stand, unless a leader is heard before */
    uint64_t round;
    uint64_t vote_batch; /* durable: the own vote, or the term */
    bool asked;          /* ELECTION_VOTE: the requests have left ... */
    uint64_t asked_ns;   /* ... then */
    bool by_transfer;
    uint64_t leader_heard_ns; /* 0: none, or it is known to be gone */
    struct pending_grant grant;

    /* Following. */
    uint64_t verified_idx; /* proven equal to the log of this term's leader */
    bool ack_due;
    struct pending_refusal refusal;
    bool dropped;   /* entries had no room since the last ack */
    bool starved;   /* the leader was told so, and waits until it hears that there is room */
    struct buf raw; /* entries that came compressed */

    /* Leading. */
    uint64_t begun_idx;                /* the first entry of the term; 0: it isn't in the log yet */
    uint64_t lead_since_ns, lead_tick; /* the last tick before */
    uint32_t transfer_to;              /* node + 1; 0: no transfer under way */
    uint64_t transfer_deadline_ns, transfer_next_ns;
    bool transfer_sent;
    struct catchup *catchups; /* running, or kept for the places they have found */
    uint64_t uncommitted_bytes;

    /* Reads. */
    /* The oldest statement of a settled leader that isn't reached yet, and when the last one that
     * is was made: then this replica had all that was committed. */
    uint64_t statement_idx, statement_ns; /* ns 0: none open */
    uint64_t level_ns;                    /* 0: never in this boot */
    uint64_t quorum_ns;                   /* when a quorum was in sight */
    struct buf held;
    uint32_t held_count;

    struct origin *origins;
    uint32_t origins_len;
};

static inline bool replica_leads(const struct replica *replica)
{
    return replica->role == ROLE_LEADER;
}

/* --- replica.c --- */
bool replica_is_alone(const struct bucket *bucket);
void replica_init(struct bucket *bucket);
void replica_release(struct bucket *bucket);
/* After recovery. */
void replica_open(struct bucket *bucket);
/* Recovery shows an entry of the newest segment, or that those from an idx on are dead. */
void replica_on_recovered(struct bucket *bucket, const struct wal_entry *entry);
void replica_on_recovered_cut(struct bucket *bucket, uint64_t from_idx);
void replica_on_message(struct bucket *bucket, uint32_t node, const struct msg *msg);
void replica_on_peer_down(struct bucket *bucket, const struct msg_peer_down *m);
/* Timers, and what the turn's input made necessary; before the flush is started. Returns the next
 * wanted time. */
uint64_t replica_turn(struct bucket *bucket, uint64_t now);
/* A flush has ended: what waited for it. */
void replica_on_durable(struct bucket *bucket);
/* Adopts a higher term, as a follower without a leader. False: the log takes no record now, and the
 * message that brought the term is dropped. */
bool replica_adopt_term(struct bucket *bucket, uint64_t term) MUST_CHECK;
/* The term is durable: it may be spoken in. */
bool replica_term_durable(const struct bucket *bucket);
void replica_become_follower(struct bucket *bucket, uint32_t leader);
void replica_become_leader(struct bucket *bucket);
/* The entries that were appended since the last call go to the window of newest ones. */
void replica_remember(struct bucket *bucket);
struct peer *replica_peer(struct bucket *bucket, uint32_t node);
struct buf *replica_outbox(struct bucket *bucket, uint32_t node);
/* Fails a request that only a leader may answer, with what is known of it. */
void replica_fail_not_leader(struct bucket *bucket, uint32_t link, uint64_t req_id);

/* --- election.c --- */
/* Draws the next time to stand: at once or after the timeout, by rank. */
void election_reset_timer(struct bucket *bucket, bool at_once);
uint64_t election_turn(struct bucket *bucket, uint64_t now);
void election_on_vote_req(struct bucket *bucket, uint32_t node, const struct msg_vote_req *req);
void election_on_vote_reply(struct bucket *bucket, uint32_t node,
                            const struct msg_vote_reply *reply);
void election_on_transfer(struct bucket *bucket, uint32_t node, const struct msg_transfer *m);
void election_on_durable(struct bucket *bucket);
/* node: UINT32_MAX for the best one. */
void election_start_transfer(struct bucket *bucket, uint32_t node);
/* The leader's part in it: when it must be sent, given up, or begun for the balance's sake. */
uint64_t election_transfer_turn(struct bucket *bucket, uint64_t now);

/* --- liveness.c --- */
void liveness_on_tick(struct bucket *bucket, uint32_t node, const struct msg_tick *tick);
uint64_t liveness_turn(struct bucket *bucket, uint64_t now);
/* Heard within the election timeout. */
bool liveness_is_alive(const struct bucket *bucket, const struct peer *peer, uint64_t now);
/* Leading: Q voters, this one included, have echoed within the timeout. */
bool liveness_quorum_echoes(const struct bucket *bucket, uint64_t now);
/* Q voters, this one included, are heard. */
bool liveness_quorum_heard(const struct bucket *bucket, uint64_t now);
/* Makes the next tick leave now and ask for echoes; returns its number. */
uint64_t liveness_ask(struct bucket *bucket);
/* Q voters have echoed this tick or a later one. */
bool liveness_echoed(const struct bucket *bucket, uint64_t tick);

/* --- replicate.c --- */
void replicate_begin(struct bucket *bucket);
void replicate_end(struct bucket *bucket);
/* Sends what is to be sent; returns the next wanted time. */
uint64_t replicate_turn(struct bucket *bucket, uint64_t now);
void replicate_on_ack(struct bucket *bucket, uint32_t node, const struct msg_entries_ack *ack);
void replicate_advance_commit(struct bucket *bucket);
/* It has begun again: nothing is known of its log. */
void replicate_forget_peer(struct bucket *bucket, struct peer *peer);
/* Packs entries for a peer behind the entry of prev_idx. raw_bytes: they are one lz4 block. */
void replicate_send(struct bucket *bucket, struct peer *peer, const struct msg_entries *entries);

/* --- catchup.c --- */
/* Reads entries from peer->next on from the files and sends them when they are there. */
void catchup_start(struct bucket *bucket, struct peer *peer);
/* What its running job brings isn't wanted any more. */
void catchup_abandon(struct peer *peer);
bool catchup_busy(const struct bucket *bucket);
void catchup_release(struct bucket *bucket);

/* --- follow.c --- */
void follow_on_entries(struct bucket *bucket, uint32_t node, const struct msg_entries *m);
void follow_turn(struct bucket *bucket);
void follow_on_durable(struct bucket *bucket);
/* Perhaps there is room again for entries that had none. */
void follow_on_room(struct bucket *bucket);
/* The leader has committed so far; what is verified of it is committed here. */
void follow_commit(struct bucket *bucket, uint64_t commit_idx);

/* --- members.c --- */
uint32_t members_quorum(const struct bucket *bucket);
/* This node on this disk is a voter of the configuration in force. */
bool members_is_voter(const struct bucket *bucket, uint32_t node, uint64_t disk_id);
bool members_self_is_voter(const struct bucket *bucket);
/* This replica may vote for a candidate that says this of its disk (0: for itself). */
bool members_may_vote(const struct bucket *bucket, uint64_t your_disk_id);
uint64_t members_disk_id(const struct bucket *bucket, uint32_t node);
/* What a leader's first entry must be: a CONFIG where disks aren't known yet (filled in), else a
 * NOOP (false). */
bool members_first_config(const struct bucket *bucket, struct wal_voters *ret_voters);
/* Leading: one step of replacing a voter that lost its disk, when one is due. */
void members_turn(struct bucket *bucket);

/* --- reads.c --- */
/* A settled leader of this term had committed so far at that time or later. */
void reads_note_statement(struct bucket *bucket, uint64_t commit_idx, uint64_t at_ns);
/* commit_idx has moved. */
void reads_note_commit(struct bucket *bucket);
/* True: answer now. Otherwise the request was kept or failed. */
bool reads_admit(struct bucket *bucket, uint32_t link, const struct msg *msg);
/* Those that may be answered by now are, those whose time is over fail. Returns the next wanted
 * time. */
uint64_t reads_turn(struct bucket *bucket, uint64_t now);
void reads_fail_strong(struct bucket *bucket);
/* A link is gone, or doesn't want to follow a partition any more. */
void reads_link_lost(struct bucket *bucket, uint32_t link);
void reads_unfollow(struct bucket *bucket, uint32_t link, uint64_t partition);
void reads_release(struct bucket *bucket);
/* Answers of now are flagged as stale. */
bool reads_are_stale(const struct bucket *bucket);

/* --- sequence.c --- */
/* The request is the next of its origin, or has none. ERR_ORDER. Nothing is moved. */
enum err sequence_check(const struct bucket *bucket, const struct msg_append_req *req) MUST_CHECK;
/* It was taken. */
void sequence_take(struct bucket *bucket, const struct msg_append_req *req);
/* A taken one couldn't be done and will be sent again: those behind it must not overtake it. */
void sequence_break(struct bucket *bucket, const struct msg_append_req *req);
/* So, or a newer epoch has begun while this one waited. */
bool sequence_is_broken(const struct bucket *bucket, const struct msg_append_req *req);
void sequence_forget(struct bucket *bucket);
