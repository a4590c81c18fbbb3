/* Sockets and interfaces of multicast DNS. */
#include "netd/mdns_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/assert.h"

#define GROUP_V4      0xe00000fbu /* 224.0.0.251 */
#define HOPS          255
#define RECEIVE_BYTES (128 << 10)
#define CONTROL_BYTES 128u

static const struct in6_addr group_v6 = {{{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xfb}}};

static bool in_scope(const struct mdns_scope *scope, const struct ifaddrs *at,
                     struct mdns_address *ret_address);
static struct mdns_interface *find_interface(struct mdns_interface *list, int *count,
                                             const char *name);
static bool bind_to_port(int fd, bool v6);
static bool set(int fd, int level, int option, int value);

/* --- Addresses --- */

void mdns_to_sockaddr(const struct mdns_address *address, uint16_t port,
                      struct sockaddr_storage *ret_sockaddr)
{
    *ret_sockaddr = (struct sockaddr_storage){0};
    if (address->v6) {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_sockaddr;
        *in6 = (struct sockaddr_in6){
            .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_scope_id = address->scope};
        memcpy(&in6->sin6_addr, address->ip, sizeof in6->sin6_addr);
    } else {
        struct sockaddr_in *in = (struct sockaddr_in *)ret_sockaddr;
        *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&in->sin_addr, address->ip, sizeof in->sin_addr);
    }
}

bool mdns_from_sockaddr(const struct sockaddr *sockaddr, struct mdns_address *ret_address,
                        uint16_t *ret_port)
{
    struct mdns_address address = {0};
    if (sockaddr->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)sockaddr;
        address.v6 = true;
        address.scope = IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr) ? in6->sin6_scope_id : 0;
        memcpy(address.ip, &in6->sin6_addr, sizeof in6->sin6_addr);
        *ret_port = ntohs(in6->sin6_port);
    } else if (sockaddr->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)sockaddr;
        memcpy(address.ip, &in->sin_addr, sizeof in->sin_addr);
        *ret_port = ntohs(in->sin_port);
    } else {
        return false;
    }
    *ret_address = address;
    return true;
}

bool mdns_scope_parse(const char *cluster_address, struct mdns_scope *ret_scope)
{
    char host[INET6_ADDRSTRLEN + 2];
    const char *colon = strrchr(cluster_address, ':');
    bool v6 = cluster_address[0] == '[';
    size_t len = colon == NULL ? 0 : (size_t)(colon - cluster_address) - 2 * (size_t)v6;
    if (len == 0 || len >= sizeof host)
        return false;
    memcpy(host, cluster_address + v6, len);
    host[len] = '\0';
    struct mdns_scope scope = {.v6 = v6, .port = (uint16_t)strtol(colon + 1, NULL, 10)};
    scope.only.v6 = v6;
    if (inet_pton(v6 ? AF_INET6 : AF_INET, host, scope.only.ip) != 1)
        return false;
    static const uint8_t zeros[16];
    scope.any = memcmp(scope.only.ip, zeros, sizeof zeros) == 0;
    scope.v4 = !v6 || scope.any; /* [::] takes connections of both families */
    *ret_scope = scope;
    return true;
}

/* --- Interfaces --- */

int mdns_list_interfaces(const struct mdns_scope *scope, struct mdns_interface *to)
{
    struct ifaddrs *list;
    int count = 0;
    if (getifaddrs(&list) != 0)
        return -1;
    for (const struct ifaddrs *at = list; at != NULL; at = at->ifa_next) {
        struct mdns_address address;
        if (!in_scope(scope, at, &address))
            continue;
        struct mdns_interface *interface = find_interface(to, &count, at->ifa_name);
        if (interface == NULL || interface->address_count == MDNS_ADDRESSES_MAX)
            continue;
        interface->addresses[interface->address_count++] = address;
        *(address.v6 ? &interface->v6 : &interface->v4) = true;
    }
    freeifaddrs(list);
    return count;
}

