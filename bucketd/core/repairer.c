/* Damaged segments are made whole: what is done when. */
#include "bucketd/core/repairer.h"

#include <inttypes.h>
#include <stdlib.h>

#include "bucketd/core/repair_build.h"
#include "bucketd/core/repair_notes.h"

/* One answer. */
#define FETCH_BYTES (1u << 20)
/* What is written between two looks at what else is to be done. */
#define COPY_BYTES (16u << 20)
/* A segment in which nothing was found wrong isn't looked at again for so long. */
#define WHOLE_NS (10000000000ull)
/* For damage in the newest segment the process starts again, but not more often. */
#define AGAIN_NS (60000000000ull)

enum phase {
    PHASE_IDLE,
    PHASE_BUILD, /* the next entries are to be had */
    PHASE_FETCH, /* asked for */
    PHASE_PLACE, /* complete and synced: it takes the old one's place when that is possible */
    PHASE_ENDED, /* the process ends */
};

struct repairer {
    struct repairer_config config;
    struct env *env;
    struct wal *wal;
    struct repairer_callbacks callbacks;
    uint32_t peers[REPLICAS_MAX];
    uint32_t peer_count;

    struct repair_notes noted;
    bool newest;       /* the newest one is damaged ... */
    bool newest_waits; /* ... and so is the one before */
    uint64_t first_segment, opened_ns;
    bool stopping, running;
    uint64_t whole_segment, whole_ns;

    /* The one at hand. */
    enum phase phase;
    uint64_t not_before_ns;
    struct repair_build build;
    bool by_leader;                         /* it is to become what the leader has */
    uint64_t cap_idx;                       /* no entry beyond; 0: no cap */
    uint64_t fetched;                       /* entries */
    uint64_t confirmed_idx, confirmed_term; /* 0: not yet */
    uint32_t confirmed_by;

    /* What was asked for. */
    uint64_t fetch_id, asked_from, asked_to, asked_term, deadline_ns;
    uint32_t asked_node;
    bool confirming;
    uint32_t peer, refusals; /* next one's place; how many in a row */
    bool mismatch;           /* somebody's answer didn't fit */

    /* A leader whose tick answers one of this process; last_idx as that first told. */
    uint32_t leader; /* node + 1; 0: none */
    uint64_t leader_term, leader_last_idx;
};

static void remove_leftover(struct repairer *repairer);
static uint64_t start_again(struct repairer *repairer, uint64_t now);
static void begin(struct repairer *repairer, uint64_t segment, bool newest);
static void start(struct repairer *repairer, enum repair_work work);
static void on_done(struct job *job);
static void on_scanned(struct repairer *repairer);
static void settled(struct repairer *repairer, uint64_t segment);
static void on_no_beginning(struct repairer *repairer);
static void on_added(struct repairer *repairer);
static void rebuild(struct repairer *repairer, bool drop_own);
static void give_up(struct repairer *repairer, const char *why, enum err err);
static void beyond_repair(struct repairer *repairer, const char *why);
static void go_on(struct repairer *repairer, uint64_t now);
static void ask_sealed(struct repairer *repairer, uint64_t now);
static void ask_newest(struct repairer *repairer, uint64_t now);
static void ask_leader(struct repairer *repairer, uint64_t now);
static uint32_t next_peer(const struct repairer *repairer);
static void fetch(struct repairer *repairer, uint32_t node, uint64_t to_idx, uint64_t now);
static void refused(struct repairer *repairer, bool mismatch);
static void confirm(struct repairer *repairer);
static void place(struct repairer *repairer);
static void place_newest(struct repairer *repairer);
static bool leader_known(const struct repairer *repairer);

