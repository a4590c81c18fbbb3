/* logfmt lines on stderr, or into the owner's sink. */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define LINE_LEN_MAX 2048

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static void write_to_stderr(const struct log *log, const char *line);
static void escape_control_bytes(char *text);

bool log_level_parse(const char *text, enum log_level *ret_level)
{
    for (unsigned i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcasecmp(text, level_names[i]) == 0) {
            *ret_level = (enum log_level)i;
            return true;
        }
    }
    return false;
}

const char *log_level_name(enum log_level level)
{
    return level_names[level];
}

void log_event(const struct log *log, enum log_level level, const char *event, const char *format,
               ...)
{
    if (level < log->level)
        return;
    char line[LINE_LEN_MAX];
    int len = snprintf(line, sizeof line, "level=%s proc=%s event=%s", level_names[level],
                       log->proc, event);
    if (format != NULL && len > 0 && (size_t)len < sizeof line - 1) {
        line[len++] = ' ';
        va_list args;
        va_start(args, format);
        vsnprintf(line + len, sizeof line - (size_t)len, format, args);
        va_end(args);
    }
    escape_control_bytes(line);
    if (log->sink != NULL)
        log->sink(log->sink_ctx, level, line);
    else
        write_to_stderr(log, line);
}

static void write_to_stderr(const struct log *log, const char *line)
{
    (void)log;
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    char text[LINE_LEN_MAX + 64];
    size_t stamp = strftime(text, sizeof text, "ts=%Y-%m-%dT%H:%M:%S", &utc);
    int len = snprintf(text + stamp, sizeof text - stamp, ".%03ldZ %s\n",
                       now.tv_nsec / 1000000, line);
    /* One write, so that lines of several processes don't mix. A closed stderr is no reason to
     * fail. */
    if (len > 0 && write(STDERR_FILENO, text, stamp + (size_t)len) < 0)
        return;
}

static void escape_control_bytes(char *text)
{
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
    }
}
