/* Older entries, by idx, from the files. */
#include "bucketd/core/history.h"

#include <stdlib.h>

#include "bucketd/core/wal_internal.h"

/* Marks are read through a window of this size: small, because with large batches little else is
 * wanted; not smaller, because with small ones many lie in it. */
#define NEAR_BYTES (16u << 10)

/* One segment's file while it is read. */
struct walk {
    struct history_read *read;
    struct disk *disk;
    struct history_map *map;
    struct wal_reader reader;
    uint32_t base;
    uint64_t limit; /* where its batches end */
    struct buf near;
    uint64_t near_start;
    /* The last batches in which these idx stand; 0: none. */
    uint64_t prev_batch, from_batch;
    uint64_t end_idx; /* of the log at map->end */
    bool end_lost;    /* damage reaches to the limit */

    /* The last entry that was delivered or found. */
    uint64_t idx, term, chain;
    bool found; /* idx is that of an entry: the next one must follow it */
    bool over;  /* nothing more is wanted */
};

static enum err read_from(struct history_read *read, struct disk *disk, bool go_on);
static enum err begin_search(struct walk *walk);
static enum err find_segment(struct walk *walk, uint64_t idx, uint64_t *ret_segment);
static enum err probe(struct walk *walk, uint64_t segment, uint64_t *ret_last_idx);
static enum err segment_open(struct walk *walk, uint64_t segment);
static enum err front_read(struct walk *walk, struct wal_reader *reader, uint64_t segment,
                           struct wal_front *ret_front);
static void segment_close(struct walk *walk);
static enum err map_extend(struct walk *walk);
static enum err map_batch(struct walk *walk, const struct batch_mark *head);
static void map_cut(struct history_map *map, uint64_t from_idx, uint64_t offset);
static enum err deliver(struct walk *walk);
static enum err deliver_batch(struct walk *walk, uint64_t offset, struct span batch);
static bool deliver_entry(struct walk *walk, struct span bytes);
static enum err head_read(struct walk *walk, uint64_t offset, uint64_t number_min,
                          struct batch_mark *ret_head, bool *ret_good);
static enum err batch_read(struct walk *walk, uint64_t offset, uint64_t number_min,
                           struct span *ret_batch, struct batch_mark *ret_head, bool *ret_good);
static bool record_good(const struct walk *walk, uint64_t offset, struct span rest,
                        struct record_head *ret_record);
static enum err next_head(struct walk *walk, uint64_t bad, uint64_t number_min,
                          uint64_t *ret_offset);
static bool is_dead(const struct history_map *map, uint64_t idx, uint64_t offset);
static enum err damage(struct walk *walk, uint64_t idx);

void history_init(struct history_read *read, const struct format_salt *salt)
{
    *read = (struct history_read){.job = {.work = history_work}, .salt = *salt};
}

void history_release(struct history_read *read)
{
    free(read->map.cuts);
    buf_release(&read->entries);
    buf_release(&read->scratch);
    read->map = (struct history_map){0};
    read->next_idx = 0;
}

void history_work(struct job *job, struct disk *disk)
{
    struct history_read *read = (struct history_read *)job;
    bool go_on = read->map.known && read->next_idx == read->from_idx;
    ASSERT(read->from_idx > 0);
    read->err = read_from(read, disk, go_on);
    /* What it went on from may have been cut since, or stood in a file that has been replaced: then
     * nothing follows it, by the chain. */
    if (go_on && read->err == ERR_CORRUPT)
        read->err = read_from(read, disk, false);
}

_Static_assert(offsetof(struct history_read, job) == 0, "a job is its history_read");