struct repairer *repairer_new(const struct repairer_config *config, struct env *env,
                              struct wal *wal, const struct repairer_callbacks *callbacks)
{
    struct repairer *repairer = calloc(1, sizeof *repairer);
    ASSERT(repairer != NULL);
    repairer->config = *config;
    repairer->env = env;
    repairer->wal = wal;
    repairer->callbacks = *callbacks;
    for (uint32_t i = 0; i < config->wal.replica_count; i++) {
        if (config->wal.replicas[i] != config->wal.node)
            repairer->peers[repairer->peer_count++] = config->wal.replicas[i];
    }
    return repairer;
}

void repairer_free(struct repairer *repairer)
{
    if (repairer == NULL)
        return;
    repair_build_release(&repairer->build);
    repair_notes_release(&repairer->noted);
    free(repairer);
}

void repairer_open(struct repairer *repairer, const struct wal_recovery *recovery)
{
    remove_leftover(repairer);
    repairer->first_segment = recovery->first_segment;
    repairer->opened_ns = repairer->env->ops->now_ns(repairer->env);
    repairer->newest = recovery->damaged && repairer->peer_count > 0;
}

static void remove_leftover(struct repairer *repairer)
{
    enum err err = rewrite_remove(repairer->env->disk);
    if (err != ERR_OK)
        log_warn(repairer->env->log, "repair.leftover", "error=%s", err_name(err));
}

void repairer_note(struct repairer *repairer, uint64_t segment)
{
    uint64_t now = repairer->env->ops->now_ns(repairer->env);
    bool looked_at = segment == repairer->whole_segment && repairer->whole_ns != 0 &&
                     now - repairer->whole_ns < WHOLE_NS;
    if (repairer->peer_count > 0 && !looked_at)
        repair_notes_add(&repairer->noted, segment);
}

void repairer_stop(struct repairer *repairer)
{
    repairer->stopping = true;
}

bool repairer_busy(const struct repairer *repairer)
{
    return repairer->running;
}

uint64_t repairer_waiting(const struct repairer *repairer)
{
    return repairer->noted.len + repairer->newest;
}

uint64_t repairer_turn(struct repairer *repairer, uint64_t now)
{
    if (repairer->running || repairer->stopping || repairer->phase == PHASE_ENDED)
        return UINT64_MAX;
    if (repairer->phase == PHASE_FETCH && now < repairer->deadline_ns)
        return repairer->deadline_ns;
    if (repairer->phase == PHASE_FETCH)
        refused(repairer, false);
    if (now < repairer->not_before_ns)
        return repairer->not_before_ns;
    repairer->not_before_ns = 0;
    if (repairer->phase == PHASE_BUILD) {
        go_on(repairer, now);
    } else if (repairer->phase == PHASE_PLACE) {
        place(repairer);
    } else if (repairer->newest && !repairer->newest_waits) {
        begin(repairer, wal_durable(repairer->wal).segment, true);
    } else if (repairer->noted.len > 0 &&
               repairer->noted.list[0] < wal_durable(repairer->wal).segment) {
        begin(repairer, repairer->noted.list[0], false);
    } else if (repairer->noted.len > 0) {
        return start_again(repairer, now);
    }
    if (repairer->phase == PHASE_FETCH)
        return repairer->deadline_ns;
    return repairer->not_before_ns != 0 ? repairer->not_before_ns : UINT64_MAX;
}

/* --- the steps' ends --- */

/* The newest one's damage was met by a read: the start repairs it. A leader gives way before. */
static uint64_t start_again(struct repairer *repairer, uint64_t now)
{
    uint64_t at = repairer->opened_ns + AGAIN_NS;
    if (now < at)
        return at;
    if (!repairer->callbacks.led_by_another(repairer->callbacks.ctx)) {
        repairer->callbacks.give_way(repairer->callbacks.ctx);
        repairer->not_before_ns = now + repairer->config.pause_ns;
        return repairer->not_before_ns;
    }
    repairer->phase = PHASE_ENDED;
    repairer->env->ops->fatal(repairer->env, ERR_OK, "damage in the newest segment");
    return UINT64_MAX;
}

