/* Items into parts and back. */
#include "netd/peer_items.h"

#include "common/assert.h"

/* Memory that stays for the next item. */
#define KEEP_BYTES (1u << 20)

void peer_outbox_release(struct peer_outbox *outbox)
{
    buf_release(&outbox->packed);
    *outbox = (struct peer_outbox){0};
}

uint64_t peer_outbox_clear(struct peer_outbox *outbox)
{
    uint64_t items = outbox->items;
    buf_clear(&outbox->packed, KEEP_BYTES);
    outbox->taken = 0;
    outbox->items = 0;
    return items;
}

bool peer_outbox_put(struct peer_outbox *outbox, enum relay_kind kind, uint32_t bucket,
                     struct span bytes)
{
    ASSERT(bytes.len <= LINK_MESSAGE_BYTES_MAX);
    if (peer_outbox_bytes(outbox) >= PEER_QUEUE_BYTES)
        return false;
    size_t offset = 0;
    do {
        size_t len = min_u64(bytes.len - offset, PEER_PART_BYTES);
        /* An empty item has no address to add to. */
        struct span part = len > 0 ? span_of(bytes.ptr + offset, len) : bytes;
        msg_pack_item(&outbox->packed, &(struct msg_item){
                                           .kind = kind,
                                           .bucket = bucket,
                                           .total = bytes.len,
                                           .offset = offset,
                                           .bytes = part,
                                       });
        offset += len;
    } while (offset < bytes.len);
    outbox->items++;
    return true;
}

size_t peer_outbox_bytes(const struct peer_outbox *outbox)
{
    return outbox->packed.len - outbox->taken;
}

struct span peer_outbox_peek(struct peer_outbox *outbox)
{
    size_t left = peer_outbox_bytes(outbox);
    if (left == 0)
        return (struct span){0};
    struct span waiting = span_of(outbox->packed.ptr + outbox->taken, left);
    if (left <= PEER_BODY_BYTES_MAX)
        return waiting;
    struct span rest = waiting;
    size_t whole = 0;
    struct msg msg;
    while (rest.len > 0) {
        ASSERT(msg_unpack(&rest, &msg) == ERR_OK);
        if (left - rest.len > PEER_BODY_BYTES_MAX)
            break;
        whole = left - rest.len;
    }
    ASSERT(whole > 0);
    return span_of(waiting.ptr, whole);
}

uint64_t peer_outbox_take(struct peer_outbox *outbox, struct span messages)
{
    ASSERT(messages.ptr == outbox->packed.ptr + outbox->taken);
    ASSERT(messages.len <= peer_outbox_bytes(outbox));
    uint64_t done = 0;
    struct span rest = messages;
    struct msg msg;
    while (rest.len > 0) {
        ASSERT(msg_unpack(&rest, &msg) == ERR_OK);
        done += msg.u.item.offset + msg.u.item.bytes.len == msg.u.item.total;
    }
    outbox->items -= done;
    outbox->taken += messages.len;
    if (outbox->taken == outbox->packed.len) {
        ASSERT(outbox->items == 0);
        peer_outbox_clear(outbox);
    } else if (outbox->taken > outbox->packed.len / 2) {
        buf_consume(&outbox->packed, outbox->taken);
        outbox->taken = 0;
    }
    return done;
}

void peer_inbox_release(struct peer_inbox *inbox)
{
    buf_release(&inbox->bytes);
    *inbox = (struct peer_inbox){0};
}

void peer_inbox_clear(struct peer_inbox *inbox)
{
    buf_clear(&inbox->bytes, KEEP_BYTES);
    inbox->partial = false;
}

enum err peer_inbox_put(struct peer_inbox *inbox, const struct msg_item *part, bool *ret_whole,
                        struct span *ret_bytes)
{
    if (part->total > LINK_MESSAGE_BYTES_MAX || part->offset > part->total ||
        part->bytes.len > part->total - part->offset)
        return ERR_CORRUPT;
    if (inbox->partial ? part->kind != inbox->kind || part->bucket != inbox->bucket ||
                             part->total != inbox->total || part->offset != inbox->bytes.len ||
                             part->bytes.len == 0
                       : part->offset != 0 || (part->bytes.len == 0 && part->total > 0))
        return ERR_CORRUPT;
    if (!inbox->partial) {
        peer_inbox_clear(inbox); /* the last item's bytes */
        if (part->bytes.len == part->total) {
            *ret_whole = true;
            *ret_bytes = part->bytes;
            return ERR_OK;
        }
        inbox->kind = part->kind;
        inbox->bucket = part->bucket;
        inbox->total = part->total;
        inbox->partial = true;
    }
    /* Memory grows with what came, not with what was announced. */
    buf_append_span(&inbox->bytes, part->bytes);
    inbox->partial = inbox->bytes.len < inbox->total;
    *ret_whole = !inbox->partial;
    if (*ret_whole)
        *ret_bytes = buf_span(&inbox->bytes);
    return ERR_OK;
}
