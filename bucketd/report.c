/* Counters as text, the replica's state as a message. */
#include "bucketd/report.h"

#define ENDS_NS 1000000000u

void report_stats(const struct bucket *bucket, bool replicated, struct buf *out)
{
    static const char *const roles[] = {
        [ROLE_FOLLOWER] = "follower", [ROLE_CANDIDATE] = "candidate", [ROLE_LEADER] = "leader"};
    struct bucket_stats s;
    bucket_get_stats(bucket, &s);
    buf_printf(out,
               "events %lu\nappends %lu\nduplicates %lu\nconflicts %lu\nflushes %lu\n"
               "flushed_events %lu\nflushed_bytes %lu\nreads %lu\ncache_hits %lu\n"
               "cache_misses %lu\ncache_entries %lu\ncache_bytes %lu\ncache_bytes_max %lu\n"
               "cache_evictions %lu\nsegments %lu\ndisk_bytes %lu\ncommit_idx %lu\nterm %lu\n"
               "disk_full %d\n",
               s.events, s.appends, s.duplicates, s.conflicts, s.flushes, s.flushed_events,
               s.flushed_bytes, s.reads, s.cache_hits, s.cache_misses, s.cache_entries,
               s.cache_bytes, s.cache_bytes_max, s.cache_evictions, s.segments, s.disk_bytes,
               s.commit_idx, s.term, s.disk_full);
    if (!replicated)
        return;
    struct replica_state r;
    bucket_get_replica_state(bucket, &r);
    buf_printf(out, "role %s\n", roles[r.role]);
    if (r.leader != 0)
        buf_printf(out, "leader %u\n", r.leader - 1);
    buf_printf(out,
               "last_idx %lu\ndurable_idx %lu\nverified_idx %lu\nsettled %d\n"
               "ready %d\nstale %d\ndamaged %d\nvoter %d\n",
               r.last_idx, r.durable_idx, r.verified_idx, r.settled, r.ready, r.stale, r.damaged,
               r.voter);
}

void report_replica(struct report *report, const struct bucket *bucket, uint64_t now_ns,
                    struct buf *out)
{
    struct replica_state r;
    bucket_get_replica_state(bucket, &r);
    struct msg_replica_state now = {
        .role = r.role,
        .term = r.term,
        .leader = r.leader,
        .settled = r.settled,
        .ready = r.ready,
        .stale = r.stale,
        .damaged = r.damaged,
        .voter = r.voter,
        .commit_idx = r.commit_idx,
        .last_idx = r.last_idx,
    };
    const struct msg_replica_state *last = &report->last;
    bool same = report->sent && now.role == last->role && now.term == last->term &&
                now.leader == last->leader && now.settled == last->settled &&
                now.ready == last->ready && now.stale == last->stale &&
                now.damaged == last->damaged && now.voter == last->voter;
    bool moved = now.commit_idx != last->commit_idx || now.last_idx != last->last_idx;
    if (same && (!moved || now_ns - report->sent_ns < ENDS_NS))
        return;
    *report = (struct report){.sent = true, .sent_ns = now_ns, .last = now};
    msg_pack_replica_state(out, &now);
}
