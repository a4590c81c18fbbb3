/* Logging: one logfmt line per event on stderr: ts level node proc bucket event key=value….
 * A log handle sits in its owner's struct, so that several actors in one process stay apart. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Receives one finished line, without the newline. */
typedef void log_sink_fn(void *ctx, enum log_level level, const char *line);

struct log {
    enum log_level level;  /* events below are dropped */
    char proc[32];         /* "supervisor", "netd", "bucketd-3" */
    log_sink_fn *sink;     /* NULL: stderr, with a time stamp */
    void *sink_ctx;
};

/* "debug", "info", "warn", "error", any case; false where it is none of them. */
bool log_level_parse(const char *text, enum log_level *ret_level);
const char *log_level_name(enum log_level level);

/* event: a stable noun.verb ("segment.sealed"). format: the further fields as logfmt text,
 * "segment=%u bytes=%lu", or NULL. Values with spaces are quoted by the caller: path=\"%s\".
 * Control bytes are escaped here. */
void log_event(const struct log *log, enum log_level level, const char *event, const char *format,
               ...) __attribute__((format(printf, 4, 5)));

#define log_debug(log, ...) log_event((log), LOG_DEBUG, __VA_ARGS__)
#define log_info(log, ...)  log_event((log), LOG_INFO, __VA_ARGS__)
#define log_warn(log, ...)  log_event((log), LOG_WARN, __VA_ARGS__)
#define log_error(log, ...) log_event((log), LOG_ERROR, __VA_ARGS__)
