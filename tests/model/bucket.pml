/* Election, replication, commit, cuts, crashes and restarts of one bucket's Raft group of three
 * replicas. README.md says which function of the code each step stands for, what was left out, and
 * why nothing is lost by it.
 *
 * The command line gives the sizes: TERMS 2..4, ENTRIES 2..4, UNSYNCED 1..3 (so many replicas at a
 * time have written what no flush has reached, and may lose it). HINT: what a replica knows to be
 * committed survives a crash. SYMMETRY: states that differ only in the replicas' names are one.
 * BUG_... plants a bug, CLAIMS_ONLY leaves out the lemmas, REACH=n looks for a witness. */

#define FOR_3(in)
#define FOR_4(in)
#define IDX_3(in)
#define IDX_4(in)
#if TERMS >= 3
#undef FOR_3
#define FOR_3(in) in
#endif
#if TERMS >= 4
#undef FOR_4
#define FOR_4(in) in
#endif
#if ENTRIES >= 3
#undef IDX_3
#define IDX_3(in) in
#endif
#if ENTRIES >= 4
#undef IDX_4
#define IDX_4(in) in
#endif

/* A log is a number: the terms of its entries, BITS each, idx 1 lowest. A leader makes one entry
 * for an idx, so (idx, term) names an entry while each term has one leader. */
#if TERMS <= 3
#define BITS 2
#else
#define BITS 3
#endif
#if BITS * ENTRIES <= 8
#define LOG byte
#else
#define LOG short
#endif
#define BELOW(at)       ((1 << (BITS * (at))) - 1)
#define AT(log, at)     ((log >> (BITS * ((at) - 1))) & BELOW(1))
#define UPTO(log, at)   (log & BELOW(at))
#define PLUS(log, term) (log | ((term) << (BITS * LAST(log))))
#define LAST(log)                                                                                  \
    ((log > 0) + (log > BELOW(1)) IDX_3(+ (log > BELOW(2))) IDX_4(+ (log > BELOW(3))))
#define LAST_TERM(log) (log == 0 -> 0 : AT(log, LAST(log)))
#define MIN(a, b)      ((a) < (b) -> (a) : (b))

#define FOLLOWER  0
#define CANDIDATE 1
#define LEADER    2

#define NOBODY   0
#define ME(i)    ((i) + 1)
#define SOMEBODY 4 /* who stands in that term no more */

typedef replica {
    byte role;
    /* The log as it stands in memory, with what no flush has reached. */
    byte term, vote;
    LOG log;
    byte durable;  /* entries up to here are durable for certain: wal_durable_idx */
    byte commit;
    byte verified; /* a follower's: equal to the log of its term's leader up to here */
    byte match[3]; /* a leader's: what the others have acknowledged */
    /* What is left after a crash. */
    byte disk_term, disk_vote, disk_commit;
    LOG disk_log
}
replica r[3];

/* The network: all that the leader of a term ever sent is a piece of this log, and a commit up to
 * this one, whatever has become of that leader. A piece may arrive at any time, often, or never. */
LOG sent_log[TERMS + 1];
byte sent_commit[TERMS + 1];

/* What was true once. */
byte led;      /* bit t: term t has had a leader */
LOG committed; /* what any replica has taken for committed */

/* Of the step at hand; 0 between steps. */
byte step, me, other, in_term, idx;
#ifdef SYMMETRY
short hold;
#endif

/* --- what must hold --- */

/* CLAIM: what others rely on. LEMMA: what the proof of it rests on. The numbers are told when it
 * breaks. */
#define CLAIM(n, claim) assert(n && (claim))
#ifdef CLAIMS_ONLY
#define LEMMA(n, lemma) skip
#else
#define LEMMA(n, lemma) assert(n && (lemma))
#endif
#define ONE_LEADER         1
#define COMMITTED_SAME     2 /* what one replica has committed, the others commit too */
#define COMMITTED_STAYS    3 /* no replica is told to give up what it knows to be committed */
#define COMMITTED_IN_LOG   4 /* a start knows nothing to be committed that the log hasn't got */
#define NOTHING_STUCK      5 /* what a quorum has is committed */
#define LOGS_MATCH        11 /* same idx and term, same log up to there */
#define LEADERS_COMPLETE  12 /* what is committed, leaders of later terms have */
#define QUORUM_DURABLE    13 /* what is committed, a quorum has on disk, always */
#define VERIFIED_HONEST   14 /* up to there a follower's log is that of its term's leader */

