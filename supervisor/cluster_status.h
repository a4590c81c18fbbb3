/* The tables of `sierradb cluster status`, from the node's answer. */
#pragma once

#include <jansson.h>

#include "common/buf.h"

void cluster_status_print(const json_t *status, struct buf *out);
