/* A running node: the supervisor's loop with its processes, links, signals and the operator's socket. */
#pragma once

#include "common/config.h"

/* Locks the data directory, starts everything and runs until it is told to stop. Returns the process's exit status;
 * messages about what hinders the start go to stderr. */
int node_run(const struct config *config);
