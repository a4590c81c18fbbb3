/* The operator's commands on a running node. Each returns the process's exit status. */
#pragma once

#include "supervisor/options.h"

int operate_status(const struct options *options);
/* words: cluster status. */
int operate_cluster(const struct options *options);
/* words: restart bucket N, or restart netd. Waits until the process is ready again. */
int operate_restart(const struct options *options);
/* Waits until the node has ended. */
int operate_stop(const struct options *options);
