/* Replies that carry events: constant byte runs between hand-formatted numbers and ids. */
#include "netd/reply.h"

#include "proto/resp.h"

#define RUN(p, text) (memcpy((p), (text), sizeof(text) - 1), (p) + sizeof(text) - 1)

/* All constant runs, three ids and eight numbers of an event map, with room to spare. */
#define EVENT_FIXED_BYTES_MAX 640u

static uint8_t *put_number(uint8_t *p, uint64_t value);
static uint8_t *put_uuid(uint8_t *p, const struct uuid *uuid);
static uint8_t *put_bulk(uint8_t *p, struct span bytes);

size_t reply_number(uint8_t *to, uint64_t value)
{
    static const char pairs[] = "000102030405060708091011121314151617181920212223242526272829303132"
                                "3334353637383940414243444546474849"
                                "505152535455565758596061626364656667686970717273747576777879808182"
                                "8384858687888990919293949596979899";
    uint8_t digits[REPLY_NUMBER_LEN_MAX];
    unsigned at = REPLY_NUMBER_LEN_MAX;
    while (value >= 100) {
        at -= 2;
        memcpy(digits + at, pairs + 2 * (value % 100), 2);
        value /= 100;
    }
    if (value >= 10) {
        at -= 2;
        memcpy(digits + at, pairs + 2 * value, 2);
    } else {
        digits[--at] = (uint8_t)('0' + value);
    }
    memcpy(to, digits + at, REPLY_NUMBER_LEN_MAX - at);
    return REPLY_NUMBER_LEN_MAX - at;
}

void reply_event_body(struct buf *out, const struct rec_stored_event *event)
{
    size_t room = EVENT_FIXED_BYTES_MAX + event->stream.len + event->name.len +
                  event->metadata.len + event->payload.len;
    uint8_t *start = buf_reserve(out, room), *p = start;
    p = RUN(p, "+event_id\r\n+");
    p = put_uuid(p, &event->event_id);
    p = RUN(p, "\r\n+partition_key\r\n+");
    p = put_uuid(p, &event->partition_key);
    p = RUN(p, "\r\n+partition_id\r\n:");
    p = put_number(p, event->partition);
    p = RUN(p, "\r\n+transaction_id\r\n+");
    p = put_uuid(p, &event->transaction_id);
    p = RUN(p, "\r\n+partition_sequence\r\n:");
    p = put_number(p, event->sequence);
    p = RUN(p, "\r\n+stream_version\r\n:");
    p = put_number(p, event->version);
    p = RUN(p, "\r\n+timestamp\r\n:");
    p = put_number(p, event->timestamp_ms);
    p = RUN(p, "\r\n+stream_id\r\n");
    p = put_bulk(p, event->stream);
    p = RUN(p, "+event_name\r\n");
    p = put_bulk(p, event->name);
    p = RUN(p, "+metadata\r\n");
    p = put_bulk(p, event->metadata);
    p = RUN(p, "+payload\r\n");
    p = put_bulk(p, event->payload);
    out->len += (size_t)(p - start);
}

void reply_event_head(struct buf *out, int proto)
{
    buf_append(out, proto == 3 ? "%11\r\n" : "*22\r\n", 5);
}

uint64_t reply_events(struct buf *out, int proto, struct span list, uint64_t count_max,
                      enum err *ret_err)
{
    struct rec_stored_event event;
    uint64_t count = 0;
    enum err err = ERR_OK;
    while (count < count_max && (err = rec_next_stored_event(&list, &event)) == ERR_OK) {
        reply_event_head(out, proto);
        reply_event_body(out, &event);
        count++;
    }
    *ret_err = err == ERR_NOTFOUND ? ERR_OK : err;
    return count;
}

void reply_append(struct buf *out, int proto, const struct append_result *result)
{
    uint8_t *start = buf_reserve(out, EVENT_FIXED_BYTES_MAX), *p = start;
    p = proto == 3 ? RUN(p, "%6\r\n+event_id\r\n+") : RUN(p, "*12\r\n+event_id\r\n+");
    p = put_uuid(p, &result->event_id);
    p = RUN(p, "\r\n+partition_key\r\n+");
    p = put_uuid(p, &result->partition_key);
    p = RUN(p, "\r\n+partition_id\r\n:");
    p = put_number(p, result->partition);
    p = RUN(p, "\r\n+partition_sequence\r\n:");
    p = put_number(p, result->sequence);
    p = RUN(p, "\r\n+stream_version\r\n:");
    p = put_number(p, result->version);
    p = RUN(p, "\r\n+timestamp\r\n:");
    p = put_number(p, result->timestamp_ms);
    p = RUN(p, "\r\n");
    out->len += (size_t)(p - start);
}

void reply_multi_append_head(struct buf *out, int proto, const struct uuid *key, uint32_t partition,
                             uint64_t first_sequence, uint64_t count)
{
    uint8_t *start = buf_reserve(out, EVENT_FIXED_BYTES_MAX), *p = start;
    p = proto == 3 ? RUN(p, "%5\r\n+partition_key\r\n+") : RUN(p, "*10\r\n+partition_key\r\n+");
    p = put_uuid(p, key);
    p = RUN(p, "\r\n+partition_id\r\n:");
    p = put_number(p, partition);
    p = RUN(p, "\r\n+first_partition_sequence\r\n:");
    p = put_number(p, first_sequence);
    p = RUN(p, "\r\n+last_partition_sequence\r\n:");
    p = put_number(p, first_sequence + count - 1);
    p = RUN(p, "\r\n+events\r\n*");
    p = put_number(p, count);
    p = RUN(p, "\r\n");
    out->len += (size_t)(p - start);
}

void reply_multi_append_event(struct buf *out, int proto, const struct uuid *event_id,
                              struct span stream, uint64_t version, uint64_t timestamp_ms)
{
    uint8_t *start = buf_reserve(out, EVENT_FIXED_BYTES_MAX + stream.len), *p = start;
    p = proto == 3 ? RUN(p, "%4\r\n+event_id\r\n+") : RUN(p, "*8\r\n+event_id\r\n+");
    p = put_uuid(p, event_id);
    p = RUN(p, "\r\n+stream_id\r\n");
    p = put_bulk(p, stream);
    p = RUN(p, "+stream_version\r\n:");
    p = put_number(p, version);
    p = RUN(p, "\r\n+timestamp\r\n:");
    p = put_number(p, timestamp_ms);
    p = RUN(p, "\r\n");
    out->len += (size_t)(p - start);
}

void reply_scan_head(struct buf *out, int proto, bool has_more, uint64_t count)
{
    resp_map(out, proto, 2);
    resp_simple_str(out, "has_more");
    resp_boolean(out, proto, has_more);
    resp_simple_str(out, "events");
    resp_array(out, count);
}

static uint8_t *put_number(uint8_t *p, uint64_t value)
{
    return p + reply_number(p, value);
}

static uint8_t *put_uuid(uint8_t *p, const struct uuid *uuid)
{
    uuid_format(uuid, (char *)p);
    return p + UUID_TEXT_LEN;
}

static uint8_t *put_bulk(uint8_t *p, struct span bytes)
{
    *p++ = '$';
    p = put_number(p, bytes.len);
    p = RUN(p, "\r\n");
    if (bytes.len > 0)
        memcpy(p, bytes.ptr, bytes.len);
    p += bytes.len;
    return RUN(p, "\r\n");
}
