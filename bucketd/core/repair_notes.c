/* Segments that are, or may be, damaged. */
#include "bucketd/core/repair_notes.h"

#include <stdlib.h>
#include <string.h>

#include "common/assert.h"

void repair_notes_add(struct repair_notes *notes, uint64_t segment)
{
    uint32_t at = 0;
    while (at < notes->len && notes->list[at] < segment)
        at++;
    if (at < notes->len && notes->list[at] == segment)
        return;
    if (notes->len == notes->cap) {
        notes->cap = notes->cap == 0 ? 8 : notes->cap * 2;
        notes->list = realloc(notes->list, notes->cap * sizeof *notes->list);
        ASSERT(notes->list != NULL);
    }
    memmove(notes->list + at + 1, notes->list + at, (notes->len - at) * sizeof *notes->list);
    notes->list[at] = segment;
    notes->len++;
}

void repair_notes_remove(struct repair_notes *notes, uint64_t segment)
{
    for (uint32_t i = 0; i < notes->len; i++) {
        if (notes->list[i] != segment)
            continue;
        notes->len--;
        memmove(notes->list + i, notes->list + i + 1, (notes->len - i) * sizeof *notes->list);
        return;
    }
}

void repair_notes_release(struct repair_notes *notes)
{
    free(notes->list);
    *notes = (struct repair_notes){0};
}
