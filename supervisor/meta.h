/* meta.json: what can't change after a data directory was created. */
#pragma once

#include "common/config.h"
#include "common/uuid.h"

/* Creates the file on a fresh directory; else compares it with the configuration. ERR_CONFIG:
 * they contradict each other; *error names both. ERR_CORRUPT: the file can't be read, or is
 * missing where there is data. Needs the lock. */
enum err meta_open(const struct config *config, struct uuid *ret_cluster_id,
                   struct buf *error) MUST_CHECK;
