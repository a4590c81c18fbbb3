/* Every error of the system, once. Functions return enum err; results come by out pointer and
 * are written only on ERR_OK. The table lives in err.def. */
#pragma once

#include <stdbool.h>

enum err {
#define ERR(name, code, class, text) name,
#include "common/err.def"
    ERR_COUNT
};

enum err_class { ERR_CLASS_NONE, ERR_CLASS_RETRY, ERR_CLASS_UNKNOWN };

#define MUST_CHECK __attribute__((warn_unused_result))

/* RESP error code, the first word of an error reply. Static string. */
const char *err_code(enum err err);
/* Default text, for where nothing more precise is known. Static string. */
const char *err_text(enum err err);
/* Symbolic name, for logs. Static string. */
const char *err_name(enum err err);
enum err_class err_class(enum err err);
