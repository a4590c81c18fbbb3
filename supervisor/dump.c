/* `sierradb dump FILE`: any file of a data directory as text. It changes nothing and takes no lock,
 * so it may be used on a running node's files too (whose newest batch may look cut off then). */
#include "supervisor/dump.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "bucketd/core/index.h"
#include "bucketd/core/wal.h"
#include "common/buf.h"
#include "supervisor/disk_read.h"

#define CHECKPOINT_AT FORMAT_BLOCK /* the first copy */

static const char usage[] =
    "Usage: sierradb dump [--payload] FILE\n"
    "\n"
    "Prints a file of a data directory as text, checking it: data.evts with its batches, records\n"
    "and events, the index files, meta.json. --payload shows metadata and payloads too.\n"
    "Exit status: 0; 1: something in the file is damaged; 2: it can't be read, or is no such "
    "file.\n";

struct dump {
    bool payload;
    struct format_salt salt;
    struct buf scratch;
};

static int dump_file(struct dump *dump, const char *path);
static int dump_segment(struct dump *dump, const char *path, struct disk *disk, struct file *file,
                        const struct segment_header *header);
static void dump_header(const struct segment_header *header);
static void dump_checkpoint(struct disk *disk, struct file *file,
                            const struct segment_header *header);
static void dump_voter(const struct config_voter *voter);
static void on_batch(void *ctx, const struct batch_mark *head);
static void on_record(void *ctx, uint64_t offset, const struct record_head *record);
static void on_entry(void *ctx, const struct wal_entry *entry);
static void dump_config(const struct wal_entry *entry);
static void dump_events(struct dump *dump, const struct wal_entry *entry);
static void on_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what);
static int dump_mapped(struct disk *disk, struct file *file, uint64_t magic, const char *path);
static void print_line(void *ctx, const char *text);
static void print_bytes(const char *label, struct span bytes);

int dump_main(int argc, char **argv)
{
    struct dump dump = {0};
    const char *path = NULL;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return EXIT_SUCCESS;
        }
        if (strcmp(argv[i], "--payload") == 0) {
            dump.payload = true;
        } else if (argv[i][0] == '-' || path != NULL) {
            fprintf(stderr, "sierradb dump: unexpected argument '%s'\n%s", argv[i], usage);
            return 2;
        } else {
            path = argv[i];
        }
    }
    if (path == NULL) {
        fputs(usage, stderr);
        return 2;
    }
    int status = dump_file(&dump, path);
    buf_release(&dump.scratch);
    return status;
}

static int dump_file(struct dump *dump, const char *path)
{
    struct disk *disk = disk_read_open_one(path, path);
    struct file *file = NULL;
    enum err err = disk->ops->open(disk, path, OPEN_READ, &file);
    if (err != ERR_OK) {
        if (err == ERR_NOTFOUND)
            fprintf(stderr, "%s: no such file\n", path);
        disk_read_close(disk);
        return 2;
    }
    struct segment_header header = {0};
    size_t got = 0;
    int status = 2;
    err = disk->ops->pread(disk, file, 0, &header, sizeof header, &got);
    if (err == ERR_OK && got == sizeof header && header.magic == SEGMENT_MAGIC)
        status = dump_segment(dump, path, disk, file, &header);
    else if (err == ERR_OK)
        status = dump_mapped(disk, file, header.magic, path);
    disk->ops->close(disk, file);
    disk_read_close(disk);
    return status;
}

/* --- data.evts --- */

/* The header says whose file it is: a copy under any name can be dumped. */
static int dump_segment(struct dump *dump, const char *path, struct disk *disk, struct file *file,
                        const struct segment_header *header)
{
    dump_header(header);
    dump_checkpoint(disk, file, header);
    char dir[32], name[64];
    snprintf(name, sizeof name, "%s/data.evts", wal_segment_dir(header->segment, dir));
    struct disk *one = disk_read_open_one(name, path);
    struct wal_scan scan = {.ctx = dump,
                            .on_batch = on_batch,
                            .on_record = on_record,
                            .on_entry = on_entry,
                            .on_problem = on_problem};
    dump->salt = (struct format_salt){
        .cluster_id = header->cluster_id, .bucket = header->bucket, .segment = header->segment};
    struct wal_scan_result result = {0};
    enum err err = wal_scan_segment(one, header->segment, &dump->salt, &scan, &result);
    disk_read_close(one);
    if (err != ERR_OK) {
        printf("stopped: %s\n", err_text(err));
        return err == ERR_CORRUPT ? 1 : 2;
    }
    if (result.sealed)
        printf("@%" PRIu64 " footer: batches %" PRIu64 ", entries %" PRIu64 ", events %" PRIu64
               ", idx %" PRIu64 "..%" PRIu64 ", chain %016" PRIx64 "\n",
               result.footer.data_end, result.footer.batches, result.footer.entries,
               result.footer.events, result.footer.first_idx, result.footer.last_idx,
               result.footer.last_chain);
    printf("%s, data end at %" PRIu64 ": batches %" PRIu64 ", entries %" PRIu64 ", events %" PRIu64
           ", last idx %" PRIu64 ", problems %" PRIu64 "\n",
           result.sealed ? "sealed" : "open", result.data_end, result.batches, result.entries,
           result.events, result.last_idx, result.problems);
    return result.problems == 0 ? 0 : 1;
}

