/* EGET, ESCAN, EPSCAN, ESVER, EPSEQ. */
#include "common/limits.h"
#include "netd/command.h"
#include "netd/netd.h"
#include "netd/reply.h"

static void send_read(struct request *request, uint32_t partition,
                      void (*done)(struct call *, const struct msg *));
static void on_event(struct call *call, const struct msg *reply);
static void on_number(struct call *call, const struct msg *reply);
static enum handled start_scan(struct request *request, const struct scan_args *scan,
                               uint32_t partition);
static void ask_chunk(struct request *request);
static void on_chunk(struct call *call, const struct msg *reply);
static void finish_scan(struct request *request, bool has_more);
static bool render_whole(struct request *request, const struct msg_events_reply *chunk,
                         uint64_t count);
static void fail_read(struct request *request, const struct msg *reply);
static void set_need(struct msg *msg, uint64_t need);
static void note_watermark(struct request *request, uint64_t watermark);
static struct request *request_of_call(struct call *call);
static struct span keep_stream(struct request *request, struct span stream);

enum handled cmd_eget(struct client *client, struct request *request, struct args *args)
{
    struct uuid id;
    if (!args_uuid(args, "event id", &id) || !args_end(args))
        return HANDLED_FAILED;
    uint32_t partition = uuid_hash(&id) % client->netd->config->partition.count;
    request->call.msg.tag = TAG_get_req;
    request->call.msg.u.get_req = (struct msg_get_req){.event_id = id, .partition = partition};
    send_read(request, partition, on_event);
    return HANDLED_LATER;
}

enum handled cmd_esver(struct client *client, struct request *request, struct args *args)
{
    struct span stream;
    if (!args_stream(args, &stream))
        return HANDLED_FAILED;
    struct uuid key;
    if (args_take_word(args, "PARTITION_KEY")) {
        if (!args_uuid(args, "partition key", &key))
            return HANDLED_FAILED;
    } else if (args->left == 0) {
        key = uuid_partition_key(stream);
    } else {
        return args_unexpected(args, "PARTITION_KEY or end of input"), HANDLED_FAILED;
    }
    if (!args_end(args))
        return HANDLED_FAILED;
    uint32_t partition = uuid_hash(&key) % client->netd->config->partition.count;
    request->call.msg.tag = TAG_version_req;
    request->call.msg.u.version_req = (struct msg_version_req){
        .partition = partition,
        .partition_key = key,
        .stream = keep_stream(request, stream),
    };
    send_read(request, partition, on_number);
    return HANDLED_LATER;
}

enum handled cmd_epseq(struct client *client, struct request *request, struct args *args)
{
    uint32_t partition;
    if (!args_partition(args, client->netd->config->partition.count, &partition) || !args_end(args))
        return HANDLED_FAILED;
    request->call.msg.tag = TAG_sequence_req;
    request->call.msg.u.sequence_req = (struct msg_sequence_req){.partition = partition};
    send_read(request, partition, on_number);
    return HANDLED_LATER;
}

enum handled cmd_escan(struct client *client, struct request *request, struct args *args)
{
    struct span stream;
    struct scan_args scan;
    if (!args_stream(args, &stream) || !args_range(args, "version", &scan.range) ||
        !args_scan_options(args, true, &scan))
        return HANDLED_FAILED;
    struct uuid key = scan.key_given ? scan.key : uuid_partition_key(stream);
    uint32_t partition = uuid_hash(&key) % client->netd->config->partition.count;
    request->call.msg.tag = TAG_scan_stream_req;
    request->call.msg.u.scan_stream_req = (struct msg_scan_stream_req){
        .partition = partition,
        .partition_key = key,
        .stream = keep_stream(request, stream),
        .from = scan.range.from,
        .to = scan.range.to,
        .reverse = scan.range.reverse,
        .bytes = SCAN_CHUNK_BYTES,
        .watermark = UINT64_MAX,
    };
    return start_scan(request, &scan, partition);
}

enum handled cmd_epscan(struct client *client, struct request *request, struct args *args)
{
    uint32_t partition;
    struct scan_args scan;
    if (!args_partition(args, client->netd->config->partition.count, &partition) ||
        !args_range(args, "sequence", &scan.range) || !args_scan_options(args, false, &scan))
        return HANDLED_FAILED;
    request->call.msg.tag = TAG_scan_partition_req;
    request->call.msg.u.scan_partition_req = (struct msg_scan_partition_req){
        .partition = partition,
        .from = scan.range.from,
        .to = scan.range.to,
        .reverse = scan.range.reverse,
        .bytes = SCAN_CHUNK_BYTES,
        .watermark = UINT64_MAX,
    };
    return start_scan(request, &scan, partition);
}

void scan_continue(struct request *request)
{
    request->chunk_waits = false;
    ask_chunk(request);
}

static enum handled start_scan(struct request *request, const struct scan_args *scan,
                               uint32_t partition)
{
    request->found = 0;
    request->remaining = scan->count;
    request->partition = partition;
    if (!scan->range.reverse && scan->range.from > scan->range.to) {
        reply_scan_head(request_out(request), request->proto, false, 0);
        return HANDLED_DONE;
    }
    ask_chunk(request);
    return HANDLED_LATER;
}

static void ask_chunk(struct request *request)
{
    /* COUNT 0 asks whether there is anything at all. */
    uint64_t count = request->remaining == 0 ? 1 : request->remaining;
    struct msg *msg = &request->call.msg;
    if (msg->tag == TAG_scan_stream_req)
        msg->u.scan_stream_req.count = count;
    else
        msg->u.scan_partition_req.count = count;
    send_read(request, request->partition, on_chunk);
}

