/* CRC32C (Castagnoli), by ISA-L. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Continues `crc` over len bytes; start with 0. Composable: crc32c(crc32c(0, a), b) == crc of ab.
 */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);
