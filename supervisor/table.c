/* Rows of text cells, aligned when printed. */
#include "supervisor/table.h"

#include <stdio.h>

#include "common/assert.h"

static void print_row(const struct table *table, const char *const cells[], const int widths[],
                      struct buf *out);

void table_init(struct table *table, const char *const *titles, unsigned columns, unsigned left)
{
    ASSERT(columns > 0 && columns <= TABLE_COLUMNS_MAX);
    *table = (struct table){.columns = columns, .titles = titles, .left = left};
}

void table_release(struct table *table)
{
    buf_release(&table->cells);
}

char (*table_row(struct table *table))[TABLE_CELL_LEN]
{
    char(*row)[TABLE_CELL_LEN] = (void *)buf_extend(&table->cells, table->columns * sizeof *row);
    for (unsigned i = 0; i < table->columns; i++)
        snprintf(row[i], sizeof row[i], "-");
    return row;
}

void table_print(const struct table *table, struct buf *out)
{
    int widths[TABLE_COLUMNS_MAX];
    const char *cells[TABLE_COLUMNS_MAX];
    size_t rows = table->cells.len / (table->columns * (size_t)TABLE_CELL_LEN);
    char(*all)[TABLE_CELL_LEN] = (void *)table->cells.ptr;
    for (unsigned c = 0; c < table->columns; c++) {
        widths[c] = (int)strlen(table->titles[c]);
        for (size_t r = 0; r < rows; r++) {
            int width = (int)strlen(all[r * table->columns + c]);
            widths[c] = width > widths[c] ? width : widths[c];
        }
    }
    print_row(table, table->titles, widths, out);
    for (size_t r = 0; r < rows; r++) {
        for (unsigned c = 0; c < table->columns; c++)
            cells[c] = all[r * table->columns + c];
        print_row(table, cells, widths, out);
    }
}

static void print_row(const struct table *table, const char *const cells[], const int widths[],
                      struct buf *out)
{
    const char *gap = "";
    unsigned last = table->columns - 1;
    while (last > 0 && (table->hidden & 1u << last) != 0)
        last--;
    for (unsigned c = 0; c <= last; c++) {
        bool left = (table->left & 1u << c) != 0;
        if ((table->hidden & 1u << c) != 0)
            continue;
        int width = left && c == last ? 0 : left ? -widths[c] : widths[c]; /* no trailing spaces */
        buf_printf(out, "%s%*s", gap, width, cells[c]);
        gap = "  ";
    }
    buf_printf(out, "\n");
}

void table_duration(char cell[TABLE_CELL_LEN], long long ms)
{
    long long s = ms / 1000;
    if (s < 60)
        snprintf(cell, TABLE_CELL_LEN, "%lld.%llds", s, ms % 1000 / 100);
    else if (s < 3600)
        snprintf(cell, TABLE_CELL_LEN, "%lldm%02llds", s / 60, s % 60);
    else if (s < 86400)
        snprintf(cell, TABLE_CELL_LEN, "%lldh%02lldm", s / 3600, s / 60 % 60);
    else
        snprintf(cell, TABLE_CELL_LEN, "%lldd%02lldh", s / 86400, s / 3600 % 24);
}

void table_bytes(char cell[TABLE_CELL_LEN], long long bytes)
{
    if (bytes < 10ll << 30)
        snprintf(cell, TABLE_CELL_LEN, "%.1f MiB", (double)bytes / (1 << 20));
    else
        snprintf(cell, TABLE_CELL_LEN, "%.1f GiB", (double)bytes / (1 << 30));
}
