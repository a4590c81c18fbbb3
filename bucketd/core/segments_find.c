/* Lookups over the indexes of all segments, newest first. */
#include "bucketd/core/bucket_internal.h"

static enum err next_part(struct bucket *bucket, enum err err, uint32_t *left);

enum err segments_find_stream(struct bucket *bucket, uint32_t partition, struct span stream,
                              uint32_t below, uint32_t *ret_i, struct index_stream *ret_stream)
{
    uint32_t left = below;
    while (left > 0) {
        if (summaries_skip_stream(bucket, partition, stream, &left))
            continue;
        uint32_t i = left - 1;
        struct index *index;
        enum err err = segments_index(bucket, i, &index);
        if (err == ERR_OK)
            err = index_find_stream(index, partition, stream, ret_stream);
        if (err == ERR_OK)
            *ret_i = i;
        if (err == ERR_OK || (err = next_part(bucket, err, &left)) != ERR_OK)
            return err;
    }
    return ERR_NOTFOUND;
}

enum err segments_find_event(struct bucket *bucket, const struct uuid *event_id,
                             struct event_search *search, uint64_t *ret_segment,
                             uint32_t *ret_position)
{
    while (search->left > 0) {
        if (search->skip == 0 && summaries_skip_event(bucket, event_id, &search->left))
            continue;
        uint32_t i = search->left - 1;
        struct index *index;
        enum err err = segments_index(bucket, i, &index);
        if (err == ERR_OK)
            err = index_find_event(index, event_id, search->skip, ret_position);
        if (err == ERR_OK) {
            search->skip++;
            *ret_segment = bucket->segments.list[i].number;
            return ERR_OK;
        }
        search->skip = 0;
        if ((err = next_part(bucket, err, &search->left)) != ERR_OK)
            return err;
    }
    return ERR_NOTFOUND;
}

/* A search of the newest of the `left` parts ended without a find: rebuilds it where its index is
 * bad, to search it again, else goes on to the one before, unless a damaged stretch lies between.
 */
static enum err next_part(struct bucket *bucket, enum err err, uint32_t *left)
{
    uint32_t i = *left - 1;
    if (err == ERR_CORRUPT) {
        err = segments_rebuild(bucket, i, &i);
        *left = i + 1;
        return err;
    }
    if (err != ERR_NOTFOUND)
        return err;
    if (bucket->segments.list[i].hole_before)
        return ERR_CORRUPT;
    *left = i;
    return ERR_OK;
}