static void on_chunk(struct call *call, const struct msg *reply)
{
    struct request *request = request_of_call(call);
    if (reply->tag != TAG_events_reply) {
        fail_read(request, reply);
        return;
    }
    const struct msg_events_reply *chunk = &reply->u.events_reply;
    note_watermark(request, chunk->watermark);
    if (request->remaining == 0) {
        finish_scan(request, chunk->count > 0);
        return;
    }
    uint64_t count = min_u64(chunk->count, request->remaining);
    bool last = !chunk->more || count == request->remaining;
    request->netd->stats.events_read += count;
    if (request->found == 0 && last) {
        if (!render_whole(request, chunk, count))
            fail_read(request, reply);
        return;
    }
    enum err err;
    uint64_t rendered = reply_events(&request->body, request->proto, chunk->events, count, &err);
    if (err != ERR_OK || rendered != count || (count == 0 && !last)) {
        fail_read(request, reply);
        return;
    }
    request->found += count;
    request->remaining -= count;
    struct msg *msg = &request->call.msg;
    if (msg->tag == TAG_scan_stream_req) {
        msg->u.scan_stream_req.from = chunk->next;
        msg->u.scan_stream_req.watermark = chunk->watermark;
    } else {
        msg->u.scan_partition_req.from = chunk->next;
        msg->u.scan_partition_req.watermark = chunk->watermark;
    }
    if (last || request->body.len >= request->netd->config->network.reply_bytes)
        finish_scan(request, chunk->more);
    else if (request->client->first == request)
        ask_chunk(request);
    else
        request->chunk_waits = true; /* or many scans in a pipeline would each hold a whole reply */
}

/* The usual case: one chunk is the whole answer, rendered where it will be sent from. */
static bool render_whole(struct request *request, const struct msg_events_reply *chunk,
                         uint64_t count)
{
    struct buf *out = request_out(request);
    size_t start = out->len;
    enum err err;
    reply_scan_head(out, request->proto, chunk->more, count);
    if (reply_events(out, request->proto, chunk->events, count, &err) != count || err != ERR_OK) {
        out->len = start;
        return false;
    }
    request_done(request);
    return true;
}

static void finish_scan(struct request *request, bool has_more)
{
    struct buf *out = request_out(request);
    reply_scan_head(out, request->proto, has_more, request->found);
    buf_append_span(out, buf_span(&request->body));
    request_done(request);
}

static void on_event(struct call *call, const struct msg *reply)
{
    struct request *request = request_of_call(call);
    if (reply->tag != TAG_events_reply) {
        fail_read(request, reply);
        return;
    }
    note_watermark(request, reply->u.events_reply.watermark);
    struct buf *out = request_out(request);
    size_t start = out->len;
    enum err err = ERR_OK;
    if (reply->u.events_reply.count == 0) {
        resp_null(out, request->proto);
    } else if (reply_events(out, request->proto, reply->u.events_reply.events, 1, &err) != 1) {
        out->len = start;
        fail_read(request, reply);
        return;
    }
    request->netd->stats.events_read++;
    request_done(request);
}

static void on_number(struct call *call, const struct msg *reply)
{
    struct request *request = request_of_call(call);
    if (reply->tag != TAG_number_reply) {
        fail_read(request, reply);
        return;
    }
    note_watermark(request, reply->u.number_reply.watermark);
    if (reply->u.number_reply.present)
        resp_number(request_out(request), (int64_t)reply->u.number_reply.value);
    else
        resp_null(request_out(request), request->proto);
    request_done(request);
}

static void fail_read(struct request *request, const struct msg *reply)
{
    if (reply->tag != TAG_fail_reply) {
        request_fail(request, "READERR", span_str("the bucket's answer can't be read"));
        return;
    }
    enum err err =
        reply->u.fail_reply.error < ERR_COUNT ? (enum err)reply->u.fail_reply.error : ERR_IO;
    request_fail(request, err_code(err), reply->u.fail_reply.text);
}

static void send_read(struct request *request, uint32_t partition,
                      void (*done)(struct call *, const struct msg *))
{
    struct netd *netd = request->netd;
    request->partition = partition;
    if (netd->config->node.count > 1)
        set_need(&request->call.msg, session_need(&request->client->session, partition));
    request->call.done = done;
    request->call.deadline_ms = netd_now_ms(netd) + netd->config->network.request_timeout_ms;
    router_submit(netd->router, partition % netd->config->bucket.count, &request->call);
}

/* A scan's next chunk is cut where the first was, so it needs that much too. */
static void set_need(struct msg *msg, uint64_t need)
{
    if (msg->tag == TAG_get_req) {
        msg->u.get_req.need = need;
    } else if (msg->tag == TAG_version_req) {
        msg->u.version_req.need = need;
    } else if (msg->tag == TAG_sequence_req) {
        msg->u.sequence_req.need = need;
    } else if (msg->tag == TAG_scan_stream_req) {
        struct msg_scan_stream_req *scan = &msg->u.scan_stream_req;
        scan->need = scan->watermark == UINT64_MAX ? need : scan->watermark;
    } else {
        struct msg_scan_partition_req *scan = &msg->u.scan_partition_req;
        scan->need = scan->watermark == UINT64_MAX ? need : scan->watermark;
    }
}

/* What was seen once is never unseen. */
static void note_watermark(struct request *request, uint64_t watermark)
{
    if (request->netd->config->node.count > 1)
        session_saw(&request->client->session, request->partition, watermark);
}

/* Reads of clients that left are cancelled, so there is a client. */
static struct request *request_of_call(struct call *call)
{
    return (struct request *)((char *)call - offsetof(struct request, call));
}

static struct span keep_stream(struct request *request, struct span stream)
{
    memcpy(request->stream, stream.ptr, stream.len);
    return span_of(request->stream, stream.len);
}