static enum err read_from(struct history_read *read, struct disk *disk, bool go_on)
{
    struct walk walk = {.read = read, .disk = disk, .map = &read->map};
    enum err err;
    read->count = 0;
    buf_clear(&read->entries, 2 * WAL_GROUP_BYTES);
    walk.idx = read->from_idx - 1;
    walk.found = go_on;
    if (go_on) {
        walk.term = read->prev_term = read->last_term;
        walk.chain = read->prev_chain = read->last_chain;
        read->prev_known = true;
        err = segment_open(&walk, read->map.segment);
    } else {
        read->prev_known = false;
        err = begin_search(&walk);
    }
    walk.over = read->to_idx < read->from_idx;
    while (err == ERR_OK && !walk.over) {
        err = deliver(&walk);
        uint64_t next = read->map.segment + 1;
        if (err != ERR_OK || walk.over)
            break;
        if (next > read->durable.segment) {
            bool lost = walk.end_lost || (!walk.found && walk.end_idx >= walk.idx);
            err = lost ? damage(&walk, walk.idx + walk.found) : ERR_NOTFOUND;
            break;
        }
        segment_close(&walk);
        err = segment_open(&walk, next);
        bool follows =
            walk.found && read->map.last_idx == walk.idx && read->map.last_chain == walk.chain;
        if (err == ERR_OK && !follows) {
            err = damage(&walk, walk.idx + walk.found);
            read->damaged_segment = next - 1;
        }
    }
    segment_close(&walk);
    buf_release(&walk.near);
    /* What is whole before damage, or before an error, is worth something. */
    if (read->count > 0)
        err = ERR_OK;
    else if (err == ERR_OK)
        err = ERR_NOTFOUND;
    bool keep = walk.found && (err == ERR_OK || err == ERR_NOTFOUND);
    if (err == ERR_IO)
        read->damaged_segment = read->map.segment;
    read->next_idx = keep ? walk.idx + 1 : 0;
    read->last_idx = walk.idx;
    read->last_term = walk.term;
    read->last_chain = walk.chain;
    return err;
}

/* --- where to begin --- */

static enum err begin_search(struct walk *walk)
{
    struct history_read *read = walk->read;
    uint64_t segment = 0;
    read->searches++;
    read->map.known = false;
    enum err err = find_segment(walk, walk->idx, &segment);
    if (err != ERR_OK)
        return err;
    err = segment_open(walk, segment);
    if (err != ERR_OK || walk->found)
        return err;
    read->next.offset = walk->prev_batch;
    if (walk->prev_batch == 0 && read->unsure && walk->from_batch != 0)
        read->next.offset = walk->from_batch;
    if (read->next.offset == 0)
        read->next.offset = read->map.end;
    return ERR_OK;
}

/* The newest segment that begins behind the entry of this idx or before it, and so holds it, unless
 * it is its checkpoint's. Segments whose front is damaged are passed over: who reads on gets there.
 */
static enum err find_segment(struct walk *walk, uint64_t idx, uint64_t *ret_segment)
{
    uint64_t from = walk->read->first_segment, to = walk->read->durable.segment, last_idx = 0;
    ASSERT(from <= to);
    while (from < to) {
        uint64_t middle = to - (to - from) / 2, at = middle;
        enum err err = probe(walk, at, &last_idx);
        while (err == ERR_CORRUPT && at < to)
            err = probe(walk, ++at, &last_idx);
        if (err != ERR_OK && err != ERR_CORRUPT)
            return err;
        if (err == ERR_OK && last_idx <= idx)
            from = at;
        else
            to = middle - 1;
    }
    enum err err = probe(walk, from, &last_idx);
    if (err == ERR_CORRUPT) {
        walk->map->segment = from;
        return damage(walk, idx + 1);
    }
    if (err == ERR_OK && last_idx > idx)
        return ERR_NOTFOUND;
    *ret_segment = from;
    return err;
}

static enum err probe(struct walk *walk, uint64_t segment, uint64_t *ret_last_idx)
{
    struct wal_reader reader = {0};
    struct wal_front front;
    enum err err = front_read(walk, &reader, segment, &front);
    if (err == ERR_OK)
        *ret_last_idx = front.checkpoint.last_idx;
    if (reader.file != NULL)
        wal_reader_close(&reader);
    return err;
}

/* Opens a segment and learns what its marks say. Where it begins behind the entry that was
 * delivered last or is looked for, reading begins at its first batch. */
static enum err segment_open(struct walk *walk, uint64_t segment)
{
    struct history_read *read = walk->read;
    struct history_map *map = walk->map;
    struct format_salt salt = read->salt;
    struct wal_front front;
    bool is_new = !map->known || map->segment != segment;
    if (is_new) {
        *map =
            (struct history_map){.segment = segment, .cuts = map->cuts, .cuts_cap = map->cuts_cap};
        walk->end_idx = 0;
    }
    salt.segment = segment;
    walk->base = wal_salt_base(&salt);
    enum err err = front_read(walk, &walk->reader, segment, &front);
    if (err == ERR_CORRUPT)
        return damage(walk, walk->idx + 1);
    if (err != ERR_OK)
        return err;
    walk->limit = read->durable.offset;
    if (segment < read->durable.segment)
        walk->limit = front.sealed ? front.footer.data_end
                                   : walk->reader.size -
                                         min_u64(walk->reader.size, sizeof(struct segment_footer));
    if (is_new) {
        map->start = map->end = front.header.data_start;
        map->batch_no = front.checkpoint.batch_no;
        map->last_idx = front.checkpoint.last_idx;
        map->last_term = front.checkpoint.last_term;
        map->last_chain = front.checkpoint.last_chain;
        map->known = true;
        read->next = (struct lsn){.segment = segment, .offset = map->start};
        if (!walk->found && map->last_idx == walk->idx) {
            walk->found = read->prev_known = true;
            walk->term = read->prev_term = map->last_term;
            walk->chain = read->prev_chain = map->last_chain;
        }
    }
    return map_extend(walk);
}