/* What must be possible, or the model would prove little: REACH=n is found like a bug. */
#ifdef REACH
#define WITNESS(n, what) assert(REACH != n || !(what))
#else
#define WITNESS(n, what) skip
#endif
#define OLD_TAIL_COMMITTED   1
#define GONE_LEADER_HEARD    2
#define DURABLE_ENTRY_CUT    3
#define COMMITTED_ENTRY_LOST 4
#define EVERY_TERM_COMMITS   5
#define COMMIT_REMEMBERED    6

#define SAME(a, b, at) (UPTO(a, at) == UPTO(b, at))

#define MATCH_AT(a, b, at) (AT(a, at) == 0 || AT(a, at) != AT(b, at) || SAME(a, b, at))
#define MATCH(a, b)                                                                                \
    (MATCH_AT(a, b, 2) IDX_3(&& MATCH_AT(a, b, 3)) IDX_4(&& MATCH_AT(a, b, 4)))
#define MATCHES_ALL(i)                                                                             \
    (MATCH(r[i].log, r[0].log) && MATCH(r[i].log, r[1].log) && MATCH(r[i].log, r[2].log) &&        \
     MATCH(r[i].log, sent_log[1]) && MATCH(r[i].log, sent_log[2])                                  \
     FOR_3(&& MATCH(r[i].log, sent_log[3])) FOR_4(&& MATCH(r[i].log, sent_log[4])))

#define LATER_HAS(l, in)                                                                           \
    (in <= r[l].term || !(led & (1 << in)) || SAME(sent_log[in], r[l].log, r[l].commit))
#define LATER_HAVE(l) (LATER_HAS(l, 2) FOR_3(&& LATER_HAS(l, 3)) FOR_4(&& LATER_HAS(l, 4)))

#define ON_DISK(i) SAME(r[i].disk_log, committed, LAST(committed))

/* i's commit has moved. */
inline check_commit(i)
{
    CLAIM(COMMITTED_SAME, SAME(r[i].log, committed, MIN(r[i].commit, LAST(committed))));
    if
    :: r[i].commit > LAST(committed) -> committed = UPTO(r[i].log, r[i].commit)
    :: else
    fi;
    LEMMA(QUORUM_DURABLE, ON_DISK(0) + ON_DISK(1) + ON_DISK(2) >= 2)
}

inline forget_acks(i)
{
    r[i].match[0] = 0;
    r[i].match[1] = 0;
    r[i].match[2] = 0
}

/* --- acknowledgements and commit: at once, when they can be (README.md says why) --- */

#ifdef BUG_ACK_BEFORE_SYNC
#define ACKED(i) r[i].verified
#else
#define ACKED(i) (r[i].disk_term == r[i].term -> MIN(r[i].verified, r[i].durable) : 0)
#endif

#define STORES(i, l, at)  (i == l -> r[l].durable >= (at) : r[l].match[i] >= (at))
#define QUORUM_HAS(l, at) (STORES(0, l, at) + STORES(1, l, at) + STORES(2, l, at) >= 2)

#ifdef BUG_COMMIT_OLD_TERM
#define COMMITS(l, at) (AT(r[l].log, at) != 0)
#else
#define COMMITS(l, at) (AT(r[l].log, at) == r[l].term)
#endif

inline take_ack(l, i)
{
    if
    :: r[i].term == r[l].term && ACKED(i) > r[l].match[i] -> r[l].match[i] = ACKED(i)
    :: else
    fi
}

