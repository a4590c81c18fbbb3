/* The data directory as the supervisor sees it: made where it doesn't exist, locked against a
 * second node, its run directory checked and tidied, and a durable source of numbers that are
 * never used twice. */
#pragma once

#include "common/config.h"

struct datadir;

/* Takes the locks before it changes anything else. ERR_LOCKED: another node runs here (error
 * names its pid); ERR_CONFIG, ERR_IO: *error says what is wrong. */
enum err datadir_open(const struct config *config, struct datadir **ret_datadir,
                      struct buf *error) MUST_CHECK;
/* Gives the locks back. */
void datadir_close(struct datadir *datadir);
/* A number greater than all given before on this directory, across restarts and crashes, and (as
 * far as the clock tells) across the directory's loss: incarnations and links. */
uint64_t datadir_next_number(struct datadir *datadir);

/* Removes the sockets whose names begin with `prefix`, where it is sure that nobody listens on
 * them. */
void datadir_remove_sockets(const char *run_dir, const char *prefix);

/* Writes a whole file durably: a temporary one, synced, renamed, and its directory synced. */
enum err datadir_write_file(const char *dir, const char *name, struct span content,
                            struct buf *error) MUST_CHECK;
