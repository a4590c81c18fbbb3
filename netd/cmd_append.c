/* EAPPEND and EMAPPEND: validate, make ids, queue for the bucket, render the answer. */
#include <stdlib.h>

#include "common/assert.h"
#include "common/limits.h"
#include "netd/command.h"
#include "netd/netd.h"
#include "netd/reply.h"

/* What an event adds to its transaction beside its own bytes. */
#define EVENT_OVERHEAD_BYTES 96u

/* Ids that one EMAPPEND gave: an open-addressed set. */
struct id_set {
    struct uuid *slots;
    uint8_t *used;
    size_t mask;
};

static enum handled check_event(struct netd *netd, const struct append_args *event, uint16_t hash,
                                struct buf *error);
static void pack_event(struct request *request, const struct append_args *event, uint16_t hash,
                       uint64_t now_ms);
static void send_append(struct request *request, bool given_id);
static void on_append(struct call *call, const struct msg *reply);
static bool render_append(struct request *request, const struct msg_append_reply *reply);
static bool render_multi_append(struct request *request, const struct msg_append_reply *reply);
static void fail_append(struct request *request, const struct msg *reply);
static enum handled stall(struct client *client);
static enum handled parse_events(struct request *request, struct args *args, uint64_t *ret_given);
static bool ids_differ(struct request *request, uint64_t given, struct buf *error);
static bool id_set_add(struct id_set *set, const struct uuid *id);

enum handled cmd_eappend(struct client *client, struct request *request, struct args *args)
{
    struct netd *netd = client->netd;
    struct append_args event;
    if (!args_append(args, &event))
        return HANDLED_FAILED;
    request->partition_key = (event.given & OPTION_PARTITION_KEY) != 0
                                 ? event.partition_key
                                 : uuid_partition_key(event.stream);
    uint16_t hash = uuid_hash(&request->partition_key);
    request->partition = hash % netd->config->partition.count;
    enum handled handled = check_event(netd, &event, hash, args->error);
    if (handled != HANDLED_LATER)
        return handled;
    if (!router_has_room(netd->router, request->partition % netd->config->bucket.count))
        return stall(client);
    request->multi = false;
    request->event_count = 0;
    pack_event(request, &event, hash, netd_wall_ms());
    send_append(request, (event.given & OPTION_EVENT_ID) != 0);
    return HANDLED_LATER;
}

enum handled cmd_emappend(struct client *client, struct request *request, struct args *args)
{
    struct netd *netd = client->netd;
    if (!args_uuid(args, "partition key", &request->partition_key))
        return HANDLED_FAILED;
    request->partition = uuid_hash(&request->partition_key) % netd->config->partition.count;
    if (!router_has_room(netd->router, request->partition % netd->config->bucket.count))
        return stall(client);
    uint64_t given;
    request->multi = true;
    request->event_count = 0;
    enum handled handled = parse_events(request, args, &given);
    if (handled != HANDLED_LATER)
        return handled;
    if (given > 1 && !ids_differ(request, given, args->error))
        return HANDLED_FAILED;
    send_append(request, given > 0);
    return HANDLED_LATER;
}

static enum handled parse_events(struct request *request, struct args *args, uint64_t *ret_given)
{
    struct netd *netd = request->netd;
    uint16_t hash = uuid_hash(&request->partition_key);
    uint64_t now_ms = netd_wall_ms(), bytes = 0;
    *ret_given = 0;
    do {
        struct append_args event;
        if (!args_multi_event(args, &event))
            return HANDLED_FAILED;
        enum handled handled = check_event(netd, &event, hash, args->error);
        if (handled != HANDLED_LATER)
            return handled;
        bytes += EVENT_OVERHEAD_BYTES + event.stream.len + event.name.len + event.metadata.len +
                 event.payload.len;
        if (bytes > netd->transaction_bytes_max) {
            buf_printf(args->error,
                       "the transaction's events exceed %lu bytes (append.max_transaction_bytes)",
                       netd->transaction_bytes_max);
            return HANDLED_TOO_BIG;
        }
        *ret_given += (event.given & OPTION_EVENT_ID) != 0;
        pack_event(request, &event, hash, now_ms);
    } while (args->left > 0);
    return HANDLED_LATER;
}