static void dump_header(const struct segment_header *header)
{
    char id[UUID_TEXT_LEN];
    uuid_format(&header->cluster_id, id);
    printf("@0 segment %" PRIu64 ": cluster %.36s, node %" PRIu32 ", bucket %" PRIu32 " of %" PRIu32
           ", partitions %" PRIu32 ", format %" PRIu32 ", data from %" PRIu64
           ", configured size %" PRIu64 ", disk %016" PRIx64 "\n",
           header->segment, id, header->node, header->bucket, header->bucket_count,
           header->partition_count, header->version, header->data_start, header->segment_bytes,
           header->disk_id);
}

static void dump_checkpoint(struct disk *disk, struct file *file,
                            const struct segment_header *header)
{
    struct checkpoint checkpoint = {0};
    size_t got = 0;
    enum err err =
        disk->ops->pread(disk, file, CHECKPOINT_AT, &checkpoint, sizeof checkpoint, &got);
    if (err != ERR_OK || got < sizeof checkpoint || checkpoint.magic != CHECKPOINT_MAGIC) {
        printf("@%u checkpoint: unreadable\n", CHECKPOINT_AT);
        return;
    }
    printf("@%u checkpoint: term %" PRIu64 ", voted for %" PRIu64 ", idx %" PRIu64
           " of term %" PRIu64 ", chain %016" PRIx64 ", batch %" PRIu64 ", events %" PRIu64
           ", config idx %" PRIu64 ", commit hint %" PRIu64 "\n",
           CHECKPOINT_AT, checkpoint.term, checkpoint.voted_for, checkpoint.last_idx,
           checkpoint.last_term, checkpoint.last_chain, checkpoint.batch_no, checkpoint.events,
           checkpoint.config_idx, checkpoint.commit_hint);
    for (uint32_t i = 0; i < checkpoint.voters && i < FORMAT_VOTERS_MAX; i++)
        dump_voter(&checkpoint.voter[i]);
    for (uint32_t i = 0; i < checkpoint.partitions && i < header->partition_count; i++) {
        struct partition_state state = {0};
        uint64_t at = CHECKPOINT_AT + sizeof checkpoint + i * sizeof state;
        err = disk->ops->pread(disk, file, at, &state, sizeof state, &got);
        if (err != ERR_OK || got < sizeof state)
            return;
        printf("    partition %" PRIu32 ": next sequence %" PRIu64 "\n", state.partition,
               state.next_seq);
    }
}

static void dump_voter(const struct config_voter *voter)
{
    printf("    voter: node %" PRIu32 ", generation %" PRIu32, voter->node, voter->generation);
    if (voter->disk_id != 0)
        printf(", disk %016" PRIx64, voter->disk_id);
    printf("\n");
}

static void on_batch(void *ctx, const struct batch_mark *head)
{
    (void)ctx;
    printf("@%" PRIu64 " batch %" PRIu64 ": bytes %" PRIu64 ", records %" PRIu32, head->offset,
           head->number, head->bytes, head->records);
    if (head->first_idx != 0)
        printf(", from idx %" PRIu64, head->first_idx);
    printf(", to idx %" PRIu64 " of term %" PRIu64, head->last_idx, head->last_term);
    printf(", term %" PRIu64 ", synced up to %" PRIu64 ":%" PRIu64 ", commit hint %" PRIu64 "\n",
           head->term, head->synced_upto.segment, head->synced_upto.offset, head->commit_hint);
}

static void on_record(void *ctx, uint64_t offset, const struct record_head *record)
{
    (void)ctx;
    if (record->kind == RECORD_CUT) {
        struct cut_record cut;
        memcpy(&cut, record, sizeof cut);
        printf("  @%" PRIu64 " cut: entries from idx %" PRIu64 " on are dead, by term %" PRIu64
               "\n",
               offset, cut.from_idx, cut.by_term);
    }
    if (record->kind != RECORD_VOTE)
        return;
    struct vote_record vote;
    memcpy(&vote, record, sizeof vote);
    printf("  @%" PRIu64 " vote: term %" PRIu64, offset, vote.term);
    if (vote.voted_for > 0)
        printf(", for node %" PRIu64, vote.voted_for - 1);
    printf("\n");
}