static void begin(struct repairer *repairer, uint64_t segment, bool newest)
{
    log_info(repairer->env->log, "repair.begin", "segment=%" PRIu64 " newest=%d", segment, newest);
    repair_build_release(&repairer->build);
    repairer->build = (struct repair_build){
        .salvage = {.config = repairer->config.wal,
                    .segment = segment,
                    .first_segment = repairer->first_segment,
                    .disk_id = wal_disk_id(repairer->wal),
                    .newest = newest},
        .commit_idx = newest ? wal_commit_idx(repairer->wal) : UINT64_MAX,
        .hash_seed = repairer->config.hash_seed,
    };
    repairer->by_leader = repairer->mismatch = false;
    repairer->cap_idx = repairer->confirmed_idx = repairer->fetched = 0;
    repairer->refusals = 0;
    start(repairer, REPAIR_SCAN);
}

static void start(struct repairer *repairer, enum repair_work work)
{
    struct repair_build *build = &repairer->build;
    build->job.work = repair_build_work;
    build->job.done = on_done;
    build->owner = repairer;
    build->work = work;
    build->durable = wal_durable(repairer->wal);
    repairer->running = true;
    repairer->phase = PHASE_BUILD;
    repairer->env->ops->submit(repairer->env, &build->job);
}

static void on_done(struct job *job)
{
    struct repair_build *build = (struct repair_build *)job;
    struct repairer *repairer = build->owner;
    repairer->running = false;
    if (build->err != ERR_OK && build->err != ERR_CORRUPT)
        give_up(repairer, repair_work_name(build->work), build->err);
    else if (build->work == REPAIR_SCAN && build->err == ERR_CORRUPT)
        on_no_beginning(repairer);
    else if (build->work == REPAIR_SCAN)
        on_scanned(repairer);
    else if (build->work == REPAIR_ADD)
        on_added(repairer);
    else if (build->work == REPAIR_COPY && build->err == ERR_CORRUPT)
        repair_build_drop_run(build);
    else if (build->work == REPAIR_FINISH)
        repairer->phase = PHASE_PLACE;
}

static void on_scanned(struct repairer *repairer)
{
    const struct salvage *salvage = &repairer->build.salvage;
    if (salvage->whole) {
        log_info(repairer->env->log, "repair.nothing", "segment=%" PRIu64, salvage->segment);
        repairer->whole_segment = salvage->segment;
        repairer->whole_ns = repairer->env->ops->now_ns(repairer->env);
        settled(repairer, salvage->segment);
        repairer->phase = salvage->newest ? PHASE_ENDED : PHASE_IDLE;
        if (salvage->newest) /* what couldn't be read can be read now: it is recovered anew */
            repairer->env->ops->fatal(repairer->env, ERR_OK, "log found whole");
    } else if (!salvage->newest && !salvage->end_known) {
        beyond_repair(repairer, "its end");
    } else {
        start(repairer, REPAIR_BEGIN);
    }
}

static void settled(struct repairer *repairer, uint64_t segment)
{
    repair_notes_remove(&repairer->noted, segment);
    repairer->newest_waits = false;
}

/* The one before tells where it begins, when that is whole again. */
static void on_no_beginning(struct repairer *repairer)
{
    const struct salvage *salvage = &repairer->build.salvage;
    if (!salvage->before_damaged) {
        beyond_repair(repairer, "its beginning");
        return;
    }
    repair_notes_add(&repairer->noted, salvage->segment - 1);
    repairer->newest_waits = salvage->newest;
    give_up(repairer, "the segment before", ERR_CORRUPT);
}

static void on_added(struct repairer *repairer)
{
    if (repairer->build.added == 0) {
        refused(repairer, true);
        return;
    }
    repairer->refusals = 0;
    repairer->mismatch = false;
    repairer->fetched += repairer->build.added;
}

