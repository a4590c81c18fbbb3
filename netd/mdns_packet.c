/* Reading and writing of multicast DNS packets. */
#include "netd/mdns_packet.h"

#include <ctype.h>
#include <stdio.h>

#include "common/assert.h"

#define HEAD_BYTES        12u
#define FLAG_RESPONSE     0x8000u
#define FLAGS_ANSWER      0x8400u /* a response, authoritative */
#define FLAGS_OTHER       0x780fu /* opcode and rcode: must be 0 */
#define CLASS_IN          1u
#define CLASS_ANY         255u
#define CLASS_UNIQUE      0x8000u /* of a record: the only one of its name and type */
#define CLASS_MASK        0x7fffu
#define NAME_LEN_MAX      255u
#define LABEL_LEN_MAX     63u
#define CLUSTER_LEN_MAX   100u
#define FORMAT_VERSION    "1"
#define LABEL_CLUSTER_LEN 8u /* hex digits of the cluster's id in a subtype */

enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_TXT = 16, TYPE_AAAA = 28, TYPE_SRV = 33, TYPE_ANY = 255 };

/* As it stands in a packet, without compression, in lower case. */
struct name {
    uint8_t bytes[NAME_LEN_MAX];
    size_t len;
};

struct record {
    struct name name;
    uint16_t type, class;
    uint32_t ttl_s;
    size_t data_at, data_len;
};

struct reader {
    struct span packet;
    size_t at;
    uint16_t flags;
    unsigned questions, answers, records; /* records: of all three sections */
};

static bool read_head(struct span packet, struct reader *ret_reader);
static bool read_name(struct reader *reader, struct name *ret_name);
static bool read_question(struct reader *reader, struct record *ret_question);
static bool read_record(struct reader *reader, struct record *ret_record);
static bool is_asked(const struct mdns_self *self, const struct reader *head);
static bool find_service(const struct reader *head, struct record *ret_srv, struct name *ret_host,
                         uint16_t *ret_port);
static bool find_text(const struct reader *head, const struct name *instance,
                      const struct mdns_self *self, uint32_t *ret_node);
static void find_addresses(const struct reader *head, const struct name *host,
                           struct mdns_announcement *announcement);

/* --- Names --- */

static uint16_t load_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t load_be32(const uint8_t *p)
{
    return (uint32_t)load_be16(p) << 16 | load_be16(p + 2);
}