/* ERR_CORRUPT also where there is no such file. */
static enum err front_read(struct walk *walk, struct wal_reader *reader, uint64_t segment,
                           struct wal_front *ret_front)
{
    struct format_salt salt = walk->read->salt;
    struct segment_header expected = {0};
    const struct wal_config *config = walk->read->config;
    struct buf what = {0};
    uint64_t *next_seq = NULL;
    char path[48];
    salt.segment = segment;
    if (config != NULL)
        expected = wal_header_make(config, segment, 0);
    wal_data_path(segment, false, path);
    enum err err = wal_reader_open(reader, walk->disk, path);
    if (err != ERR_OK)
        return err == ERR_NOTFOUND ? ERR_CORRUPT : err;
    err = wal_front_read(reader, &salt, config != NULL ? &expected : NULL, ret_front, &next_seq,
                         &what);
    free(next_seq);
    buf_release(&what);
    return err;
}

static void segment_close(struct walk *walk)
{
    if (walk->reader.file != NULL)
        wal_reader_close(&walk->reader);
    walk->near.len = 0;
}

/* --- what the marks say --- */

static enum err map_extend(struct walk *walk)
{
    struct history_map *map = walk->map;
    walk->prev_batch = walk->from_batch = 0;
    walk->end_lost = false;
    bool gap = false;
    while (map->end < walk->limit) {
        struct batch_mark head;
        bool good = false;
        enum err err = head_read(walk, map->end, map->batch_no + 1, &head, &good);
        if (err != ERR_OK)
            return err;
        if (!good || (!gap && head.number != map->batch_no + 1)) {
            err = next_head(walk, map->end, map->batch_no + 1, &map->end);
            if (err != ERR_OK)
                return err;
            map->unsure_end = map->end;
            walk->end_lost = map->end == walk->limit;
            gap = true;
            continue;
        }
        gap = false;
        err = map_batch(walk, &head);
        if (err != ERR_OK)
            return err;
        map->batch_no = head.number;
        map->end += head.bytes;
        walk->end_idx = head.last_idx;
    }
    return ERR_OK;
}

/* A batch whose mark counts no more records than its entries can be holds neither cuts nor votes.
 */
static enum err map_batch(struct walk *walk, const struct batch_mark *head)
{
    uint64_t from = walk->read->from_idx, prev = from - 1, offset = head->offset;
    if (head->first_idx == 0 ? head->records == 0
                             : head->last_idx + 1 - head->first_idx == head->records) {
        if (head->first_idx != 0 && head->first_idx <= prev && prev <= head->last_idx)
            walk->prev_batch = offset;
        if (head->first_idx != 0 && head->first_idx <= from && from <= head->last_idx)
            walk->from_batch = offset;
        return ERR_OK;
    }
    struct span batch;
    struct batch_mark again;
    bool good = false;
    enum err err = batch_read(walk, offset, head->number, &batch, &again, &good);
    if (err != ERR_OK)
        return err;
    uint64_t end = head->bytes - sizeof *head;
    struct record_head record;
    for (uint64_t at = sizeof *head; good && at < end; at += record.len) {
        struct span rest = span_of(batch.ptr + at, end - at);
        good = record_good(walk, offset + at, rest, &record);
        if (good && record.kind == RECORD_CUT)
            map_cut(walk->map, load_u64(rest.ptr + offsetof(struct cut_record, from_idx)),
                    offset + at);
        if (!good || record.kind != RECORD_ENTRY)
            continue;
        uint64_t idx = load_u64(rest.ptr + offsetof(struct entry_head, idx));
        if (idx == prev)
            walk->prev_batch = offset;
        if (idx == from)
            walk->from_batch = offset;
    }
    if (!good)
        walk->map->unsure_end = offset + head->bytes;
    return ERR_OK;
}