/* From the beginning again. */
static void rebuild(struct repairer *repairer, bool drop_own)
{
    if (drop_own) {
        repairer->build.own++;
        log_warn(repairer->env->log, "repair.own_entries_dropped", "segment=%" PRIu64 " all=%d",
                 repairer->build.salvage.segment, repairer->build.own == OWN_NONE);
    }
    repairer->confirmed_idx = 0;
    repairer->refusals = 0;
    repairer->mismatch = false;
    start(repairer, REPAIR_BEGIN);
}

static void give_up(struct repairer *repairer, const char *why, enum err err)
{
    log_error(repairer->env->log, "repair.failed",
              "segment=%" PRIu64 " at=\"%s\" error=%s effect=\"tried again\"",
              repairer->build.salvage.segment, why, err_name(err));
    repair_build_release(&repairer->build);
    remove_leftover(repairer);
    repairer->phase = PHASE_IDLE;
    repairer->not_before_ns = repairer->env->ops->now_ns(repairer->env) + repairer->config.pause_ns;
}

/* Only while others have the log: what is set aside here can't be asked for. */
static void beyond_repair(struct repairer *repairer, const char *why)
{
    bool others_have_it = repairer->callbacks.led_by_another(repairer->callbacks.ctx);
    give_up(repairer, why, ERR_CORRUPT);
    if (others_have_it)
        (void)repairer->env->ops->replace_disk(repairer->env, why);
    else
        repairer->callbacks.give_way(repairer->callbacks.ctx);
}

/* --- what comes next --- */

static void go_on(struct repairer *repairer, uint64_t now)
{
    struct repair_build *build = &repairer->build;
    uint64_t next = build->rewrite.state.last_idx + 1;
    uint64_t cap = repairer->cap_idx == 0 ? UINT64_MAX : repairer->cap_idx;
    if (!build->salvage.newest)
        cap = build->salvage.end_idx;
    const struct salvage_run *run = repair_build_run(build, next);
    enum repair_verdict verdict = repair_build_judge(build, repairer->confirmed_idx);
    if (verdict == REPAIR_IS_COMPLETE) {
        start(repairer, REPAIR_FINISH);
    } else if (verdict == REPAIR_IS_WRONG && build->own == OWN_NONE) {
        beyond_repair(repairer, "its end");
    } else if (verdict == REPAIR_IS_WRONG) {
        rebuild(repairer, true);
    } else if (run != NULL && run->first <= next && next <= cap) {
        build->upto_idx = min_u64(run->last, cap);
        build->bytes = COPY_BYTES;
        start(repairer, REPAIR_COPY);
    } else if (build->salvage.newest) {
        ask_newest(repairer, now);
    } else {
        ask_sealed(repairer, now);
    }
}

static void ask_sealed(struct repairer *repairer, uint64_t now)
{
    fetch(repairer, next_peer(repairer),
          repair_build_hole_last(&repairer->build, repairer->build.salvage.end_idx), now);
}

static void ask_newest(struct repairer *repairer, uint64_t now)
{
    const struct salvage *salvage = &repairer->build.salvage;
    uint64_t next = repairer->build.rewrite.state.last_idx + 1;
    bool known = leader_known(repairer);
    /* Nothing of its own tells of more entries; or the leader has none there, and what was there
     * won't come back. */
    if (!salvage->end_known || next > salvage->end_idx ||
        (known && repairer->leader_last_idx < next))
        repairer->by_leader = true;
    if (repairer->by_leader) {
        ask_leader(repairer, now);
        return;
    }
    uint32_t node = known && repairer->refusals == 0 ? repairer->leader - 1 : next_peer(repairer);
    fetch(repairer, node, repair_build_hole_last(&repairer->build, salvage->end_idx), now);
}

static void ask_leader(struct repairer *repairer, uint64_t now)
{
    uint64_t last_idx = repairer->build.rewrite.state.last_idx, leader_has;
    if (!leader_known(repairer)) {
        repairer->not_before_ns = now + repairer->config.pause_ns; /* or a leader's tick */
        return;
    }
    leader_has = repairer->leader_last_idx;
    if (last_idx < leader_has) {
        fetch(repairer, repairer->leader - 1, repair_build_hole_last(&repairer->build, leader_has),
              now);
    } else if (last_idx == leader_has) {
        fetch(repairer, repairer->leader - 1, last_idx + 1, now);
        repairer->confirming = true;
    } else if (repairer->cap_idx == leader_has) {
        give_up(repairer, "the leader has less", ERR_CORRUPT);
    } else {
        repairer->cap_idx = leader_has;
        rebuild(repairer, false);
    }
}

