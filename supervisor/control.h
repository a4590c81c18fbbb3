/* The operator's socket: <run_dir>/control.sock, one JSON object per line in and out. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"

struct control;

/* Answers one request; the caller owns the answer. Must not be NULL. */
typedef json_t *control_fn(void *ctx, const json_t *request);

#define CONTROL_SOCKET "control.sock"

enum err control_open(uv_loop_t *loop, const char *run_dir, control_fn *on_request, void *ctx,
                      const struct log *log, struct control **ret_control) MUST_CHECK;
