/* What `sierradb --help` and `sierradb COMMAND --help` print. */
#include "supervisor/help.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char general[] =
    "sierradb " SIERRADB_VERSION ", a distributed event store for any Redis client\n"
    "\n"
    "Usage:\n"
    "  sierradb [OPTIONS]                start a node and run until SIGTERM or SIGINT\n"
    "  sierradb status [--json]          processes of a running node: pid, uptime, restarts, "
    "rates, memory; is it ready\n"
    "  sierradb cluster status [--json]  all nodes as a running one sees them: who leads, who "
    "lags, "
    "what is wrong\n"
    "  sierradb restart bucket N|netd    stop one process cleanly and start it again\n"
    "  sierradb stop                     stop a running node\n"
    "  sierradb verify DIR               check everything stored in a data directory\n"
    "  sierradb dump FILE                print any file of a data directory\n"
    "  sierradb COMMAND --help           more about a command\n"
    "\n"
    "Options:\n"
    "  -c, --config FILE             configuration file, YAML or JSON\n"
    "  -d, --dir DIR                 data directory; created where it doesn't exist (default: "
    "data)\n"
    "      --client-address IP:PORT  where clients connect (default: 0.0.0.0:9090)\n"
    "      --cluster-address IP:PORT where other nodes connect\n"
    "      --peers HOST:PORT,...     cluster addresses of all nodes, in the order of their index\n"
    "      --cluster-name NAME       the same on all nodes (default: sierradb)\n"
    "      --cluster-secret-file FILE  the secret that all nodes share\n"
    "  -n, --node-count COUNT        nodes of the cluster (default: as many as peers, else 1)\n"
    "  -i, --node-index INDEX        which of them this one is\n"
    "      --mdns BOOL               find other nodes by multicast DNS\n"
    "  -l, --log LEVEL               debug, info, warn or error (default: info)\n"
    "      --check-config            check the configuration, print it in full, don't start\n"
    "      --help-config             all configuration keys with types, defaults and meaning\n"
    "  -V, --version                 print the version\n"
    "  -h, --help                    print this text\n"
    "\n"
    "Every configuration key can also be given in the environment: segment.size_bytes as\n"
    "SIERRADB_SEGMENT_SIZE_BYTES. The command line wins over the environment, the environment over "
    "the file.\n"
    "\n"
    "A node stops on SIGTERM or SIGINT: it hands the buckets that it leads to other nodes where "
    "there are any,\n"
    "answers what is in flight, syncs, and leaves with status 0. A second signal kills what is "
    "left at once.\n"
    "SIGHUP is ignored. Its log goes to stderr, one event per line.\n"
    "Exit status: 0 stopped as asked; 1 it couldn't start or do what was asked; 2 wrong command "
    "line.\n";

static const struct {
    const char *command, *text;
} commands[] = {
    {"status", "Usage: sierradb status [--json] [-d DIR | -c FILE]\n"
               "\n"
               "Shows every process of the node that runs on DIR (default: data):\n"
               "  STATE      starting (a bucket: recovering), up, stopping, backoff (it ended "
               "before it was ready and is\n"
               "             started again after a pause), down (it failed too often in a row; "
               "tried again now and then)\n"
               "  RESTARTS   since the node was started\n"
               "  EVENTS     stored in this bucket\n"
               "  APPENDS/S, READS/S   in the last second\n"
               "  MEMORY     resident\n"
               "  LINK       whether this bucket and netd are connected\n"
               "In a cluster, of this node's replica of a bucket:\n"
               "  ROLE       leader, follower or candidate; in which TERM; LEADER: the node that "
               "leads, as far as it knows\n"
               "  LAG        committed entries that it hasn't got yet, as of about a second ago\n"
               "\n"
               "What keeps the node from being ready for clients stands below, in words. A bucket "
               "that is down for good or\n"
               "damaged keeps it from nothing, nor does a quorum that got lost.\n"
               "\n"
               "--json prints the same, each process's own counters, and \"ready\" of the node and "
               "of each process, as JSON.\n"
               "Exit status: 0 a node runs; 1 none does.\n"},
    {"cluster",
     "Usage: sierradb cluster status [--json] [-d DIR | -c FILE]\n"
     "\n"
     "Shows the cluster as the node that runs on DIR (default: data) sees it:\n"
     "  nodes      healthy, degraded (a process is down or a log damaged), stopping, away, never "
     "heard; FOR so long;\n"
     "             how many buckets a node holds and LEADS; bytes to and from it\n"
     "  buckets    the node that leads, its term, the last committed entry, and the nodes with a "
     "replica; the first\n"
     "             of them is where leadership should be. Figures of others are about a second "
     "old\n"
     "and below that what is wrong, in words.\n"
     "\n"
     "States of the whole: ok; degraded: something is wrong, but all buckets take appends; "
     "unavailable: some don't.\n"
     "Exit status: 0 a node runs and has answered; 1 none does.\n"},
    {"restart",
     "Usage: sierradb restart bucket N [-d DIR | -c FILE]\n"
     "       sierradb restart netd [-d DIR | -c FILE]\n"
     "\n"
     "Stops one process of the node on DIR cleanly, starts it again and waits until it is ready.\n"
     "Requests for a bucket that restarts wait and then succeed. Restarting netd disconnects all "
     "clients.\n"
     "A bucket that is down (see `sierradb status --help`) is tried at once.\n"
     "Exit status: 0 it is up again; 1 it isn't, or no node runs.\n"},
    {"stop", "Usage: sierradb stop [-d DIR | -c FILE]\n"
             "\n"
             "Stops the node on DIR as SIGTERM does: what is in flight is answered and synced. "
             "Waits until it has ended.\n"
             "Exit status: 0 it has ended; 1 it hasn't, or none runs.\n"},
};

void help_print(const char *command)
{
    if (command == NULL) {
        fputs(general, stdout);
        return;
    }
    for (unsigned i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(commands[i].command, command) == 0) {
            fputs(commands[i].text, stdout);
            return;
        }
    }
    fprintf(stderr, "sierradb: unknown command '%s'; see `sierradb --help`\n", command);
    exit(2);
}