inline try_commit(l, at)
{
    if
    :: at > r[l].commit && COMMITS(l, at) && QUORUM_HAS(l, at) ->
        WITNESS(OLD_TAIL_COMMITTED, AT(r[l].log, r[l].commit + 1) != r[l].term);
        r[l].commit = at;
        sent_commit[r[l].term] = at;
        check_commit(l);
        WITNESS(EVERY_TERM_COMMITS, r[l].term == TERMS && at == ENTRIES && AT(r[l].log, 1) == 1 &&
                                        AT(r[l].log, 2) == 2);
        LEMMA(LEADERS_COMPLETE, LATER_HAVE(l))
    :: else
    fi
}

inline count_acks(l, i, j)
{
    if
    :: r[l].role == LEADER && r[l].term == in_term ->
        take_ack(l, i);
        take_ack(l, j);
        try_commit(l, 1);
        try_commit(l, 2);
        IDX_3(try_commit(l, 3);)
        IDX_4(try_commit(l, 4);)
        CLAIM(NOTHING_STUCK, !QUORUM_HAS(l, LAST(r[l].log)) || r[l].commit == LAST(r[l].log))
    :: else
    fi
}

#ifdef BUG_COMMIT_BY_LAST_IDX
#define LEARNS(i) MIN(sent_commit[r[i].term], LAST(r[i].log))
#else
#define LEARNS(i) MIN(sent_commit[r[i].term], r[i].verified)
#endif

inline learn_commit(i)
{
    if
    :: r[i].role == FOLLOWER && r[i].term == in_term && r[i].commit < LEARNS(i) ->
        r[i].commit = LEARNS(i);
        check_commit(i)
    :: else
    fi
}

/* A vote is of interest only while its candidate stands. */
#define STANDS(i, in) (r[i].role == CANDIDATE && r[i].term == in)
#define IDLE(vote, in)                                                                             \
    (vote == ME(0) && !STANDS(0, in) || vote == ME(1) && !STANDS(1, in) ||                         \
     vote == ME(2) && !STANDS(2, in))
inline forget_vote(i)
{
    if
    :: IDLE(r[i].vote, r[i].term) -> r[i].vote = SOMEBODY
    :: else
    fi;
    if
    :: IDLE(r[i].disk_vote, r[i].disk_term) -> r[i].disk_vote = SOMEBODY
    :: else
    fi
}

/* Nobody can take messages of a term that all have left for good. */
#define ALL_PAST(in) (r[0].disk_term > in && r[1].disk_term > in && r[2].disk_term > in)
inline forget_term(in)
{
    if
    :: ALL_PAST(in) ->
        sent_log[in] = 0;
        sent_commit[in] = 0;
        led = led & ~(1 << in)
    :: else
    fi
}

#define NEW(i)                                                                                     \
    (r[i].disk_term != r[i].term || r[i].disk_vote != r[i].vote || r[i].disk_log != r[i].log ||    \
     r[i].durable < LAST(r[i].log))

inline flush(i)
{
    r[i].disk_term = r[i].term;
    r[i].disk_vote = r[i].vote;
    r[i].disk_log = r[i].log;
    r[i].durable = LAST(r[i].log);
#ifdef HINT
    r[i].disk_commit = r[i].commit;
#endif
    forget_term(1);
    FOR_3(forget_term(2);)
    FOR_4(forget_term(3);)
    LEMMA(QUORUM_DURABLE, ON_DISK(0) + ON_DISK(1) + ON_DISK(2) >= 2)
}