static bool name_equal(const struct name *a, const struct name *b)
{
    return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static void add_label(struct name *name, const char *label)
{
    size_t len = strlen(label);
    ASSERT(len > 0 && len <= LABEL_LEN_MAX && name->len + len + 2 <= NAME_LEN_MAX);
    name->bytes[name->len++] = (uint8_t)len;
    for (size_t i = 0; i < len; i++)
        name->bytes[name->len++] = (uint8_t)tolower((unsigned char)label[i]);
}

/* A dotted name of ours, in front of which comes `label`, unless it is NULL. */
static struct name make_name(const char *label, const char *rest)
{
    struct name name = {.len = 0};
    if (label != NULL)
        add_label(&name, label);
    while (*rest != '\0') {
        char part[LABEL_LEN_MAX + 1];
        size_t len = strcspn(rest, ".");
        ASSERT(len < sizeof part);
        memcpy(part, rest, len);
        part[len] = '\0';
        add_label(&name, part);
        rest += len + (rest[len] == '.');
    }
    name.bytes[name.len++] = 0;
    return name;
}

static struct name service_name(void)
{
    return make_name(NULL, "_sierradb._tcp.local");
}

static struct name instance_name(const struct mdns_self *self)
{
    return make_name(self->label, "_sierradb._tcp.local");
}

static struct name host_name(const struct mdns_self *self)
{
    return make_name(self->label, "local");
}

static struct name types_name(void)
{
    return make_name(NULL, "_services._dns-sd._udp.local");
}

static void print_id(const struct uuid *id, char text[static 33])
{
    for (unsigned i = 0; i < sizeof id->bytes; i++)
        snprintf(text + 2 * (size_t)i, 3, "%02x", id->bytes[i]);
}

static struct name subtype_name(const struct mdns_self *self, uint32_t node)
{
    char id[33], label[32];
    print_id(&self->cluster_id, id);
    snprintf(label, sizeof label, "_%u-%.*s", node, (int)LABEL_CLUSTER_LEN, id);
    return make_name(label, "_sub._sierradb._tcp.local");
}

void mdns_make_label(struct mdns_self *self, uint64_t random)
{
    snprintf(self->label, sizeof self->label, "sierradb-%u-%016lx", self->node, random);
}

/* --- Reading --- */

enum mdns_reading mdns_read(struct span packet, const struct mdns_self *self,
                            struct mdns_announcement *ret_announcement)
{
    struct reader head;
    struct record srv;
    struct name host, own = instance_name(self);
    struct mdns_announcement announcement = {0};
    if (!read_head(packet, &head))
        return MDNS_NOTHING;
    if ((head.flags & FLAG_RESPONSE) == 0)
        return is_asked(self, &head) ? MDNS_ASKS : MDNS_NOTHING;
    if (!find_service(&head, &srv, &host, &announcement.port) ||
        !find_text(&head, &srv.name, self, &announcement.node))
        return MDNS_NOTHING;
    if (announcement.node == self->node)
        return name_equal(&srv.name, &own) ? MDNS_OWN : MDNS_TWIN;
    announcement.ttl_s = (uint32_t)min_u64(srv.ttl_s, MDNS_TTL_S);
    find_addresses(&head, &host, &announcement);
    if (announcement.address_count == 0 && announcement.ttl_s > 0)
        return MDNS_NOTHING;
    *ret_announcement = announcement;
    return MDNS_ANNOUNCES;
}

static bool read_head(struct span packet, struct reader *ret_reader)
{
    if (packet.len < HEAD_BYTES || packet.len > MDNS_PACKET_BYTES_MAX)
        return false;
    const uint8_t *p = packet.ptr;
    *ret_reader = (struct reader){.packet = packet,
                                  .at = HEAD_BYTES,
                                  .flags = load_be16(p + 2),
                                  .questions = load_be16(p + 4),
                                  .answers = load_be16(p + 6),
                                  .records = (unsigned)load_be16(p + 6) + load_be16(p + 8) +
                                             load_be16(p + 10)};
    return (ret_reader->flags & FLAGS_OTHER) == 0;
}

/* Pointers of a compressed name go backwards only, each further than the last: it ends. */
static bool read_name(struct reader *reader, struct name *ret_name)
{
    struct span packet = reader->packet;
    size_t at = reader->at, end = 0, floor = reader->at;
    ret_name->len = 0;
    for (;;) {
        if (at >= packet.len)
            return false;
        size_t len = packet.ptr[at];
        if ((len & 0xc0) == 0xc0) {
            if (at + 2 > packet.len)
                return false;
            size_t to = load_be16(packet.ptr + at) & 0x3fffu;
            if (end == 0)
                end = at + 2;
            if (to < HEAD_BYTES || to >= floor)
                return false;
            at = floor = to;
            continue;
        }
        if (len > LABEL_LEN_MAX || at + 1 + len > packet.len ||
            ret_name->len + 1 + len > NAME_LEN_MAX)
            return false;
        ret_name->bytes[ret_name->len++] = (uint8_t)len;
        for (size_t i = 1; i <= len; i++)
            ret_name->bytes[ret_name->len++] = (uint8_t)tolower(packet.ptr[at + i]);
        at += 1 + len;
        if (len == 0)
            break;
    }
    reader->at = end != 0 ? end : at;
    return true;
}

static bool read_question(struct reader *reader, struct record *ret_question)
{
    if (!read_name(reader, &ret_question->name) || reader->packet.len - reader->at < 4)
        return false;
    ret_question->type = load_be16(reader->packet.ptr + reader->at);
    ret_question->class = load_be16(reader->packet.ptr + reader->at + 2) & CLASS_MASK;
    reader->at += 4;
    return true;
}

static bool read_record(struct reader *reader, struct record *ret_record)
{
    if (!read_question(reader, ret_record) || reader->packet.len - reader->at < 6)
        return false;
    const uint8_t *p = reader->packet.ptr + reader->at;
    ret_record->ttl_s = load_be32(p);
    ret_record->data_len = load_be16(p + 4);
    ret_record->data_at = reader->at + 6;
    if (reader->packet.len - ret_record->data_at < ret_record->data_len)
        return false;
    reader->at = ret_record->data_at + ret_record->data_len;
    return true;
}

/* The records of all sections: a copy of `head` walks over them. False: no more, or what isn't
 * whole. */
static bool first_record(const struct reader *head, struct reader *ret_walk)
{
    struct record question;
    *ret_walk = *head;
    for (unsigned i = 0; i < head->questions; i++)
        if (!read_question(ret_walk, &question))
            return false;
    return true;
}

static bool next_record(struct reader *walk, struct record *ret_record)
{
    if (walk->records == 0)
        return false;
    walk->records--;
    return read_record(walk, ret_record);
}

static bool read_target(const struct reader *head, const struct record *record, size_t skip,
                        struct name *ret_target)
{
    struct reader data = *head;
    data.at = record->data_at + skip;
    return record->data_len > skip && read_name(&data, ret_target) &&
           data.at <= record->data_at + record->data_len;
}

/* --- Questions --- */

static bool asks(const struct record *question, const struct name *name, uint16_t type,
                 uint16_t other)
{
    return name_equal(&question->name, name) &&
           (question->type == type || question->type == other || question->type == TYPE_ANY);
}

/* Whoever asks for all may list those that it knows: they needn't answer. */
static bool is_known(const struct mdns_self *self, const struct reader *head)
{
    struct reader walk;
    struct record record;
    struct name service = service_name(), own = instance_name(self), target;
    if (!first_record(head, &walk))
        return false;
    walk.records = head->answers;
    while (next_record(&walk, &record)) {
        if (record.type == TYPE_PTR && name_equal(&record.name, &service) &&
            record.ttl_s >= MDNS_TTL_S / 2 && read_target(head, &record, 0, &target) &&
            name_equal(&target, &own))
            return true;
    }
    return false;
}

static bool is_asked(const struct mdns_self *self, const struct reader *head)
{
    struct name service = service_name(), types = types_name(), instance = instance_name(self);
    struct name subtype = subtype_name(self, self->node), host = host_name(self);
    struct reader walk = *head;
    struct record question;
    bool general = false;
    for (unsigned i = 0; i < head->questions && read_question(&walk, &question); i++) {
        if (question.class != CLASS_IN && question.class != CLASS_ANY)
            continue;
        if (asks(&question, &subtype, TYPE_PTR, TYPE_PTR) ||
            asks(&question, &instance, TYPE_SRV, TYPE_TXT) ||
            asks(&question, &host, TYPE_A, TYPE_AAAA) ||
            asks(&question, &types, TYPE_PTR, TYPE_PTR))
            return true;
        general = general || asks(&question, &service, TYPE_PTR, TYPE_PTR);
    }
    return general && !is_known(self, head);
}

/* --- Announcements --- */

/* "X._sierradb._tcp.local", with any one label for X. */
static bool is_instance(const struct name *name)
{
    struct name service = service_name();
    size_t len = name->len > 0 ? 1 + (size_t)name->bytes[0] : 0;
    return len > 1 && name->len == len + service.len &&
           memcmp(name->bytes + len, service.bytes, service.len) == 0;
}

/* The first one: a packet of ours holds no other. */
static bool find_service(const struct reader *head, struct record *ret_srv, struct name *ret_host,
                         uint16_t *ret_port)
{
    struct reader walk;
    if (!first_record(head, &walk))
        return false;
    while (next_record(&walk, ret_srv)) {
        if (ret_srv->type != TYPE_SRV || (ret_srv->class & CLASS_MASK) != CLASS_IN ||
            ret_srv->data_len < 7 || !is_instance(&ret_srv->name))
            continue;
        *ret_port = load_be16(head->packet.ptr + ret_srv->data_at + 4);
        return *ret_port != 0 && read_target(head, ret_srv, 6, ret_host);
    }
    return false;
}

/* The value of a TXT record's string "key=value"; the first one counts. */
static bool text_value(struct span text, const char *key, struct span *ret_value)
{
    size_t key_len = strlen(key);
    while (text.len > 0) {
        size_t len = text.ptr[0];
        if (len + 1 > text.len)
            return false;
        struct span part = span_of(text.ptr + 1, len);
        text = span_of(text.ptr + 1 + len, text.len - 1 - len);
        if (part.len > key_len && part.ptr[key_len] == '=' && memcmp(part.ptr, key, key_len) == 0) {
            *ret_value = span_of(part.ptr + key_len + 1, part.len - key_len - 1);
            return true;
        }
    }
    return false;
}

static bool parse_node(struct span text, uint32_t bound, uint32_t *ret_node)
{
    uint32_t node = 0;
    if (text.len == 0 || text.len > 5)
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9')
            return false;
        node = 10 * node + (uint32_t)(text.ptr[i] - '0');
    }
    *ret_node = node;
    return node < bound;
}

