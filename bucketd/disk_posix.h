/* The real disk: POSIX files below one bucket's directory (bucketd/core/env.h says what each
 * operation promises). */
#pragma once

#include "bucketd/core/env.h"

/* Creates the directory (and its parents' entry) where it doesn't exist, durably, and locks it:
 * two processes never write the same bucket. A predecessor that is still dying is waited for,
 * for some seconds. NULL: it can't be had, and the log says why. All operations may be called
 * from any thread; log is borrowed. */
struct disk *disk_posix_open(const char *bucket_dir, const struct log *log);
/* Gives the log that lies here another name, which no later start looks at: for an operator to look
 * at, and to remove. ERR_EXISTS: one lies there already. */
enum err disk_posix_set_aside(struct disk *disk);
/* A log lies aside. */
bool disk_posix_has_aside(struct disk *disk);
/* Only when no job uses it any more. Releases the lock. */
void disk_posix_close(struct disk *disk);
