/* CRC32C by ISA-L. Its crc32_iscsi works on the raw register; the usual complement is ours. */
#include "common/crc32c.h"

#include <isa-l/crc.h>

uint32_t crc32c(uint32_t crc, const void *bytes, size_t len)
{
    /* crc32_iscsi takes an int length and a non-const pointer it doesn't write through. */
    const uint8_t *at = bytes;
    while (len > 0) {
        int piece = len > (1u << 30) ? (1 << 30) : (int)len;
        crc = ~crc32_iscsi((unsigned char *)(uintptr_t)at, piece, ~crc);
        at += piece;
        len -= (size_t)piece;
    }
    return crc;
}
