/* The operator's end of the control socket: blocking, for the command line. */
#pragma once

#include <jansson.h>

#include "common/config.h"

struct client;

/* ERR_DOWN: no node runs on this configuration's directory; a message went to stderr. */
enum err client_open(const struct config *config, struct client **ret_client) MUST_CHECK;
void client_close(struct client *client);
/* Sends one request and waits for its answer. NULL: no answer, or it says "ok": false; a message
 * went to stderr. */
json_t *client_ask(struct client *client, json_t *take_request);
/* Waits until the node closes the connection, which it does when it ends. False: it didn't
 * within timeout_ms. */
bool client_wait_end(struct client *client, uint64_t timeout_ms);
