/* Answers other replicas that repair damage. */
#include "bucketd/core/lender.h"

#include <lz4.h>
#include <stdlib.h>

#include "bucketd/core/history.h"
#include "bucketd/core/wal_internal.h"
#include "common/assert.h"
#include "common/limits.h"

#define COMPRESS_BYTES_MIN 1024u
/* What somebody may ask for at a time. */
#define LOAN_BYTES_MAX (4u << 20)

/* A read for one replica; kept for the place it has found. */
struct loan {
    struct history_read read;
    struct lender *lender;
    uint32_t node;
    bool used, running;
    bool unsure;              /* what came may be dead */
    bool chain_only;          /* there are no entries to be told yet */
    uint64_t damaged_segment; /* where it is unsure */
    uint64_t id, from_idx;
    uint64_t term, commit_idx; /* when it was asked for */
    struct buf packed;
    uint64_t raw_bytes;
};

struct lender {
    struct format_salt salt;
    struct env *env;
    struct wal *wal;
    struct lender_callbacks callbacks;
    struct loan loans[REPLICAS_MAX];
};

static bool answer_at_once(struct lender *lender, uint32_t node, const struct msg_fetch *fetch,
                           const struct recent *recent, uint64_t to_idx);
static void answer(struct lender *lender, uint32_t node, const struct msg_chunk *chunk);
static uint64_t lend_upto(const struct lender *lender);
static struct loan *loan_of(struct lender *lender, uint32_t node);
static void loan_work(struct job *job, struct disk *disk);
static void loan_done(struct job *job);
static bool is_certain(const struct loan *loan);

struct lender *lender_new(const struct format_salt *salt, struct env *env, struct wal *wal,
                          const struct lender_callbacks *callbacks)
{
    struct lender *lender = calloc(1, sizeof *lender);
    ASSERT(lender != NULL);
    lender->salt = *salt;
    lender->env = env;
    lender->wal = wal;
    lender->callbacks = *callbacks;
    return lender;
}

void lender_free(struct lender *lender)
{
    if (lender == NULL)
        return;
    for (uint32_t i = 0; i < REPLICAS_MAX; i++) {
        history_release(&lender->loans[i].read);
        buf_release(&lender->loans[i].packed);
    }
    free(lender);
}

bool lender_busy(const struct lender *lender)
{
    for (uint32_t i = 0; i < REPLICAS_MAX; i++) {
        if (lender->loans[i].running)
            return true;
    }
    return false;
}

void lender_on_fetch(struct lender *lender, uint32_t node, const struct msg_fetch *fetch,
                     const struct recent *recent, uint64_t first_segment)
{
    uint64_t upto = lend_upto(lender), to_idx = min_u64(fetch->to_idx, upto);
    struct loan *loan = loan_of(lender, node);
    /* Who asks again before it has got an answer may be late: it will ask once more. */
    if (fetch->from_idx == 0 || fetch->to_idx < fetch->from_idx || loan == NULL || loan->running)
        return;
    if (answer_at_once(lender, node, fetch, recent, to_idx))
        return;
    if (fetch->from_idx > upto + 1) {
        answer(lender, node, &(struct msg_chunk){.id = fetch->id, .from_idx = fetch->from_idx});
        return;
    }
    struct history_read *read = &loan->read;
    loan->node = node;
    loan->running = true;
    loan->id = fetch->id;
    loan->from_idx = fetch->from_idx;
    loan->chain_only = to_idx < fetch->from_idx;
    loan->term = wal_term(lender->wal);
    loan->commit_idx = wal_commit_idx(lender->wal);
    read->job.done = loan_done;
    read->job.work = loan_work;
    read->config = &lender->wal->config;
    read->first_segment = first_segment;
    read->durable = wal_durable(lender->wal);
    read->from_idx = fetch->from_idx;
    read->to_idx = max_u64(to_idx, fetch->from_idx);
    read->bytes = min_u64(fetch->bytes, LOAN_BYTES_MAX);
    lender->env->ops->submit(lender->env, &read->job);
}

/* From memory: the entries, or, where there are none yet, only the chain before them. */
static bool answer_at_once(struct lender *lender, uint32_t node, const struct msg_fetch *fetch,
                           const struct recent *recent, uint64_t to_idx)
{
    struct msg_chunk chunk = {.id = fetch->id, .from_idx = fetch->from_idx};
    struct recent_entry before;
    uint64_t prev_idx = fetch->from_idx - 1, term;
    if (recent != NULL && recent_get(recent, prev_idx, &before))
        chunk.prev_chain = before.chain;
    else if (prev_idx > 0 && !wal_point(lender->wal, prev_idx, &term, &chunk.prev_chain))
        return false;
    if (prev_idx > lend_upto(lender))
        return false;
    if (to_idx >= fetch->from_idx) {
        if (recent == NULL)
            return false;
        chunk.count = recent_span(recent, fetch->from_idx, to_idx,
                                  min_u64(fetch->bytes, LOAN_BYTES_MAX), &chunk.entries);
        if (chunk.count == 0)
            return false;
    }
    answer(lender, node, &chunk);
    return true;
}

