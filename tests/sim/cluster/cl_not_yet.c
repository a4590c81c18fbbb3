/* Stands for clients and an oracle that aren't there yet. Weak: the real ones take their place. */
#include <stdlib.h>

#include "tests/sim/cluster/cluster.h"

#define WEAK __attribute__((weak))

struct cl_client {
    uint32_t none;
};
struct oracle {
    uint32_t none;
};

WEAK void cl_workload_draw(struct cl_workload *w, const struct cl_swarm *s, struct prng *p)
{
    (void)w, (void)s, (void)p;
}
WEAK void cl_workload_print(const struct cl_workload *w, struct buf *o)
{
    (void)w, (void)o;
}
WEAK struct cl_client *cl_client_new(struct cluster *c, uint32_t i)
{
    (void)c, (void)i;
    return calloc(1, sizeof(struct cl_client));
}
WEAK void cl_client_free(struct cl_client *c)
{
    free(c);
}
WEAK void cl_client_on_link_up(struct cl_client *c, uint32_t n)
{
    (void)c, (void)n;
}
WEAK void cl_client_on_link_lost(struct cl_client *c, uint32_t n)
{
    (void)c, (void)n;
}
WEAK void cl_client_on_frame(struct cl_client *c, uint32_t n, struct span f)
{
    (void)c, (void)n, (void)f;
}
WEAK void cl_client_finish(struct cl_client *c)
{
    (void)c;
}
WEAK bool cl_client_idle(const struct cl_client *c)
{
    (void)c;
    return true;
}
WEAK void cl_client_describe(const struct cl_client *c, struct buf *o)
{
    (void)c, (void)o;
}
WEAK struct oracle *oracle_new(struct cluster *c)
{
    (void)c;
    return calloc(1, sizeof(struct oracle));
}
WEAK void oracle_free(struct oracle *o)
{
    free(o);
}
WEAK void oracle_get_totals(const struct oracle *o, struct oracle_totals *t)
{
    (void)o, (void)t;
}
WEAK void oracle_on_start(struct oracle *o, uint32_t n)
{
    (void)o, (void)n;
}
WEAK void oracle_on_end(struct oracle *o, uint32_t n, enum node_end h)
{
    (void)o, (void)n, (void)h;
}
WEAK void oracle_after_step(struct oracle *o, uint32_t n)
{
    (void)o, (void)n;
}
WEAK void oracle_on_peer_message(struct oracle *o, uint32_t f, uint32_t t, const struct msg *m)
{
    (void)o, (void)f, (void)t, (void)m;
}
WEAK void oracle_on_request(struct oracle *o, uint32_t c, uint32_t n, struct span f)
{
    (void)o, (void)c, (void)n, (void)f;
}
WEAK void oracle_on_reply(struct oracle *o, uint32_t c, uint32_t n, struct span f)
{
    (void)o, (void)c, (void)n, (void)f;
}
WEAK void oracle_on_link_lost(struct oracle *o, uint32_t c, uint32_t n)
{
    (void)o, (void)c, (void)n;
}
WEAK void oracle_on_damage(struct oracle *o, uint32_t n, enum damage d)
{
    (void)o, (void)n, (void)d;
}
WEAK void oracle_at_rest(struct oracle *o)
{
    (void)o;
}