/* A leader of the newest term that this log knows. */
static bool leader_known(const struct repairer *repairer)
{
    return repairer->leader != 0 && repairer->leader_term >= wal_term(repairer->wal);
}

/* --- asking --- */

static uint32_t next_peer(const struct repairer *repairer)
{
    return repairer->peers[repairer->peer % repairer->peer_count];
}

static void fetch(struct repairer *repairer, uint32_t node, uint64_t to_idx, uint64_t now)
{
    repairer->phase = PHASE_FETCH;
    repairer->confirming = false;
    repairer->asked_node = node;
    repairer->asked_from = repairer->build.rewrite.state.last_idx + 1;
    repairer->asked_to = to_idx;
    repairer->asked_term = repairer->leader_term;
    repairer->deadline_ns = now + repairer->config.timeout_ns;
    repairer->fetch_id++;
    struct buf *out = repairer->env->ops->peer(repairer->env, node);
    if (out != NULL)
        msg_pack_fetch(out, &(struct msg_fetch){.id = repairer->fetch_id,
                                                .from_idx = repairer->asked_from,
                                                .to_idx = to_idx,
                                                .bytes = FETCH_BYTES});
}

/* The next one is asked. When all were: what doesn't fit may be what is here. */
static void refused(struct repairer *repairer, bool mismatch)
{
    repairer->phase = PHASE_BUILD;
    repairer->peer++;
    repairer->refusals++;
    repairer->mismatch |= mismatch;
    uint32_t all = repairer->peer_count + (repairer->build.salvage.newest ? 1 : 0);
    if (repairer->refusals < (repairer->by_leader ? 1 : all))
        return;
    if (repairer->mismatch && repairer->build.own != OWN_NONE) {
        rebuild(repairer, true);
        return;
    }
    if (repairer->mismatch) {
        beyond_repair(repairer, "others' entries");
        return;
    }
    repairer->refusals = 0;
    repairer->not_before_ns = repairer->env->ops->now_ns(repairer->env) + repairer->config.pause_ns;
    log_warn(repairer->env->log, "repair.waits", "segment=%" PRIu64 " idx=%" PRIu64,
             repairer->build.salvage.segment, repairer->asked_from);
}

void repairer_on_tick(struct repairer *repairer, uint32_t node, const struct msg_tick *tick)
{
    if (!repairer->newest || tick->echo_boot != repairer->config.boot ||
        tick->term < repairer->leader_term)
        return;
    bool is_leader = repairer->leader == node + 1;
    if (!tick->leads && is_leader)
        repairer->leader = 0;
    if (!tick->leads || (is_leader && tick->term == repairer->leader_term))
        return;
    repairer->leader = node + 1;
    repairer->leader_term = tick->term;
    repairer->leader_last_idx = tick->last_idx;
    repairer->cap_idx = 0;
    if (repairer->phase == PHASE_BUILD)
        repairer->not_before_ns = 0;
}

void repairer_on_chunk(struct repairer *repairer, uint32_t node, const struct msg_chunk *chunk)
{
    struct repair_build *build = &repairer->build;
    if (repairer->phase != PHASE_FETCH || node != repairer->asked_node ||
        chunk->id != repairer->fetch_id)
        return;
    /* Whoever doesn't tell what stands before its entries isn't sure that they live. That is no
     * harm where the end is known: only the right ones lead there. */
    bool linked = chunk->from_idx == 1 || chunk->prev_chain != 0;
    bool usable = chunk->from_idx == repairer->asked_from && (linked || !repairer->by_leader) &&
                  (chunk->count > 0 || repairer->confirming);
    if (!usable) {
        refused(repairer, false);
    } else if (linked && chunk->prev_chain != build->rewrite.state.last_chain) {
        refused(repairer, true);
    } else if (repairer->confirming) {
        confirm(repairer);
    } else {
        buf_clear(&build->chunk, 2 * FETCH_BYTES);
        buf_append_span(&build->chunk, chunk->entries);
        build->raw_bytes = chunk->raw_bytes;
        build->upto_idx = repairer->asked_to;
        start(repairer, REPAIR_ADD);
    }
}

