/* Segments that are, or may be, damaged: each once, the oldest first. */
#pragma once

#include <stdint.h>

/* Zeroed is empty. */
struct repair_notes {
    uint64_t *list; /* ascending */
    uint32_t len, cap;
};

void repair_notes_add(struct repair_notes *notes, uint64_t segment);
void repair_notes_remove(struct repair_notes *notes, uint64_t segment);
void repair_notes_release(struct repair_notes *notes);
