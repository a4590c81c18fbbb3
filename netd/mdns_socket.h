/* Sockets for multicast DNS and the interfaces that they go out by.
 *
 * One socket for each family, bound to port 5353 together with whoever else on this machine speaks
 * multicast DNS (avahi-daemon, systemd-resolved, other nodes), a member of the group on each
 * interface in use. What doesn't come from port 5353, was not sent to the group, or has crossed a
 * router (RFC 6762, 11) isn't given on. */
#pragma once

#include <net/if.h>
#include <sys/socket.h>

#include "common/err.h"
#include "netd/mdns_packet.h"

#define MDNS_INTERFACES_MAX 16u

struct mdns_interface {
    unsigned index;
    char name[IF_NAMESIZE];
    struct mdns_address addresses[MDNS_ADDRESSES_MAX];
    unsigned address_count;
    bool v4, v6; /* has addresses of that family */
};

/* From network.cluster_address: where the node listens, and so what it may announce. */
struct mdns_scope {
    bool v4, v6;              /* families */
    bool any;                 /* all addresses; else this one alone: */
    struct mdns_address only; /* without its scope */
    uint16_t port;
};

bool mdns_scope_parse(const char *cluster_address, struct mdns_scope *ret_scope);
/* Those that are up, can do multicast and have an address in scope; loopback only where it holds
 * the one address. Returns how many; MDNS_INTERFACES_MAX at most. errno is set and the result
 * negative where they can't be listed. */
int mdns_list_interfaces(const struct mdns_scope *scope, struct mdns_interface *to);

/* A socket, or -1 and errno. *ret_step: what failed, a static string. */
int mdns_open(bool v6, const char **ret_step);
/* False and errno: it can't. Being a member already is fine. */
bool mdns_join(int fd, bool v6, const struct mdns_interface *interface);
bool mdns_leave(int fd, bool v6, const struct mdns_interface *interface);
/* To the group by that interface, from the first address of the family there. */
bool mdns_send(int fd, bool v6, const struct mdns_interface *interface, struct span packet);

struct mdns_received {
    struct mdns_address sender;
    unsigned interface;
    struct span packet; /* in the caller's room */
    bool wanted;        /* false: by the rules above it isn't to be looked at */
};
/* False: nothing is there. */
bool mdns_receive(int fd, bool v6, uint8_t room[static MDNS_PACKET_BYTES_MAX],
                  struct mdns_received *ret_received);

/* A socket that becomes readable where interfaces or addresses change, or -1 and errno. */
int mdns_watch_open(void);
/* Takes what is there. */
void mdns_watch_drain(int fd);

void mdns_to_sockaddr(const struct mdns_address *address, uint16_t port,
                      struct sockaddr_storage *ret_sockaddr);
bool mdns_from_sockaddr(const struct sockaddr *sockaddr, struct mdns_address *ret_address,
                        uint16_t *ret_port);