static void answer(struct lender *lender, uint32_t node, const struct msg_chunk *chunk)
{
    struct buf *out = lender->env->ops->peer(lender->env, node);
    if (out != NULL)
        msg_pack_chunk(out, chunk);
}

/* A follower's log may still change above what is committed. */
static uint64_t lend_upto(const struct lender *lender)
{
    uint64_t durable_idx = wal_durable_idx(lender->wal);
    if (lender->callbacks.leads(lender->callbacks.ctx))
        return durable_idx;
    return min_u64(durable_idx, wal_commit_idx(lender->wal));
}

static struct loan *loan_of(struct lender *lender, uint32_t node)
{
    struct loan *unused = NULL;
    for (uint32_t i = 0; i < REPLICAS_MAX; i++) {
        struct loan *loan = &lender->loans[i];
        if (loan->used && loan->node == node)
            return loan;
        if (!loan->used && unused == NULL)
            unused = loan;
    }
    if (unused != NULL) {
        *unused = (struct loan){.lender = lender, .node = node, .used = true};
        history_init(&unused->read, &lender->salt);
    }
    return unused;
}

/* What is damaged here too may serve all the same, if it is only uncertain what of it lives: who
 * asked knows the chain on both sides. */
static void loan_work(struct job *job, struct disk *disk)
{
    struct loan *loan = (struct loan *)job;
    struct history_read *read = &loan->read;
    read->unsure = loan->unsure = false;
    history_work(job, disk);
    if (read->err == ERR_CORRUPT) {
        read->unsure = loan->unsure = true;
        loan->damaged_segment = read->damaged_segment;
        /* The chain before the first entry of all is known to everybody. */
        if (read->from_idx == 1)
            read->to_idx = 1;
        history_work(job, disk);
    }
    loan->raw_bytes = 0;
    const struct buf *entries = &read->entries;
    if (read->err != ERR_OK || entries->len < COMPRESS_BYTES_MIN || entries->len > INT32_MAX / 2)
        return;
    buf_clear(&loan->packed, SIZE_MAX);
    int room = LZ4_compressBound((int)entries->len);
    int len = LZ4_compress_default((const char *)entries->ptr,
                                   (char *)buf_reserve(&loan->packed, (size_t)room),
                                   (int)entries->len, room);
    if (len <= 0 || (size_t)len >= entries->len)
        return;
    loan->packed.len = (size_t)len;
    loan->raw_bytes = entries->len;
}

_Static_assert(offsetof(struct loan, read) == 0 && offsetof(struct history_read, job) == 0,
               "a job is its loan");

static void loan_done(struct job *job)
{
    struct loan *loan = (struct loan *)job;
    struct history_read *read = &loan->read;
    struct msg_chunk chunk = {.id = loan->id, .from_idx = loan->from_idx};
    loan->running = false;
    bool found = read->err == ERR_OK || (read->err == ERR_NOTFOUND && read->prev_known);
    if (found && is_certain(loan)) {
        chunk.prev_chain = loan->unsure ? 0 : read->prev_chain;
        if (read->err == ERR_OK && !loan->chain_only) {
            chunk.count = read->count;
            chunk.raw_bytes = loan->raw_bytes;
            chunk.entries = buf_span(loan->raw_bytes > 0 ? &loan->packed : &read->entries);
        }
    }
    answer(loan->lender, loan->node, &chunk);
    struct lender_callbacks *callbacks = &loan->lender->callbacks;
    if (loan->unsure && callbacks->on_damage != NULL)
        callbacks->on_damage(callbacks->ctx, loan->damaged_segment);
    buf_release(&read->entries);
    buf_release(&loan->packed);
}

/* Nothing of it can have been cut while it was read. */
static bool is_certain(const struct loan *loan)
{
    const struct lender *lender = loan->lender;
    bool entries = loan->read.err == ERR_OK && !loan->chain_only;
    uint64_t last_idx = entries ? loan->read.last_idx : loan->from_idx - 1;
    if (last_idx <= loan->commit_idx)
        return true;
    return last_idx <= lend_upto(lender) && loan->term == wal_term(lender->wal);
}
