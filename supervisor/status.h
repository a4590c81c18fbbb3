/* The table of `sierradb status`, from the node's answer. */
#pragma once

#include <jansson.h>

#include "common/buf.h"

void status_print(const json_t *status, struct buf *out);