static bool find_text(const struct reader *head, const struct name *instance,
                      const struct mdns_self *self, uint32_t *ret_node)
{
    char id[33];
    struct reader walk;
    struct record record;
    print_id(&self->cluster_id, id);
    if (!first_record(head, &walk))
        return false;
    while (next_record(&walk, &record)) {
        if (record.type != TYPE_TXT || !name_equal(&record.name, instance))
            continue;
        struct span value, text = span_of(head->packet.ptr + record.data_at, record.data_len);
        return text_value(text, "v", &value) && span_equal(value, span_str(FORMAT_VERSION)) &&
               text_value(text, "id", &value) && span_equal(value, span_str(id)) &&
               text_value(text, "node", &value) && parse_node(value, self->node_count, ret_node);
    }
    return false;
}

/* An address that nobody can be dialled at. */
static bool is_void(const struct mdns_address *address)
{
    static const uint8_t zeros[16];
    if (address->v6)
        return address->ip[0] == 0xff || memcmp(address->ip, zeros, sizeof zeros) == 0;
    return address->ip[0] == 0 || address->ip[0] >= 224;
}

static void find_addresses(const struct reader *head, const struct name *host,
                           struct mdns_announcement *announcement)
{
    struct reader walk;
    struct record record;
    if (!first_record(head, &walk))
        return;
    while (announcement->address_count < MDNS_ADDRESSES_MAX && next_record(&walk, &record)) {
        bool v4 = record.type == TYPE_A && record.data_len == 4;
        bool v6 = record.type == TYPE_AAAA && record.data_len == 16;
        if ((!v4 && !v6) || !name_equal(&record.name, host))
            continue;
        struct mdns_address address = {.v6 = v6};
        memcpy(address.ip, head->packet.ptr + record.data_at, record.data_len);
        if (!is_void(&address))
            announcement->addresses[announcement->address_count++] = address;
    }
}