#ifdef SYMMETRY
/* Replicas in the order of their logs and terms; who they were is forgotten. */
#define RANK(i) (r[i].log + (r[i].disk_log << 12) + (r[i].term << 24) + (r[i].disk_term << 27))
#define SWAP(a, b) hold = a; a = b; b = hold
#define RENAME(vote, a, b) vote = (vote == ME(a) -> ME(b) : (vote == ME(b) -> ME(a) : vote))
inline exchange(a, b)
{
    SWAP(r[a].role, r[b].role);
    SWAP(r[a].term, r[b].term);
    SWAP(r[a].vote, r[b].vote);
    SWAP(r[a].log, r[b].log);
    SWAP(r[a].durable, r[b].durable);
    SWAP(r[a].commit, r[b].commit);
    SWAP(r[a].verified, r[b].verified);
    SWAP(r[a].disk_term, r[b].disk_term);
    SWAP(r[a].disk_vote, r[b].disk_vote);
    SWAP(r[a].disk_commit, r[b].disk_commit);
    SWAP(r[a].disk_log, r[b].disk_log);
    SWAP(r[a].match[0], r[b].match[0]);
    SWAP(r[a].match[1], r[b].match[1]);
    SWAP(r[a].match[2], r[b].match[2]);
    SWAP(r[0].match[a], r[0].match[b]);
    SWAP(r[1].match[a], r[1].match[b]);
    SWAP(r[2].match[a], r[2].match[b]);
    RENAME(r[0].vote, a, b);
    RENAME(r[1].vote, a, b);
    RENAME(r[2].vote, a, b);
    RENAME(r[0].disk_vote, a, b);
    RENAME(r[1].disk_vote, a, b);
    RENAME(r[2].disk_vote, a, b)
}

inline order(a, b)
{
    if
    :: RANK(a) < RANK(b) -> exchange(a, b)
    :: else
    fi
}
#endif

/* The end of each step. */
inline follow_up()
{
    if
    :: NEW(0) + NEW(1) + NEW(2) > UNSYNCED -> flush(me)
    :: else
    fi;
    in_term = r[me].term;
    count_acks(0, 1, 2);
    count_acks(1, 0, 2);
    count_acks(2, 0, 1);
    learn_commit(0);
    learn_commit(1);
    learn_commit(2);
    step = 0;
    me = 0;
    other = 0;
    in_term = 0;
    idx = 0;
    forget_vote(0);
    forget_vote(1);
    forget_vote(2)
#ifdef SYMMETRY
    ;
    order(0, 1);
    order(1, 2);
    order(0, 1);
    hold = 0
#endif
}

/* --- the steps: of `me`; they concern `other`, `in_term`, `idx` --- */

inline set_term(number, whom)
{
    if
    :: number > r[me].term ->
        r[me].term = number;
#ifndef BUG_VERIFIED_KEPT
        r[me].verified = 0;
#endif
    :: else
    fi;
    r[me].vote = whom;
    forget_acks(me)
}

/* In any higher term: this replica may have heard of those between. */
#define CAN_STAND(i, in) (in > r[i].term)
inline stand()
{
    printf("%d stands in term %d\n", me, in_term);
    set_term(in_term, ME(me));
    r[me].role = CANDIDATE
}

#ifdef BUG_ASK_BEFORE_SYNC
#define ASKS(i) (r[i].role == CANDIDATE)
#else
#define ASKS(i) (r[i].role == CANDIDATE && r[i].disk_term == r[i].term && r[i].disk_vote == ME(i))
#endif

#ifdef BUG_NO_LOG_COMPARE
#define NEW_ENOUGH(i, j) true
#else
#define NEW_ENOUGH(i, j)                                                                           \
    (LAST_TERM(r[i].log) > LAST_TERM(r[j].log) ||                                                  \
     (LAST_TERM(r[i].log) == LAST_TERM(r[j].log) && LAST(r[i].log) >= LAST(r[j].log)))
#endif

#define CAN_VOTE(i, j)                                                                             \
    (ASKS(j) && NEW_ENOUGH(j, i) &&                                                                \
     (r[j].term > r[i].term || (r[j].term == r[i].term && r[i].vote == NOBODY)))
inline vote_for()
{
    printf("%d votes for %d in term %d\n", me, other, r[other].term);
    set_term(r[other].term, ME(other));
    r[me].role = FOLLOWER
}

#ifdef BUG_GRANT_BEFORE_SYNC
#define GRANTS(j, i) (r[j].term == r[i].term && r[j].vote == ME(i))
#else
#define GRANTS(j, i)                                                                               \
    (r[j].term == r[i].term && r[j].vote == ME(i) && r[j].disk_term == r[i].term &&                \
     r[j].disk_vote == ME(i))
