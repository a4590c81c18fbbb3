/* Words of an inline command, as a person types it into telnet: separated by blanks, "…" with
 * \n \r \t \b \a \xHH and \ before anything else, '…' with \' alone. */
#pragma once

#include "common/bytes.h"
#include "common/err.h"

/* Takes the next word off line[*at, len); start with *at = 0. The word is a view into the line: a
 * quoted one is written over its quoted form, which is never shorter. ERR_NOTFOUND: no more words.
 * ERR_PROTOCOL: a quote has no end, or no blank behind its end. */
enum err resp_inline_next(uint8_t *line, size_t len, size_t *at, struct span *ret_word) MUST_CHECK;