static void on_entry(void *ctx, const struct wal_entry *entry)
{
    static const char *const names[] = {
        [ENTRY_TX] = "transaction", [ENTRY_NOOP] = "no-op", [ENTRY_CONFIG] = "configuration"};
    const struct entry_head *head = entry->head;
    unsigned kind = head->record.entry_kind;
    printf("  @%" PRIu64 " entry %" PRIu64 ": %s, term %" PRIu64 ", bytes %" PRIu32
           ", chain %016" PRIx64,
           entry->offset, head->idx, kind <= ENTRY_CONFIG && kind > 0 ? names[kind] : "unknown",
           head->term, head->record.len, head->chain);
    if (kind == ENTRY_TX)
        dump_events(ctx, entry);
    else if (kind == ENTRY_CONFIG)
        dump_config(entry);
    else
        printf("\n");
}

static void dump_config(const struct wal_entry *entry)
{
    struct config_body body;
    memcpy(&body, entry->bytes.ptr + sizeof *entry->head,
           sizeof body); /* the scan has checked it */
    char id[UUID_TEXT_LEN];
    uuid_format(&body.group_id, id);
    printf(", group %.36s, bucket %" PRIu32 " of %" PRIu32 ", partitions %" PRIu32 "\n", id,
           body.bucket, body.bucket_count, body.partition_count);
    size_t at = sizeof *entry->head + sizeof body;
    for (uint32_t i = 0; i < body.voters; i++, at += sizeof(struct config_voter)) {
        struct config_voter voter;
        if (at + sizeof voter > entry->bytes.len)
            return;
        memcpy(&voter, entry->bytes.ptr + at, sizeof voter);
        dump_voter(&voter);
    }
}

static void dump_events(struct dump *dump, const struct wal_entry *entry)
{
    const struct entry_head *head = entry->head;
    char key[UUID_TEXT_LEN], transaction[UUID_TEXT_LEN];
    uuid_format(&head->partition_key, key);
    uuid_format(&head->transaction_id, transaction);
    printf(", partition %u, events %" PRIu32 ", key %.36s, id %.36s\n", head->record.partition,
           head->record.count, key, transaction);
    struct event_view event;
    uint64_t offset = sizeof *head;
    uint32_t position = 0;
    while (wal_entry_event(entry, &dump->salt, &offset, &dump->scratch, &event, &position) ==
           ERR_OK) {
        char id[UUID_TEXT_LEN], when[32];
        time_t seconds = (time_t)(event.timestamp_ns / 1000000000u);
        struct tm utc;
        gmtime_r(&seconds, &utc);
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
        uuid_format(&event.event_id, id);
        printf("    @%" PRIu64 " event %.36s: sequence %" PRIu64 ", version %" PRIu64 ", %s.%09uZ",
               (uint64_t)position * 8, id, event.sequence, event.version, when,
               (unsigned)(event.timestamp_ns % 1000000000u));
        print_bytes(", stream ", event.stream);
        print_bytes(", name ", event.name);
        printf(", metadata %zu, payload %zu\n", event.metadata.len, event.payload.len);
        if (dump->payload && event.metadata.len > 0) {
            print_bytes("        metadata ", event.metadata);
            printf("\n");
        }
        if (dump->payload && event.payload.len > 0) {
            print_bytes("        payload ", event.payload);
            printf("\n");
        }
    }
}

static void on_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what)
{
    (void)ctx;
    printf("@%" PRIu64 " %s: %s\n", offset, kind == WAL_TORN ? "TORN" : "DAMAGED", what);
}

/* --- index files, meta.json --- */

static int dump_mapped(struct disk *disk, struct file *file, uint64_t magic, const char *path)
{
    struct span view;
    if (disk->ops->map(disk, file, &view) != ERR_OK)
        return 2;
    int status = 2;
    size_t len = strlen(path);
    /* The magics of index files are text: "SRDB" and four more. */
    if (memcmp(&magic, "SRDB", 4) == 0) {
        enum err err = index_dump(view, print_line, NULL);
        status = err == ERR_OK ? 0 : 1;
        if (err != ERR_OK)
            printf("DAMAGED: %s\n", err_text(err));
    } else if (len > 5 && strcmp(path + len - 5, ".json") == 0) {
        fwrite(view.ptr, 1, view.len, stdout);
        status = 0;
    } else {
        fprintf(stderr, "%s: neither a segment nor an index file (or its header is damaged)\n",
                path);
    }
    disk->ops->unmap(disk, view);
    return status;
}

static void print_line(void *ctx, const char *text)
{
    (void)ctx;
    puts(text);
}

/* In quotes, with everything that isn't printable ASCII as \xNN. */
static void print_bytes(const char *label, struct span bytes)
{
    printf("%s\"", label);
    for (size_t i = 0; i < bytes.len; i++) {
        uint8_t c = bytes.ptr[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c >= 0x20 && c < 0x7f)
            putchar(c);
        else
            printf("\\x%02x", c);
    }
    putchar('"');
}
