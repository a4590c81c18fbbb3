/* A table with columns as wide as their widest cell; numbers to the right. */
#include "supervisor/status.h"

#include <stdio.h>

#define COLUMNS 10
#define CELL_LEN 40

static const char *const titles[COLUMNS] = {"PROCESS", "PID",       "STATE",   "UPTIME", "RESTARTS",
                                            "EVENTS",  "APPENDS/S", "READS/S", "MEMORY", "LINK"};

static void fill_row(const json_t *process, char row[COLUMNS][CELL_LEN]);
static void print_row(const char row[COLUMNS][CELL_LEN], const int widths[COLUMNS],
                      struct buf *out);
static void format_duration(json_int_t ms, char text[CELL_LEN]);
static void format_bytes(json_int_t bytes, char text[CELL_LEN]);

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "-";
}

void status_print(const json_t *status, struct buf *out)
{
    buf_printf(out, "sierradb %s, node %lld: %s, %s, data in %s\n", text_of(status, "version"),
               (long long)json_integer_value(json_object_get(status, "node")),
               text_of(status, "state"), text_of(status, "client_address"),
               text_of(status, "dir"));
    const json_t *processes = json_object_get(status, "processes");
    char row[COLUMNS][CELL_LEN];
    int widths[COLUMNS];
    for (int c = 0; c < COLUMNS; c++)
        widths[c] = (int)strlen(titles[c]);
    for (size_t i = 0; i < json_array_size(processes); i++) {
        fill_row(json_array_get(processes, i), row);
        for (int c = 0; c < COLUMNS; c++)
            widths[c] = (int)strlen(row[c]) > widths[c] ? (int)strlen(row[c]) : widths[c];
    }
    for (int c = 0; c < COLUMNS; c++)
        snprintf(row[c], CELL_LEN, "%s", titles[c]);
    print_row((const char(*)[CELL_LEN])row, widths, out);
    for (size_t i = 0; i < json_array_size(processes); i++) {
        fill_row(json_array_get(processes, i), row);
        print_row((const char(*)[CELL_LEN])row, widths, out);
    }
}

static void fill_row(const json_t *process, char row[COLUMNS][CELL_LEN])
{
    static const char *const numbers[] = {NULL, "pid", NULL, NULL, "restarts", "events"};
    for (int c = 0; c < COLUMNS; c++)
        snprintf(row[c], CELL_LEN, "-");
    snprintf(row[0], CELL_LEN, "%s", text_of(process, "name"));
    snprintf(row[2], CELL_LEN, "%s", text_of(process, "state"));
    for (int c = 1; c <= 5; c++) {
        const json_t *number = numbers[c] != NULL ? json_object_get(process, numbers[c]) : NULL;
        if (number != NULL)
            snprintf(row[c], CELL_LEN, "%lld", (long long)json_integer_value(number));
    }
    const json_t *uptime = json_object_get(process, "uptime_ms");
    if (uptime != NULL)
        format_duration(json_integer_value(uptime), row[3]);
    const json_t *appends = json_object_get(process, "appends_per_s");
    const json_t *reads = json_object_get(process, "reads_per_s");
    if (appends != NULL)
        snprintf(row[6], CELL_LEN, "%.0f", json_real_value(appends));
    if (reads != NULL)
        snprintf(row[7], CELL_LEN, "%.0f", json_real_value(reads));
    const json_t *rss = json_object_get(process, "rss_bytes");
    if (rss != NULL)
        format_bytes(json_integer_value(rss), row[8]);
    snprintf(row[9], CELL_LEN, "%s", text_of(process, "link"));
}

static void print_row(const char row[COLUMNS][CELL_LEN], const int widths[COLUMNS], struct buf *out)
{
    for (int c = 0; c < COLUMNS; c++) {
        bool left = c == 0 || c == 2 || c == COLUMNS - 1;
        int width = c == COLUMNS - 1 ? 0 : left ? -widths[c] : widths[c]; /* no trailing spaces */
        buf_printf(out, "%s%*s", c > 0 ? "  " : "", width, row[c]);
    }
    buf_printf(out, "\n");
}

static void format_duration(json_int_t ms, char text[CELL_LEN])
{
    long long s = ms / 1000;
    if (s < 60)
        snprintf(text, CELL_LEN, "%lld.%llds", s, (long long)(ms % 1000) / 100);
    else if (s < 3600)
        snprintf(text, CELL_LEN, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(text, CELL_LEN, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(text, CELL_LEN, "%lldd%02lldh", s / 86400, s / 3600 % 24);
}

static void format_bytes(json_int_t bytes, char text[CELL_LEN])
{
    if (bytes < 10ll << 30)
        snprintf(text, CELL_LEN, "%.1f MiB", (double)bytes / (1 << 20));
    else
        snprintf(text, CELL_LEN, "%.1f GiB", (double)bytes / (1 << 30));
}
