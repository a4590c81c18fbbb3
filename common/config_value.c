/* Values of configuration keys, from text. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>

#include "common/assert.h"
#include "common/config_keys.h"
#include "common/limits.h"

bool config_parse_u64(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *ret_value = value;
    return true;
}

bool config_parse_bytes(const char *text, uint64_t *ret_value)
{
    size_t digits = strspn(text, "0123456789");
    char number[24];
    if (digits >= sizeof number)
        return false;
    memcpy(number, text, digits);
    number[digits] = '\0';
    uint64_t value;
    if (!config_parse_u64(number, &value))
        return false;
    const char *suffix = text + digits;
    static const char units[] = "kmgt";
    const char *unit = *suffix != '\0' ? strchr(units, tolower((unsigned char)*suffix)) : NULL;
    unsigned shift = 0;
    if (unit != NULL) {
        shift = 10 * (unsigned)(unit - units + 1);
        suffix++;
        if (*suffix == 'i' && (suffix[1] == 'B' || suffix[1] == 'b'))
            suffix++;
    }
    if (*suffix == 'B' || *suffix == 'b')
        suffix++;
    if (*suffix != '\0' || __builtin_mul_overflow(value, 1ull << shift, &value))
        return false;
    *ret_value = value;
    return true;
}

bool config_parse_ids(uint64_t max, const char *text, uint32_t **ret_ids, unsigned *ret_count)
{
    if (strcasecmp(text, "all") == 0) {
        *ret_ids = NULL;
        *ret_count = 0;
        return true;
    }
    uint32_t *ids = calloc((size_t)max + 1, sizeof *ids);
    bool *seen = calloc((size_t)max + 1, sizeof *seen);
    ASSERT(ids != NULL && seen != NULL);
    unsigned count = 0;
    bool valid = *text != '\0';
    while (valid && *text != '\0') {
        uint64_t range[2] = {0, 0};
        unsigned parts = 0;
        do {
            size_t digits = strspn(text, "0123456789");
            char number[16] = {0};
            valid = digits < sizeof number;
            if (valid) {
                memcpy(number, text, digits);
                valid = config_parse_u64(number, &range[parts]) && range[parts] <= max;
            }
            text += digits;
            parts++;
        } while (valid && parts < 2 && *text == '-' && text++ != NULL);
        if (parts == 1)
            range[1] = range[0];
        for (uint64_t id = range[0]; valid && id <= range[1]; id++) {
            valid = !seen[id];
            seen[id] = true;
            if (valid)
                ids[count++] = (uint32_t)id;
        }
        valid =
            valid && range[0] <= range[1] && (*text == '\0' || (*text == ',' && text[1] != '\0'));
        if (*text == ',')
            text++;
    }
    free(seen);
    if (!valid) {
        free(ids);
        return false;
    }
    *ret_ids = ids;
    *ret_count = count;
    return true;
}

bool config_address_valid(const char *text)
{
    const char *colon = strrchr(text, ':');
    char host[64];
    uint64_t port;
    if (colon == NULL || !config_parse_u64(colon + 1, &port) || port > 65535)
        return false;
    bool v6 = text[0] == '[';
    const char *from = v6 ? text + 1 : text;
    const char *to = v6 ? colon - 1 : colon;
    if (to <= from || (v6 && *to != ']') || (size_t)(to - from) >= sizeof host)
        return false;
    memcpy(host, from, (size_t)(to - from));
    host[to - from] = '\0';
    uint8_t address[16];
    return inet_pton(v6 ? AF_INET6 : AF_INET, host, address) == 1;
}

/* A DNS name (with _, which container networks have in theirs) or a literal address. */
static bool host_valid(const char *host, bool bracketed)
{
    uint8_t address[16];
    if (bracketed)
        return inet_pton(AF_INET6, host, address) == 1;
    if (strspn(host, "0123456789.") == strlen(host))
        return inet_pton(AF_INET, host, address) == 1;
    size_t label = 0;
    for (const char *p = host; *p != '\0'; p++) {
        if (*p == '.' && label == 0)
            return false;
        if (*p != '.' && *p != '-' && *p != '_' && !isalnum((unsigned char)*p))
            return false;
        label = *p == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return *host != '\0' && strlen(host) <= 253;
}

/* One "HOST:PORT"; NULL or what is wrong with it. */
static const char *parse_peer(char *text, struct config_peer *ret_peer)
{
    bool bracketed = text[0] == '[';
    char *close = bracketed ? strchr(text, ']') : NULL;
    char *colon = bracketed ? (close != NULL ? close + 1 : NULL) : strrchr(text, ':');
    if (bracketed && close == NULL)
        return "no ]";
    if (colon == NULL || *colon != ':')
        return "no port";
    if (bracketed)
        *close = '\0';
    *colon = '\0';
    char *host = bracketed ? text + 1 : text;
    uint64_t port;
    if (!config_parse_u64(colon + 1, &port) || port == 0 || port > 65535)
        return "the port is not a number from 1 to 65535";
    if (!bracketed && strchr(host, ':') != NULL)
        return "an IPv6 address stands in [ ]";
    if (!host_valid(host, bracketed))
        return "neither a name nor an address";
    *ret_peer = (struct config_peer){.host = strdup(host), .port = (uint16_t)port};
    ASSERT(ret_peer->host != NULL);
    return NULL;
}

static const char *add_peer(struct config_peers *peers, char *text)
{
    struct config_peer peer;
    const char *wrong = peers->count < NODE_COUNT_MAX ? parse_peer(text, &peer) : "too many";
    if (wrong != NULL)
        return wrong;
    bool twice = false;
    for (unsigned i = 0; i < peers->count; i++)
        twice |=
            strcasecmp(peers->list[i].host, peer.host) == 0 && peers->list[i].port == peer.port;
    if (twice) {
        free(peer.host);
        return "it is there already";
    }
    peers->list = reallocarray(peers->list, peers->count + 1, sizeof *peers->list);
    ASSERT(peers->list != NULL);
    peers->list[peers->count++] = peer;
    return NULL;
}

bool config_parse_peers(const char *text, struct config_peers *ret_peers, struct buf *why)
{
    struct config_peers peers = {0};
    const char *wrong = NULL, *at = text;
    while (wrong == NULL && *text != '\0') {
        size_t len = strcspn(at, ",");
        char *entry = strndup(at, len);
        ASSERT(entry != NULL);
        unsigned index = peers.count;
        wrong = add_peer(&peers, entry);
        if (wrong != NULL)
            buf_printf(why, "entry %u, '%.*s': %s", index, (int)min_u64(len, 300), at, wrong);
        free(entry);
        if (at[len] == '\0')
            break;
        at += len + 1;
    }
    if (wrong != NULL) {
        config_release_peers(&peers);
        return false;
    }
    *ret_peers = peers;
    return true;
}

void config_print_peer(const struct config_peer *peer, struct buf *out)
{
    bool v6 = strchr(peer->host, ':') != NULL;
    buf_printf(out, v6 ? "[%s]:%u" : "%s:%u", peer->host, peer->port);
}

void config_release_peers(struct config_peers *peers)
{
    for (unsigned i = 0; i < peers->count; i++)
        free(peers->list[i].host);
    free(peers->list);
    *peers = (struct config_peers){0};
}

bool config_text_valid(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p != '\0') {
        uint32_t point = *p;
        unsigned more = 0;
        if (*p >= 0xf0 && *p < 0xf5)
            more = 3, point = *p & 7u;
        else if (*p >= 0xe0)
            more = 2, point = *p & 15u;
        else if (*p >= 0xc2)
            more = 1, point = *p & 31u;
        else if (*p >= 0x80)
            return false;
        if (*p >= 0xf5)
            return false;
        for (unsigned i = 1; i <= more; i++) {
            if ((p[i] & 0xc0) != 0x80)
                return false;
            point = point << 6 | (p[i] & 0x3fu);
        }
        static const uint32_t least[] = {0x20, 0xa0, 0x800, 0x10000};
        if (point < least[more] || point == 0x7f || point == 0xfeff || point > 0x10ffff ||
            (point >= 0xd800 && point < 0xe000) || (point & 0xfffe) == 0xfffe || point == 0x2028 ||
            point == 0x2029)
            return false;
        p += 1 + more;
    }
    return true;
}
