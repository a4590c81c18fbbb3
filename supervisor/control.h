/* The operator's socket: <run_dir>/control.sock, one JSON object per line in and out. */
#pragma once

#include <jansson.h>
#include <uv.h>

#include "common/err.h"
#include "common/log.h"

struct control;

/* Answers one request; the caller owns the answer. NULL: control_answer follows with this token. */
typedef json_t *control_fn(void *ctx, const json_t *request, uint64_t token);

#define CONTROL_SOCKET "control.sock"

enum err control_open(uv_loop_t *loop, const char *run_dir, control_fn *on_request, void *ctx,
                      const struct log *log, struct control **ret_control) MUST_CHECK;
/* A no-op where who asked has left meanwhile. */
void control_answer(struct control *control, uint64_t token, json_t *take_answer);