static void map_cut(struct history_map *map, uint64_t from_idx, uint64_t offset)
{
    if (map->cuts_len == map->cuts_cap) {
        map->cuts_cap = map->cuts_cap == 0 ? 8 : map->cuts_cap * 2;
        map->cuts = realloc(map->cuts, map->cuts_cap * sizeof *map->cuts);
        ASSERT(map->cuts != NULL);
    }
    map->cuts[map->cuts_len++] = (struct history_cut){.from_idx = from_idx, .offset = offset};
}

static bool is_dead(const struct history_map *map, uint64_t idx, uint64_t offset)
{
    for (uint32_t i = map->cuts_len; i-- > 0 && map->cuts[i].offset > offset;) {
        if (map->cuts[i].from_idx <= idx)
            return true;
    }
    return false;
}

/* --- entries --- */

static enum err deliver(struct walk *walk)
{
    struct history_read *read = walk->read;
    uint64_t number_min = 1;
    for (uint64_t offset = read->next.offset; offset < walk->limit;) {
        struct span batch;
        struct batch_mark head;
        bool good = false;
        enum err err = batch_read(walk, offset, number_min, &batch, &head, &good);
        if (err == ERR_OK && !good) {
            /* It may have held nothing that is wanted: then what follows is the next entry. */
            err = next_head(walk, offset, number_min, &offset);
            walk->end_lost = offset == walk->limit;
            if (err == ERR_OK)
                continue;
        }
        if (err != ERR_OK)
            return err;
        read->next.offset = offset;
        err = deliver_batch(walk, offset, batch);
        if (err != ERR_OK || walk->over)
            return err;
        number_min = head.number + 1;
        offset += head.bytes;
        read->next.offset = offset;
    }
    return ERR_OK;
}

static enum err deliver_batch(struct walk *walk, uint64_t offset, struct span batch)
{
    struct history_read *read = walk->read;
    uint64_t end = batch.len - sizeof(struct batch_mark);
    struct record_head record;
    for (uint64_t at = sizeof(struct batch_mark); at < end && !walk->over; at += record.len) {
        struct span rest = span_of(batch.ptr + at, end - at);
        if (!record_good(walk, offset + at, rest, &record))
            return damage(walk, walk->idx + walk->found);
        if (record.kind != RECORD_ENTRY)
            continue;
        struct span bytes = span_of(rest.ptr, record.len);
        const struct entry_head *head = (const void *)bytes.ptr;
        uint64_t next_idx = walk->idx + walk->found;
        bool begins = !walk->found && read->unsure && head->idx == walk->idx + 1;
        if (head->idx < next_idx || is_dead(walk->map, head->idx, offset + at))
            continue;
        if (offset < walk->map->unsure_end && !read->unsure)
            return damage(walk, next_idx);
        if (!walk->found && head->idx == walk->idx) {
            walk->found = read->prev_known = true;
            walk->term = read->prev_term = head->term;
            walk->chain = read->prev_chain = head->chain;
            continue;
        }
        if (head->idx != next_idx && !begins)
            return damage(walk, next_idx);
        if (!deliver_entry(walk, bytes))
            return damage(walk, next_idx);
    }
    return ERR_OK;
}

/* False: it doesn't follow the one before. */
static bool deliver_entry(struct walk *walk, struct span bytes)
{
    struct history_read *read = walk->read;
    const struct entry_head *head = (const void *)bytes.ptr;
    uint64_t chain = 0;
    if (head->term < walk->term)
        return false;
    if (walk->found && (wal_entry_chain(bytes, walk->chain, &read->scratch, &chain) != ERR_OK ||
                        chain != head->chain))
        return false;
    if (read->count > 0 && read->entries.len + bytes.len > read->bytes) {
        walk->over = true;
        return true;
    }
    buf_append_span(&read->entries, bytes);
    read->count++;
    walk->idx = head->idx;
    walk->term = head->term;
    walk->chain = head->chain;
    walk->found = true;
    walk->over = head->idx == read->to_idx || read->entries.len >= read->bytes;
    return true;
}

/* --- marks, batches, records --- */