/* HANDLED_LATER: nothing is wrong with it. */
static enum handled check_event(struct netd *netd, const struct append_args *event, uint16_t hash,
                                struct buf *error)
{
    if (netd->config->append.strict_versioning &&
        (event->expect == EXPECT_ANY || event->expect == EXPECT_EXISTS)) {
        buf_printf(error, "strict versioning mode rejects EXPECTED_VERSION %s",
                   event->expect == EXPECT_ANY ? "any" : "exists");
        return HANDLED_FAILED;
    }
    if ((event->given & OPTION_EVENT_ID) != 0 && uuid_hash(&event->event_id) != hash) {
        buf_printf(error, "the event id must embed the partition hash");
        return HANDLED_FAILED;
    }
    uint64_t bytes = event->metadata.len + event->payload.len;
    if (bytes > netd->event_bytes_max) {
        buf_printf(error,
                   "metadata and payload of %lu bytes exceed %lu bytes (append.max_event_bytes)",
                   bytes, netd->event_bytes_max);
        return HANDLED_TOO_BIG;
    }
    return HANDLED_LATER;
}

static void pack_event(struct request *request, const struct append_args *event, uint16_t hash,
                       uint64_t now_ms)
{
    struct rec_new_event record = {
        .event_id = event->event_id,
        .expect = event->expect,
        .expect_version = event->expect_version,
        .timestamp_ms = (event->given & OPTION_TIMESTAMP) != 0 ? event->timestamp_ms : now_ms,
        .stream = event->stream,
        .name = event->name,
        .metadata = event->metadata,
        .payload = event->payload,
    };
    if ((event->given & OPTION_EVENT_ID) == 0)
        record.event_id = uuid_event_id(now_ms, hash, netd_random(request->netd, 16));
    if (request->event_count++ == 0)
        request->event_id = record.event_id;
    rec_pack_new_event(&request->events, &record);
}

static void send_append(struct request *request, bool given_id)
{
    struct netd *netd = request->netd;
    request->call.done = on_append;
    request->call.deadline_ms = netd_now_ms(netd) + netd->config->network.request_timeout_ms;
    request->call.bytes = (uint32_t)request->events.len;
    request->call.msg.tag = TAG_append_req;
    request->call.msg.u.append_req = (struct msg_append_req){
        .flags = given_id ? APPEND_GIVEN_ID : 0,
        .partition = request->partition,
        .partition_key = request->partition_key,
        .transaction_id = uuid_random(netd_random(netd, 16)),
        .count = request->event_count,
        .events = buf_span(&request->events),
    };
    router_submit(netd->router, request->partition % netd->config->bucket.count, &request->call);
}

static void on_append(struct call *call, const struct msg *reply)
{
    struct request *request = (struct request *)((char *)call - offsetof(struct request, call));
    struct netd *netd = request->netd;
    bool stored = reply->tag == TAG_append_reply;
    if (stored && !reply->u.append_reply.duplicate) {
        netd->stats.appends++;
        netd->stats.events_appended += request->event_count;
    }
    if (stored && request->client != NULL && netd->config->node.count > 1)
        session_saw(&request->client->session, request->partition,
                    reply->u.append_reply.first_sequence + request->event_count);
    if (request->client == NULL)
        request_done(request);
    else if (!stored)
        fail_append(request, reply);
    else if (request->multi ? render_multi_append(request, &reply->u.append_reply)
                            : render_append(request, &reply->u.append_reply))
        request_done(request);
    else
        request_fail(request, "READERR", span_str("the bucket's answer can't be read"));
}