/* --- Writing --- */

static void put_be16(struct buf *out, unsigned value)
{
    uint8_t bytes[2] = {(uint8_t)(value >> 8), (uint8_t)value};
    buf_append(out, bytes, sizeof bytes);
}

static void put_head(struct buf *out, unsigned flags, unsigned questions, unsigned answers)
{
    put_be16(out, 0);
    put_be16(out, flags);
    put_be16(out, questions);
    put_be16(out, answers);
    buf_append_zeros(out, 4);
}

static void put_question(struct buf *out, struct name name)
{
    buf_append(out, name.bytes, name.len);
    put_be16(out, TYPE_PTR);
    put_be16(out, CLASS_IN);
}

void mdns_write_query(struct buf *out, const struct mdns_self *self, const uint32_t *nodes,
                      unsigned count)
{
    ASSERT(count <= MDNS_WANTED_MAX);
    put_head(out, 0, count > 0 ? count : 1, 0);
    if (count == 0)
        put_question(out, service_name());
    for (unsigned i = 0; i < count; i++)
        put_question(out, subtype_name(self, nodes[i]));
    ASSERT(out->len <= MDNS_PACKET_BYTES_MAX);
}

static void put_record(struct buf *out, struct name name, unsigned type, unsigned class,
                       bool goodbye, struct span data)
{
    buf_append(out, name.bytes, name.len);
    put_be16(out, type);
    put_be16(out, class);
    put_be16(out, 0);
    put_be16(out, goodbye ? 0 : MDNS_TTL_S);
    put_be16(out, (unsigned)data.len);
    buf_append_span(out, data);
}

