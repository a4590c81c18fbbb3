/* A running node: the supervisor's loop with its processes, links, signals and the operator's
 * socket. */
#pragma once

#include "common/config.h"

/* Locks the data directory, starts everything and runs until it is told to stop. Ends the process:
 * status 0 when it was told to stop, 1 when it can't start (a message went to stderr). */
_Noreturn void node_run(const struct config *config);