static bool render_append(struct request *request, const struct msg_append_reply *reply)
{
    struct span list = reply->events;
    struct rec_appended_event appended;
    if (rec_next_appended_event(&list, &appended) != ERR_OK)
        return false;
    reply_append(request_out(request), request->proto,
                 &(struct append_result){
                     .event_id = request->event_id,
                     .partition_key = request->partition_key,
                     .partition = request->partition,
                     .sequence = reply->first_sequence,
                     .version = appended.version,
                     .timestamp_ms = appended.timestamp_ms,
                 });
    return true;
}

static bool render_multi_append(struct request *request, const struct msg_append_reply *reply)
{
    struct buf *out = request_out(request);
    size_t start = out->len;
    struct span sent = buf_span(&request->events), list = reply->events;
    struct rec_new_event event;
    struct rec_appended_event appended;
    reply_multi_append_head(out, request->proto, &request->partition_key, request->partition,
                            reply->first_sequence, request->event_count);
    for (uint64_t i = 0; i < request->event_count; i++) {
        if (rec_next_new_event(&sent, &event) != ERR_OK ||
            rec_next_appended_event(&list, &appended) != ERR_OK) {
            out->len = start;
            return false;
        }
        reply_multi_append_event(out, request->proto, &event.event_id, event.stream,
                                 appended.version, appended.timestamp_ms);
    }
    return true;
}

static void fail_append(struct request *request, const struct msg *reply)
{
    struct buf *error = &request->netd->error;
    if (reply->tag != TAG_fail_reply) {
        request_fail(request, "READERR", span_str("the bucket's answer can't be read"));
        return;
    }
    enum err err =
        reply->u.fail_reply.error < ERR_COUNT ? (enum err)reply->u.fail_reply.error : ERR_IO;
    if (err != ERR_TIMEOUT) {
        request_fail(request, err_code(err), reply->u.fail_reply.text);
        return;
    }
    char id[UUID_TEXT_LEN];
    uuid_format(&request->event_id, id);
    buf_clear(error, 4096);
    buf_printf(error, "outcome unknown, retry with EVENT_ID %.*s", UUID_TEXT_LEN, id);
    request_fail(request, err_code(err), buf_span(error));
}

static enum handled stall(struct client *client)
{
    if (!client->is_stalled) {
        client->is_stalled = true;
        client->stalled_next = client->netd->stalled;
        client->netd->stalled = client;
    }
    return HANDLED_STALL;
}

/* No id may stand twice in one transaction. Made ids are random and can't. */
static bool ids_differ(struct request *request, uint64_t given, struct buf *error)
{
    struct id_set set = {.mask = 15};
    while (set.mask < 2 * request->event_count)
        set.mask = set.mask * 2 + 1;
    set.slots = calloc(set.mask + 1, sizeof *set.slots);
    set.used = calloc(set.mask + 1, 1);
    ASSERT(set.slots != NULL && set.used != NULL && given <= request->event_count);
    struct span list = buf_span(&request->events);
    struct rec_new_event event;
    bool differ = true;
    while (differ && rec_next_new_event(&list, &event) == ERR_OK)
        differ = id_set_add(&set, &event.event_id);
    if (!differ) {
        char id[UUID_TEXT_LEN];
        uuid_format(&event.event_id, id);
        buf_printf(error, "event id %.*s is given twice", UUID_TEXT_LEN, id);
    }
    free(set.slots);
    free(set.used);
    return differ;
}

static bool id_set_add(struct id_set *set, const struct uuid *id)
{
    uint64_t hash = (load_u64(id->bytes) ^ load_u64(id->bytes + 8)) * 0x9e3779b97f4a7c15ull;
    for (size_t at = (size_t)(hash >> 20) & set->mask;; at = (at + 1) & set->mask) {
        if (!set->used[at]) {
            set->used[at] = 1;
            set->slots[at] = *id;
            return true;
        }
        if (uuid_equal(&set->slots[at], id))
            return false;
    }
}