static bool in_scope(const struct mdns_scope *scope, const struct ifaddrs *at,
                     struct mdns_address *ret_address)
{
    uint16_t port;
    bool loopback = (at->ifa_flags & IFF_LOOPBACK) != 0;
    if (at->ifa_addr == NULL || (at->ifa_flags & IFF_UP) == 0 ||
        (!loopback && (at->ifa_flags & IFF_MULTICAST) == 0) || (loopback && scope->any) ||
        !mdns_from_sockaddr(at->ifa_addr, ret_address, &port))
        return false;
    return scope->any ? (ret_address->v6 ? scope->v6 : scope->v4)
                      : ret_address->v6 == scope->only.v6 &&
                            memcmp(ret_address->ip, scope->only.ip, sizeof scope->only.ip) == 0;
}

static struct mdns_interface *find_interface(struct mdns_interface *list, int *count,
                                             const char *name)
{
    for (int i = 0; i < *count; i++)
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
    unsigned index = if_nametoindex(name);
    if (index == 0 || *count == (int)MDNS_INTERFACES_MAX)
        return NULL;
    struct mdns_interface *made = &list[(*count)++];
    *made = (struct mdns_interface){.index = index};
    strncpy(made->name, name, sizeof made->name - 1);
    return made;
}

int mdns_watch_open(void)
{
    struct sockaddr_nl groups = {.nl_family = AF_NETLINK,
                                 .nl_groups =
                                     RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&groups, sizeof groups) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

void mdns_watch_drain(int fd)
{
    char bytes[4096];
    while (recv(fd, bytes, sizeof bytes, 0) > 0 || errno == ENOBUFS || errno == EINTR)
        errno = 0;
}

/* --- Sockets --- */

int mdns_open(bool v6, const char **ret_step)
{
    *ret_step = "socket";
    int fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    *ret_step = "options";
    bool good = set(fd, SOL_SOCKET, SO_REUSEADDR, 1) && set(fd, SOL_SOCKET, SO_REUSEPORT, 1) &&
                set(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES);
    if (v6)
        good = good && set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) &&
               set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) &&
               set(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1) &&
               set(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, HOPS);
    else
        good = good && set(fd, IPPROTO_IP, IP_PKTINFO, 1) && set(fd, IPPROTO_IP, IP_RECVTTL, 1) &&
               set(fd, IPPROTO_IP, IP_MULTICAST_TTL, HOPS) &&
               set(fd, IPPROTO_IP, IP_MULTICAST_ALL, 0);
    if (good) {
        *ret_step = "bind";
        good = bind_to_port(fd, v6);
    }
    if (good)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static bool set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) == 0;
}

static bool bind_to_port(int fd, bool v6)
{
    struct sockaddr_storage any;
    mdns_to_sockaddr(&(struct mdns_address){.v6 = v6}, MDNS_PORT, &any);
    return bind(fd, (struct sockaddr *)&any,
                v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in)) == 0;
}

bool mdns_join(int fd, bool v6, const struct mdns_interface *interface)
{
    int error;
    if (v6) {
        struct ipv6_mreq group = {.ipv6mr_multiaddr = group_v6,
                                  .ipv6mr_interface = interface->index};
        error = setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &group, sizeof group);
    } else {
        struct ip_mreqn group = {.imr_multiaddr = {htonl(GROUP_V4)},
                                 .imr_ifindex = (int)interface->index};
        error = setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group);
    }
    return error == 0 || errno == EADDRINUSE;
}

bool mdns_leave(int fd, bool v6, const struct mdns_interface *interface)
{
    if (v6) {
        struct ipv6_mreq group = {.ipv6mr_multiaddr = group_v6,
                                  .ipv6mr_interface = interface->index};
        return setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &group, sizeof group) == 0;
    }
    struct ip_mreqn group = {.imr_multiaddr = {htonl(GROUP_V4)},
                             .imr_ifindex = (int)interface->index};
    return setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &group, sizeof group) == 0;
}

/* The address that packets come from: one that is announced, where it can be. */
static const struct mdns_address *source_of(const struct mdns_interface *interface, bool v6)
{
    for (unsigned i = 0; i < interface->address_count; i++)
        if (interface->addresses[i].v6 == v6)
            return &interface->addresses[i];
    return NULL;
}

