/* A read-only disk for the operator's commands: it changes nothing, locks nothing, and works on a
 * backup or on read-only media. */
#pragma once

#include "bucketd/core/env.h"

/* Paths are below `root` (borrowed, must outlive the disk). */
struct disk *disk_read_open(const char *root);
/* A disk that holds one file: whatever `name` (borrowed) is asked for, `file` (borrowed) is read.
 */
struct disk *disk_read_open_one(const char *name, const char *file);
void disk_read_close(struct disk *disk);