/* The leader has the same last entry, and so the same log up to there. */
static void confirm(struct repairer *repairer)
{
    repairer->phase = PHASE_BUILD;
    if (leader_known(repairer) && repairer->leader == repairer->asked_node + 1 &&
        repairer->leader_term == repairer->asked_term) {
        repairer->confirmed_idx = repairer->build.rewrite.state.last_idx;
        repairer->confirmed_term = repairer->leader_term;
        repairer->confirmed_by = repairer->asked_node;
    }
}

/* --- the new file's place --- */

static void place(struct repairer *repairer)
{
    struct repair_build *build = &repairer->build;
    struct disk *disk = repairer->env->disk;
    uint64_t segment = build->salvage.segment;
    if (build->salvage.newest) {
        place_newest(repairer);
        return;
    }
    if (!repairer->callbacks.may_replace(repairer->callbacks.ctx, segment)) {
        repairer->not_before_ns =
            repairer->env->ops->now_ns(repairer->env) + repairer->config.timeout_ns / 10;
        return;
    }
    enum err err = rewrite_remove_index(disk, segment);
    if (err == ERR_OK)
        err = rewrite_publish(&build->rewrite);
    if (err != ERR_OK) {
        repairer->phase = PHASE_ENDED;
        repairer->env->ops->fatal(repairer->env, err, "exchange of a repaired segment");
        return;
    }
    log_info(repairer->env->log, "repair.done",
             "segment=%" PRIu64 " entries=%" PRIu64 " fetched=%" PRIu64, segment,
             build->rewrite.entries, repairer->fetched);
    struct index *index = build->rewrite.index;
    build->rewrite.index = NULL;
    repairer->phase = PHASE_IDLE;
    settled(repairer, segment);
    repair_build_release(build);
    repairer->callbacks.on_replaced(repairer->callbacks.ctx, segment, index);
}

/* At once, with the term and vote of now: a vote that were given meanwhile would be lost. */
static void place_newest(struct repairer *repairer)
{
    struct repair_build *build = &repairer->build;
    const struct wal *wal = repairer->wal;
    uint64_t term = wal_term(wal), voted_for = wal_voted_for(wal);
    if (wal_pending(wal) || wal_flushing(wal))
        return;
    /* A vote of its own may be lost. For the leader of its term another one does no harm. */
    if (repairer->confirmed_idx != 0 &&
        (repairer->confirmed_term > term || (repairer->confirmed_term == term && voted_for == 0))) {
        term = repairer->confirmed_term;
        voted_for = (uint64_t)repairer->confirmed_by + 1;
    }
    if (term < build->rewrite.state.term) {
        give_up(repairer, "its term", ERR_CORRUPT);
        return;
    }
    enum err err = rewrite_end(&build->rewrite, term, voted_for);
    if (err == ERR_FULL) {
        give_up(repairer, "end", err);
        return;
    }
    if (err == ERR_OK)
        err = rewrite_publish(&build->rewrite);
    log_info(repairer->env->log, "repair.done",
             "segment=%" PRIu64 " entries=%" PRIu64 " fetched=%" PRIu64, build->salvage.segment,
             build->rewrite.entries, repairer->fetched);
    repairer->phase = PHASE_ENDED;
    repairer->env->ops->fatal(repairer->env, err,
                              err == ERR_OK ? "log repaired" : "exchange of a repaired segment");
}
