/* A table for people: columns as wide as their widest cell. */
#pragma once

#include "common/buf.h"

#define TABLE_COLUMNS_MAX 16
#define TABLE_CELL_LEN    224

struct table {
    unsigned columns;
    const char *const *titles;
    unsigned left;   /* a bit for each column that is aligned to the left: texts */
    unsigned hidden; /* and for each that isn't shown */
    struct buf cells;
};

/* titles: borrowed. */
void table_init(struct table *table, const char *const *titles, unsigned columns, unsigned left);
void table_release(struct table *table);
/* A further row, each cell "-"; valid until the next call. */
char (*table_row(struct table *table))[TABLE_CELL_LEN];
void table_print(const struct table *table, struct buf *out);

/* "1.2s", "3m04s", "5h06m", "7d08h"; "12.3 MiB". */
void table_duration(char cell[TABLE_CELL_LEN], long long ms);
void table_bytes(char cell[TABLE_CELL_LEN], long long bytes);