#endif

#define CAN_WIN(i, j) (ASKS(i) && GRANTS(j, i) && LAST(r[i].log) < ENTRIES)
inline win()
{
    printf("%d leads term %d with the vote of %d\n", me, r[me].term, other);
    CLAIM(ONE_LEADER, !(led & (1 << r[me].term)));
    led = led | (1 << r[me].term);
    r[me].role = LEADER;
    r[me].verified = 0;
#ifndef BUG_NO_NOOP
    r[me].log = PLUS(r[me].log, r[me].term);
#endif
    sent_log[r[me].term] = r[me].log;
    /* A leader of a later term may have committed more. */
    LEMMA(LEADERS_COMPLETE, (led >> (r[me].term + 1)) != 0 ||
                                SAME(r[me].log, committed, LAST(committed)))
}

#define CAN_APPEND(i) (r[i].role == LEADER && LAST(r[i].log) < ENTRIES)
inline append()
{
    printf("%d appends entry %d\n", me, LAST(r[me].log) + 1);
    r[me].log = PLUS(r[me].log, r[me].term);
    sent_log[r[me].term] = r[me].log
}

#ifdef BUG_NO_PREV_CHECK
#define PRECEDES(i, in, at) true
#else
#define PRECEDES(i, in, at)                                                                        \
    (at - 1 <= r[i].commit || AT(r[i].log, at - 1) == AT(sent_log[in], at - 1))
#endif

#ifdef BUG_CUT_ON_SHORT
#define TELLS(i, at) true
#else
#define TELLS(i, at) (at > r[i].verified || r[i].role == CANDIDATE)
#endif

#define LEADS(i, in) (r[i].role == LEADER && r[i].term == in)

/* The entry `at` of term `in`'s leader comes behind a matching one. */
#define CAN_FOLLOW(i, in, at)                                                                      \
    (in >= r[i].term && at <= LAST(sent_log[in]) && at <= LAST(r[i].log) + 1 &&                    \
     (in > r[i].term || r[i].role != LEADER && TELLS(i, at)) && PRECEDES(i, in, at))
inline follow()
{
    printf("%d hears of entry %d from the leader of term %d\n", me, idx, in_term);
    WITNESS(GONE_LEADER_HEARD, !LEADS(0, in_term) && !LEADS(1, in_term) && !LEADS(2, in_term) &&
                                   in_term > r[me].term);
    if
    :: in_term > r[me].term -> set_term(in_term, NOBODY)
    :: else
    fi;
    r[me].role = FOLLOWER;
    /* The code skips what is committed here without a look: it must be the leader's too. */
    CLAIM(COMMITTED_STAYS, SAME(r[me].log, sent_log[in_term], MIN(idx, r[me].commit)));
    if
    :: idx - 1 <= r[me].commit -> verify(r[me].commit)
    :: else
    fi;
    if
    :: idx > LAST(r[me].log) ->
        r[me].log = PLUS(r[me].log, AT(sent_log[in_term], idx));
        verify(idx)
    :: idx <= LAST(r[me].log) &&
       (idx <= r[me].commit || AT(r[me].log, idx) == AT(sent_log[in_term], idx)) ->
#ifdef BUG_CUT_ON_SHORT
        if
        :: idx < LAST(r[me].log) && idx >= r[me].commit ->
            cut(idx + 1);
            r[me].verified = MIN(r[me].verified, idx)
        :: else
        fi;
#endif
        verify(idx)
    :: else ->
        /* What replaces it comes with the same message once more. */
        cut(idx);
        verify(idx - 1)
    fi;
    LEMMA(LOGS_MATCH, MATCHES_ALL(me));
    LEMMA(VERIFIED_HONEST, SAME(r[me].log, sent_log[in_term], r[me].verified))
}

inline verify(upto)
{
    r[me].verified = (r[me].verified < upto -> upto : r[me].verified)
}