/* *ret_good: a batch begins here, and its number may be that. */
static enum err head_read(struct walk *walk, uint64_t offset, uint64_t number_min,
                          struct batch_mark *ret_head, bool *ret_good)
{
    struct buf *near = &walk->near;
    *ret_good = false;
    if (walk->limit - offset < WAL_WITNESS_BYTES)
        return ERR_OK;
    if (near->len == 0 || offset < walk->near_start ||
        offset + sizeof *ret_head > walk->near_start + near->len) {
        size_t got = 0;
        near->len = 0;
        buf_reserve(near, NEAR_BYTES);
        enum err err = walk->disk->ops->pread(walk->disk, walk->reader.file, offset, near->ptr,
                                              NEAR_BYTES, &got);
        if (err != ERR_OK)
            return err;
        near->len = got;
        walk->near_start = offset;
        if (got < sizeof *ret_head)
            return ERR_OK;
    }
    memcpy(ret_head, near->ptr + (offset - walk->near_start), sizeof *ret_head);
    *ret_good = wal_mark_valid(walk->base, offset, ret_head, BATCH_HEAD_MAGIC) &&
                ret_head->offset == offset && ret_head->number >= number_min &&
                ret_head->bytes >= WAL_WITNESS_BYTES && ret_head->bytes % 8 == 0 &&
                ret_head->bytes <= walk->limit - offset;
    return ERR_OK;
}

/* The same for a batch that is whole. */
static enum err batch_read(struct walk *walk, uint64_t offset, uint64_t number_min,
                           struct span *ret_batch, struct batch_mark *ret_head, bool *ret_good)
{
    const uint8_t *bytes = NULL;
    enum err err = head_read(walk, offset, number_min, ret_head, ret_good);
    if (err != ERR_OK || !*ret_good)
        return err;
    *ret_good = false;
    err = wal_reader_get(&walk->reader, offset, ret_head->bytes, &bytes);
    if (err != ERR_OK)
        return err == ERR_TRUNCATED ? ERR_OK : err;
    struct batch_mark tail;
    uint64_t tail_at = ret_head->bytes - sizeof tail, body = sizeof tail;
    memcpy(&tail, bytes + tail_at, sizeof tail);
    *ret_good = wal_mark_valid(walk->base, offset + tail_at, &tail, BATCH_TAIL_MAGIC) &&
                tail.number == ret_head->number &&
                tail.body_crc == wal_crc(walk->base, offset + body, bytes + body, tail_at - body);
    *ret_batch = span_of(bytes, ret_head->bytes);
    return ERR_OK;
}

static bool record_good(const struct walk *walk, uint64_t offset, struct span rest,
                        struct record_head *ret_record)
{
    if (rest.len < sizeof *ret_record)
        return false;
    memcpy(ret_record, rest.ptr, sizeof *ret_record);
    bool is_entry = ret_record->kind == RECORD_ENTRY;
    size_t len = is_entry ? sizeof(struct entry_head) : sizeof(struct vote_record);
    size_t covered = offsetof(struct record_head, len);
    return ret_record->len >= len && ret_record->len <= rest.len && ret_record->len % 8 == 0 &&
           ret_record->crc == wal_crc(walk->base, offset, rest.ptr + covered, len - covered);
}

_Static_assert(sizeof(struct vote_record) == sizeof(struct cut_record), "one length for both");

/* The next place behind a bad one where a batch begins; the limit: there is none. */
static enum err next_head(struct walk *walk, uint64_t bad, uint64_t number_min,
                          uint64_t *ret_offset)
{
    for (uint64_t at = bad + 8; at + WAL_WITNESS_BYTES <= walk->limit;) {
        const uint8_t *bytes = NULL;
        size_t len = (size_t)min_u64(WAL_READ_BYTES, walk->limit - at);
        enum err err = wal_reader_get(&walk->reader, at, len, &bytes);
        if (err == ERR_TRUNCATED)
            break;
        if (err != ERR_OK)
            return err;
        for (size_t i = 0; i + 8 <= len; i += 8) {
            if (load_u64(bytes + i) != BATCH_HEAD_MAGIC)
                continue;
            struct batch_mark head;
            bool good = false;
            err = head_read(walk, at + i, number_min, &head, &good);
            if (err != ERR_OK)
                return err;
            if (good) {
                *ret_offset = at + i;
                return ERR_OK;
            }
        }
        at += len;
    }
    *ret_offset = walk->limit;
    return ERR_OK;
}

/* What was delivered before it is delivered; the next read meets it again. */
static enum err damage(struct walk *walk, uint64_t idx)
{
    walk->read->hole_idx = idx;
    walk->read->damaged_segment = walk->map->segment;
    return ERR_CORRUPT;
}
