/* Configuration texts: any bytes are read or refused with a message; what is accepted and
 * consistent prints, reads back and prints the same. */
#include <stdlib.h>

#include "common/assert.h"
#include "common/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct config config, again;
    struct buf error = {0}, first = {0}, second = {0};
    config_init(&config);
    enum err err = config_parse(&config, span_of(bytes, len), "fuzz", &error);
    if (err == ERR_OK)
        err = config_finish(&config, &error);
    ASSERT((err == ERR_OK) == (error.len == 0));
    if (err == ERR_OK) {
        config_print(&config, &first);
        config_init(&again);
        ASSERT(config_parse(&again, buf_span(&first), "again", &error) == ERR_OK);
        ASSERT(config_finish(&again, &error) == ERR_OK);
        config_print(&again, &second);
        ASSERT(span_equal(buf_span(&first), buf_span(&second)));
        config_release(&again);
    }
    config_release(&config);
    buf_release(&error);
    buf_release(&first);
    buf_release(&second);
    return 0;
}