inline cut(from)
{
    printf("%d cuts from entry %d\n", me, from);
    WITNESS(DURABLE_ENTRY_CUT, r[me].durable >= from);
    CLAIM(COMMITTED_STAYS, from > r[me].commit);
#ifndef BUG_DURABLE_KEPT
    r[me].durable = MIN(r[me].durable, from - 1);
#endif
    r[me].log = UPTO(r[me].log, from - 1)
}

inline sync()
{
    printf("%d syncs\n", me);
    flush(me)
}

#define CAN_LOSE(i)                                                                                \
    (r[i].term != r[i].disk_term || r[i].vote != r[i].disk_vote || r[i].log != r[i].disk_log)
inline crash()
{
    printf("%d loses what isn't synced\n", me);
    WITNESS(COMMITTED_ENTRY_LOST, r[me].role == LEADER && r[me].commit > LAST(r[me].disk_log));
    WITNESS(COMMIT_REMEMBERED, r[me].disk_commit > 1);
#ifdef BUG_HINT_OF_TORN
    r[me].commit = MIN(r[me].commit, LAST(r[me].disk_log));
#else
    r[me].commit = r[me].disk_commit;
#endif
    r[me].role = FOLLOWER;
    r[me].term = r[me].disk_term;
    r[me].vote = r[me].disk_vote;
    r[me].log = r[me].disk_log;
    r[me].durable = LAST(r[me].log);
    r[me].verified = 0;
    forget_acks(me);
    CLAIM(COMMITTED_IN_LOG, r[me].commit <= LAST(r[me].log));
    check_commit(me)
}

/* --- every order of them --- */

#define STAND  1
#define VOTE   2
#define WIN    3
#define APPEND 4
#define FOLLOW 5
#define SYNC   6
#define CRASH  7

#define TRY(can, what, i, j, in, at)                                                               \
    :: d_step { can -> step = what; me = i; other = j; in_term = in; idx = at }
#define TRY_STAND(i, in)      TRY(CAN_STAND(i, in), STAND, i, 0, in, 0)
#define TRY_FOLLOW(i, in, at) TRY(CAN_FOLLOW(i, in, at), FOLLOW, i, 0, in, at)
#define TRY_FOLLOWS(i, in)                                                                         \
    TRY_FOLLOW(i, in, 1) TRY_FOLLOW(i, in, 2)                                                      \
    IDX_3(TRY_FOLLOW(i, in, 3)) IDX_4(TRY_FOLLOW(i, in, 4))
#define TRY_ALL(i, j, k)                                                                           \
    TRY_STAND(i, 1) TRY_STAND(i, 2) FOR_3(TRY_STAND(i, 3)) FOR_4(TRY_STAND(i, 4))                  \
    TRY(CAN_VOTE(i, j), VOTE, i, j, 0, 0)                                                          \
    TRY(CAN_VOTE(i, k), VOTE, i, k, 0, 0)                                                          \
    TRY(CAN_WIN(i, j), WIN, i, j, 0, 0)                                                            \
    TRY(CAN_WIN(i, k), WIN, i, k, 0, 0)                                                            \
    TRY(CAN_APPEND(i), APPEND, i, 0, 0, 0)                                                         \
    TRY_FOLLOWS(i, 1) TRY_FOLLOWS(i, 2) FOR_3(TRY_FOLLOWS(i, 3)) FOR_4(TRY_FOLLOWS(i, 4))          \
    TRY(NEW(i), SYNC, i, 0, 0, 0)                                                                  \
    TRY(CAN_LOSE(i), CRASH, i, 0, 0, 0)

active proctype group()
{
end:
    do
    :: atomic {
        if
        TRY_ALL(0, 1, 2)
        TRY_ALL(1, 0, 2)
        TRY_ALL(2, 0, 1)
        fi;
        d_step {
            if
            :: step == STAND -> stand()
            :: step == VOTE -> vote_for()
            :: step == WIN -> win()
            :: step == APPEND -> append()
            :: step == FOLLOW -> follow()
            :: step == SYNC -> sync()
            :: step == CRASH -> crash()
            fi;
            follow_up()
        }
    }
    od
}
