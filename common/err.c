/* The error table of err.def as strings. */
#include "common/err.h"

static const struct {
    const char *name, *code, *text;
    enum err_class class;
} table[] = {
#define ERR(name, code, class, text) [name] = {#name, code, text, ERR_CLASS_##class},
#include "common/err.def"
};

const char *err_code(enum err err)
{
    return table[err < ERR_COUNT ? err : ERR_IO].code;
}

const char *err_text(enum err err)
{
    return table[err < ERR_COUNT ? err : ERR_IO].text;
}

const char *err_name(enum err err)
{
    return table[err < ERR_COUNT ? err : ERR_IO].name;
}

enum err_class err_class(enum err err)
{
    return table[err < ERR_COUNT ? err : ERR_IO].class;
}