bool mdns_send(int fd, bool v6, const struct mdns_interface *interface, struct span packet)
{
    union {
        char bytes[CONTROL_BYTES];
        struct cmsghdr align;
    } control = {0};
    struct sockaddr_storage group;
    struct mdns_address to = {.v6 = v6};
    uint32_t group_v4 = htonl(GROUP_V4);
    memcpy(to.ip, v6 ? (const void *)&group_v6 : &group_v4, v6 ? 16 : 4);
    to.scope = v6 ? interface->index : 0;
    mdns_to_sockaddr(&to, MDNS_PORT, &group);
    struct iovec part = {.iov_base = (void *)(uintptr_t)packet.ptr, .iov_len = packet.len};
    struct msghdr message = {.msg_name = &group,
                             .msg_namelen =
                                 v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in),
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes};
    const struct mdns_address *source = source_of(interface, v6);
    struct cmsghdr *head = &control.align;
    if (v6) {
        struct in6_pktinfo info = {.ipi6_ifindex = interface->index};
        if (source != NULL)
            memcpy(&info.ipi6_addr, source->ip, sizeof info.ipi6_addr);
        *head = (struct cmsghdr){CMSG_LEN(sizeof info), IPPROTO_IPV6, IPV6_PKTINFO};
        memcpy(CMSG_DATA(head), &info, sizeof info);
        message.msg_controllen = CMSG_SPACE(sizeof info);
    } else {
        struct in_pktinfo info = {.ipi_ifindex = (int)interface->index};
        if (source != NULL)
            memcpy(&info.ipi_spec_dst, source->ip, sizeof info.ipi_spec_dst);
        *head = (struct cmsghdr){CMSG_LEN(sizeof info), IPPROTO_IP, IP_PKTINFO};
        memcpy(CMSG_DATA(head), &info, sizeof info);
        message.msg_controllen = CMSG_SPACE(sizeof info);
    }
    ssize_t sent;
    do
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)packet.len;
}

/* What the kernel says of a packet: the interface, whether it was sent to the group, its hops. */
static bool read_control(struct msghdr *message, unsigned *ret_interface)
{
    bool group = false;
    int hops = 0;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at != NULL; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(at), sizeof info);
            *ret_interface = (unsigned)info.ipi_ifindex;
            group = info.ipi_addr.s_addr == htonl(GROUP_V4);
        } else if (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(at), sizeof info);
            *ret_interface = info.ipi6_ifindex;
            group = IN6_ARE_ADDR_EQUAL(&info.ipi6_addr, &group_v6);
        } else if ((at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TTL) ||
                   (at->cmsg_level == IPPROTO_IPV6 && at->cmsg_type == IPV6_HOPLIMIT)) {
            memcpy(&hops, CMSG_DATA(at), sizeof hops);
        }
    }
    return group && hops == HOPS;
}

bool mdns_receive(int fd, bool v6, uint8_t room[static MDNS_PACKET_BYTES_MAX],
                  struct mdns_received *ret_received)
{
    union {
        char bytes[CONTROL_BYTES];
        struct cmsghdr align;
    } control;
    struct sockaddr_storage sender = {0};
    struct iovec part = {.iov_base = room, .iov_len = MDNS_PACKET_BYTES_MAX};
    struct msghdr message = {.msg_name = &sender,
                             .msg_namelen = sizeof sender,
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t len;
    do
        len = recvmsg(fd, &message, 0);
    while (len < 0 && errno == EINTR);
    if (len < 0)
        return false;
    uint16_t port = 0;
    struct mdns_received received = {.packet = span_of(room, (size_t)len)};
    received.wanted = (message.msg_flags & MSG_TRUNC) == 0 &&
                      read_control(&message, &received.interface) &&
                      mdns_from_sockaddr((struct sockaddr *)&sender, &received.sender, &port) &&
                      port == MDNS_PORT && received.sender.v6 == v6;
    *ret_received = received;
    return true;
}
