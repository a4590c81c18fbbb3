/* Slots: what an answer's req_id leads to. */
#include "netd/router_internal.h"

#include <stdlib.h>

uint32_t route_take_slot(struct target *target, struct call *call, enum slot_kind kind)
{
    struct route *route = target->route;
    if (route->slot_free == SLOT_NONE) {
        uint32_t count = route->slot_count == 0 ? 256 : route->slot_count * 2;
        route->slots = realloc(route->slots, count * sizeof *route->slots);
        ASSERT(route->slots != NULL);
        for (uint32_t i = count; i-- > route->slot_count;) {
            route->slots[i] = (struct slot){.next_free = route->slot_free};
            route->slot_free = i;
        }
        route->slot_count = count;
    }
    uint32_t index = route->slot_free;
    struct slot *slot = &route->slots[index];
    route->slot_free = slot->next_free;
    slot->call = call;
    slot->target = target;
    slot->used = true;
    slot->kind = (uint8_t)kind;
    route->slots_used[kind]++;
    return index;
}

void route_release_slot(struct route *route, uint32_t index)
{
    struct slot *slot = &route->slots[index];
    ASSERT(slot->used);
    slot->used = false;
    slot->call = NULL;
    slot->target = NULL;
    slot->generation++;
    slot->next_free = route->slot_free;
    route->slot_free = index;
    route->slots_used[slot->kind]--;
}
