/* Stands for functions of the core that aren't there yet. Weak: the core's own take their place. */
#include <string.h>

#include "bucketd/core/bucket.h"

__attribute__((weak)) void bucket_on_peer_message(struct bucket *bucket, uint32_t node,
                                                  const struct msg *msg)
{
    (void)bucket;
    (void)node;
    (void)msg;
}
