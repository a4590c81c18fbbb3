/* ESUB, EPSUB, EACK, EUNSUB. */
#include "netd/command.h"
#include "netd/netd.h"

static enum handled subscribe(struct client *client, struct request *request,
                              const struct subscribe_args *parsed);
static void answer(struct request *request, struct subscription *subscription);
static struct subscription *find(struct client *client, const struct uuid *id);
static enum handled not_found(struct request *request);

enum handled cmd_esub(struct client *client, struct request *request, struct args *args)
{
    struct subscribe_args parsed;
    bool ok = args_esub(args, &parsed);
    enum handled handled = ok ? subscribe(client, request, &parsed) : HANDLED_FAILED;
    subscribe_args_release(&parsed);
    return handled;
}

enum handled cmd_epsub(struct client *client, struct request *request, struct args *args)
{
    struct subscribe_args parsed;
    bool ok = args_epsub(args, client->netd->config->partition.count, &parsed);
    enum handled handled = ok ? subscribe(client, request, &parsed) : HANDLED_FAILED;
    subscribe_args_release(&parsed);
    return handled;
}

enum handled cmd_eack(struct client *client, struct request *request, struct args *args)
{
    struct uuid id;
    uint64_t cursor;
    if (!args_uuid(args, "subscription id", &id) || !args_u64(args, "number", &cursor) ||
        !args_end(args))
        return HANDLED_FAILED;
    struct subscription *subscription = find(client, &id);
    if (subscription == NULL)
        return not_found(request);
    resp_simple_str(request_out(request), "OK");
    subscription_acknowledge(subscription, cursor);
    return HANDLED_DONE;
}

enum handled cmd_eunsub(struct client *client, struct request *request, struct args *args)
{
    struct uuid id;
    if (!args_uuid(args, "subscription id", &id) || !args_end(args))
        return HANDLED_FAILED;
    struct subscription *subscription = find(client, &id);
    if (subscription == NULL)
        return not_found(request);
    client_end_subscription(client, subscription);
    resp_simple_str(request_out(request), "OK");
    return HANDLED_DONE;
}

void subscribe_created(void *ctx, struct subscription *subscription, enum err err)
{
    (void)ctx;
    struct request *request = subscription->request;
    if (err == ERR_OK) {
        answer(request, subscription);
        request_done(request);
        return;
    }
    request->subscription = NULL;
    subscription->request = NULL;
    client_end_subscription(subscription->owner, subscription);
    request_fail(request, err_code(err), span_str(err_text(err)));
}

static enum handled subscribe(struct client *client, struct request *request,
                              const struct subscribe_args *parsed)
{
    struct netd *netd = client->netd;
    struct uuid id = uuid_random(netd_random(netd, 16));
    struct subscription *subscription =
        subscription_new(netd->hubs, client, &id, client->proto, parsed,
                         netd->config->network.subscription_window, netd->config->partition.count,
                         netd_now_ms(netd) + netd->config->network.request_timeout_ms);
    subscription->request = request;
    request->subscription = subscription;
    subscription->next = client->subscriptions;
    client->subscriptions = subscription;
    client->subscription_count++;
    if (subscription->waiting > 0)
        return HANDLED_LATER;
    answer(request, subscription);
    return HANDLED_DONE;
}

/* The push and the messages follow once this has left the queue (client_pop). */
static void answer(struct request *request, struct subscription *subscription)
{
    char id[UUID_TEXT_LEN];
    uuid_format(&subscription->id, id);
    resp_simple(request_out(request), span_of(id, sizeof id));
}

static struct subscription *find(struct client *client, const struct uuid *id)
{
    for (struct subscription *s = client->subscriptions; s != NULL; s = s->next)
        if (uuid_equal(&s->id, id))
            return s;
    return NULL;
}

static enum handled not_found(struct request *request)
{
    request->netd->stats.errors++;
    resp_error(request_out(request), "NOTFOUND", span_str("subscription not found"));
    return HANDLED_DONE;
}