static void put_text(struct buf *text, const char *key, struct span value)
{
    uint8_t len = (uint8_t)(strlen(key) + 1 + value.len);
    buf_append(text, &len, 1);
    buf_printf(text, "%s=", key);
    buf_append_span(text, value);
}

/* So much of it as fits, in whole characters of UTF-8. */
static struct span cut_name(struct span name)
{
    size_t len = min_u64(name.len, CLUSTER_LEN_MAX);
    while (len > 0 && len < name.len && (name.ptr[len] & 0xc0) == 0x80)
        len--;
    return span_of(name.ptr, len);
}

static void put_texts(struct buf *out, const struct mdns_self *self, bool goodbye)
{
    char id[33], node[12];
    struct buf text = {0};
    print_id(&self->cluster_id, id);
    snprintf(node, sizeof node, "%u", self->node);
    put_text(&text, "v", span_str(FORMAT_VERSION));
    put_text(&text, "cluster", cut_name(self->cluster_name));
    put_text(&text, "id", span_str(id));
    put_text(&text, "node", span_str(node));
    put_record(out, instance_name(self), TYPE_TXT, CLASS_IN | CLASS_UNIQUE, goodbye,
               buf_span(&text));
    buf_release(&text);
}

void mdns_write_announcement(struct buf *out, const struct mdns_self *self,
                             const struct mdns_address *addresses, unsigned count, bool goodbye)
{
    struct name instance = instance_name(self), host = host_name(self), service = service_name();
    struct buf srv = {0};
    count = (unsigned)min_u64(count, MDNS_ADDRESSES_MAX);
    put_head(out, FLAGS_ANSWER, 0, (goodbye ? 4 : 5) + count);
    if (!goodbye) /* others may go on offering the service */
        put_record(out, types_name(), TYPE_PTR, CLASS_IN, false,
                   span_of(service.bytes, service.len));
    put_record(out, service, TYPE_PTR, CLASS_IN, goodbye, span_of(instance.bytes, instance.len));
    put_record(out, subtype_name(self, self->node), TYPE_PTR, CLASS_IN, goodbye,
               span_of(instance.bytes, instance.len));
    buf_append_zeros(&srv, 4); /* priority, weight */
    put_be16(&srv, self->port);
    buf_append(&srv, host.bytes, host.len);
    put_record(out, instance, TYPE_SRV, CLASS_IN | CLASS_UNIQUE, goodbye, buf_span(&srv));
    buf_release(&srv);
    put_texts(out, self, goodbye);
    for (unsigned i = 0; i < count; i++)
        put_record(out, host, addresses[i].v6 ? TYPE_AAAA : TYPE_A, CLASS_IN | CLASS_UNIQUE,
                   goodbye, span_of(addresses[i].ip, addresses[i].v6 ? 16 : 4));
    ASSERT(out->len <= MDNS_PACKET_BYTES_MAX);
}
