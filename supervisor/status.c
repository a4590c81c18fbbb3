/* The processes of a node, a row each. */
#include "supervisor/status.h"

#include <stdio.h>

#include "supervisor/table.h"

enum {
    NAME,
    PID,
    STATE,
    UPTIME,
    RESTARTS,
    EVENTS,
    APPENDS,
    READS,
    MEMORY,
    ROLE,
    TERM,
    LEADER,
    LAG,
    LINK,
    COLUMNS
};

static const char *const titles[COLUMNS] = {"PROCESS", "PID",       "STATE",   "UPTIME", "RESTARTS",
                                            "EVENTS",  "APPENDS/S", "READS/S", "MEMORY", "ROLE",
                                            "TERM",    "LEADER",    "LAG",     "LINK"};
#define LEFT       (1u << NAME | 1u << STATE | 1u << ROLE | 1u << LINK)
#define REPLICATED (1u << ROLE | 1u << TERM | 1u << LEADER | 1u << LAG)

static void fill_row(const json_t *process, char row[COLUMNS][TABLE_CELL_LEN]);

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : "-";
}

void status_print(const json_t *status, struct buf *out)
{
    buf_printf(out, "sierradb %s, node %lld: %s, %s, data in %s\n", text_of(status, "version"),
               (long long)json_integer_value(json_object_get(status, "node")),
               text_of(status, "state"), text_of(status, "client_address"), text_of(status, "dir"));
    const json_t *processes = json_object_get(status, "processes");
    struct table table;
    table_init(&table, titles, COLUMNS, LEFT);
    table.hidden = REPLICATED; /* of a node alone it says nothing */
    for (size_t i = 0; i < json_array_size(processes); i++) {
        const json_t *process = json_array_get(processes, i);
        fill_row(process, table_row(&table));
        if (json_object_get(process, "role") != NULL)
            table.hidden = 0;
    }
    table_print(&table, out);
    table_release(&table);
    const json_t *waits_for = json_object_get(status, "waits_for");
    for (size_t i = 0; i < json_array_size(waits_for); i++)
        buf_printf(out, "! not ready: %s\n", json_string_value(json_array_get(waits_for, i)));
}

static void fill_row(const json_t *process, char row[COLUMNS][TABLE_CELL_LEN])
{
    static const char *const texts[COLUMNS] = {
        [NAME] = "name", [STATE] = "state", [ROLE] = "role", [LINK] = "link"};
    static const char *const numbers[COLUMNS] = {
        [PID] = "pid",   [RESTARTS] = "restarts", [EVENTS] = "events",
        [TERM] = "term", [LEADER] = "leader",     [LAG] = "lag"};
    for (int c = 0; c < COLUMNS; c++) {
        const json_t *number = numbers[c] != NULL ? json_object_get(process, numbers[c]) : NULL;
        if (texts[c] != NULL)
            snprintf(row[c], TABLE_CELL_LEN, "%s", text_of(process, texts[c]));
        else if (json_is_integer(number))
            snprintf(row[c], TABLE_CELL_LEN, "%lld", (long long)json_integer_value(number));
    }
    const json_t *uptime = json_object_get(process, "uptime_ms");
    if (uptime != NULL)
        table_duration(row[UPTIME], json_integer_value(uptime));
    const json_t *appends = json_object_get(process, "appends_per_s");
    const json_t *reads = json_object_get(process, "reads_per_s");
    if (appends != NULL)
        snprintf(row[APPENDS], TABLE_CELL_LEN, "%.0f", json_real_value(appends));
    if (reads != NULL)
        snprintf(row[READS], TABLE_CELL_LEN, "%.0f", json_real_value(reads));
    const json_t *rss = json_object_get(process, "rss_bytes");
    if (rss != NULL)
        table_bytes(row[MEMORY], json_integer_value(rss));
}
