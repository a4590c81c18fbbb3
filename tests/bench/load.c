/* A load generator for what redis-benchmark can't do: commands with ids from a list, scans
 * counted in events, the way of a live event, fan-out to many subscribers. Prints one line of
 * JSON.
 *
 *   load requests PORT FILE CONNECTIONS PIPELINE COUNT   random lines of FILE, each a command
 *   (words by spaces)
 *   load live PORT COUNT                                 append sent -> push received, one at a
 *   time
 *   load fanout PORT SUBSCRIBERS COUNT                   one event to all subscribers, one event
 *   at a time */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/reply_counter.h"

#define RECEIVE_BYTES     (256u << 10)
#define WAIT_MS_MAX       30000
#define CONNECTIONS_MAX   60000ul
#define PIPELINE_MAX      4096ul
#define COMMAND_BYTES_MAX (1u << 20)

struct connection {
    int fd;
    struct reply_counter counter;
    unsigned outstanding;     /* replies of the batch on its way */
    uint64_t sent_ns;
};

/* Commands as they go over the wire, back to back; command i is bytes[starts[i]..starts[i + 1]]. */
struct commands {
    char *bytes;
    size_t *starts;
    size_t count;
};

/* One figure for each request, in microseconds. */
struct samples {
    uint32_t *us;
    size_t count, max;
};

static void run_requests(char **argv);
static void run_fanout(const char *port_text, const char *subscribers_text, const char *count_text);
static void print_result(const struct samples *samples, uint64_t ns, uint64_t done,
                         uint64_t events);

int main(int argc, char **argv)
{
    const char *mode = argc >= 2 ? argv[1] : "";

    if (strcmp(mode, "requests") == 0 && argc == 7) {
        run_requests(argv);
    } else if (strcmp(mode, "live") == 0 && argc == 4) {
        run_fanout(argv[2], "1", argv[3]);
    } else if (strcmp(mode, "fanout") == 0 && argc == 5) {
        run_fanout(argv[2], argv[3], argv[4]);
    } else {
        fprintf(stderr, "usage: load requests PORT FILE CONNECTIONS PIPELINE COUNT\n"
                        "       load live PORT COUNT\n"
                        "       load fanout PORT SUBSCRIBERS COUNT\n");
        return 2;
    }
    fflush(stdout);
    _exit(0); /* memory and sockets go with the process */
}

/* --- small things ----------------------------------------------------------------------------- */

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory)
        fail("out of memory");
    return memory;
}

static unsigned long parse_number(const char *text, const char *what, unsigned long max)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || end == text || value == 0 || value > max)
        fail("%s: a number from 1 to %lu, not '%s'", what, max, text);
    return value;
}

static void samples_add(struct samples *samples, uint64_t ns)
{
    if (samples->count < samples->max)
        samples->us[samples->count++] = (uint32_t)(ns / 1000);
}

/* --- connections ------------------------------------------------------------------------------ */

static void send_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, bytes, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            fail("send: %s", strerror(errno));
        bytes += sent;
        len -= (size_t)sent;
    }
}

/* Reads what is there; blocks for it where `wait`. Returns the number of replies that became whole.
 */
static uint64_t receive(struct connection *connection, bool wait)
{
    static _Thread_local char bytes[RECEIVE_BYTES];
    ssize_t got = recv(connection->fd, bytes, sizeof bytes, wait ? 0 : MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR) && !wait)
        return 0;
    if (got <= 0)
        fail("recv: %s", got == 0 ? "closed by the server" : strerror(errno));
    uint64_t replies = reply_counter_feed(&connection->counter, bytes, (size_t)got);
    if (connection->counter.errors > 0)
        fail("the server answered %s", connection->counter.error);
    return replies;
}

/* Sends a command in inline form and waits for its reply. */
static void call(struct connection *connection, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void call(struct connection *connection, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof line)
        fail("command too long");
    send_all(connection->fd, line, (size_t)len);
    while (receive(connection, true) == 0)
        continue;
}

static void connect_to(struct connection *connection, unsigned long port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval limit = {.tv_sec = WAIT_MS_MAX / 1000};
    int on = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        fail("socket: %s", strerror(errno));
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect to port %lu: %s", port, strerror(errno));
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    call(connection, "HELLO 3\r\n");
}

/* Connects `count` times and puts all into a new epoll set. */
static struct connection *connect_all(unsigned long port, unsigned long count, int *ret_epoll)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct connection *connections = allocate(count, sizeof *connections);
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned long i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        connect_to(&connections[i], port);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event) < 0)
            fail("epoll_ctl: %s", strerror(errno));
    }
    *ret_epoll = epoll;
    return connections;
}

static int wait_events(int epoll, struct epoll_event *events, int max)
{
    int count = epoll_wait(epoll, events, max, WAIT_MS_MAX);
    if (count == 0)
        fail("no answer for %d ms", WAIT_MS_MAX);
    return count < 0 ? 0 : count;
}

/* --- requests --------------------------------------------------------------------------------- */

/* One line of words as an array of bulk strings. */
static void encode_line(FILE *out, char *line)
{
    char *words[1024];
    size_t count = 0;
    char *save;
    for (char *word = strtok_r(line, " \n", &save); word; word = strtok_r(NULL, " \n", &save)) {
        if (count == 1024)
            fail("more than 1024 words in a command");
        words[count++] = word;
    }
    if (count == 0)
        fail("an empty line among the commands");
    fprintf(out, "*%zu\r\n", count);
    for (size_t i = 0; i < count; i++)
        fprintf(out, "$%zu\r\n%s\r\n", strlen(words[i]), words[i]);
}

static struct commands load_commands(const char *path)
{
    struct commands commands = {0};
    size_t size = 0, line_size = 0, max = 0;
    char *line = NULL;
    FILE *file = fopen(path, "re");
    FILE *out = open_memstream(&commands.bytes, &size);
    if (!file || !out)
        fail("%s: %s", path, strerror(errno));
    while (getline(&line, &line_size, file) > 0) {
        if (commands.count + 1 >= max) {
            max = max ? max * 2 : 1024;
            commands.starts = reallocarray(commands.starts, max, sizeof *commands.starts);
            if (!commands.starts)
                fail("out of memory");
        }
        commands.starts[commands.count++] = (size_t)ftell(out);
        encode_line(out, line);
    }
    if (commands.count == 0)
        fail("%s holds no command", path);
    commands.starts[commands.count] = (size_t)ftell(out);
    fclose(out);
    fclose(file);
    free(line);
    return commands;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Sends the next batch of `count` random commands. */
static void send_batch(struct connection *connection, const struct commands *commands,
                       unsigned count, uint64_t *random)
{
    static char batch[COMMAND_BYTES_MAX];
    size_t len = 0;

    connection->outstanding = count;
    connection->sent_ns = now_ns();
    for (unsigned i = 0; i < count; i++) {
        size_t which = (size_t)(next_random(random) % commands->count);
        size_t size = commands->starts[which + 1] - commands->starts[which];
        if (size > sizeof batch)
            fail("a command of %zu bytes", size);
        if (len + size > sizeof batch) {
            send_all(connection->fd, batch, len);
            len = 0;
        }
        memcpy(batch + len, commands->bytes + commands->starts[which], size);
        len += size;
    }
    send_all(connection->fd, batch, len);
}

static void run_requests(char **argv)
{
    unsigned long port = parse_number(argv[2], "port", 65535);
    struct commands commands = load_commands(argv[3]);
    unsigned long count = parse_number(argv[4], "connections", CONNECTIONS_MAX);
    unsigned pipeline = (unsigned)parse_number(argv[5], "pipeline", PIPELINE_MAX);
    uint64_t total = parse_number(argv[6], "count", 1000000000ul);
    struct samples samples = {allocate(total, sizeof(uint32_t)), 0, total};
    uint64_t random = 88172645463325252u, issued = 0, done = 0, events = 0;
    struct epoll_event ready[64];
    int epoll;
    struct connection *connections = connect_all(port, count, &epoll);

    uint64_t start = now_ns();
    for (unsigned long i = 0; i < count && issued < total; i++) {
        unsigned batch = total - issued < pipeline ? (unsigned)(total - issued) : pipeline;
        send_batch(&connections[i], &commands, batch, &random);
        issued += batch;
    }
    while (done < total) {
        int n = wait_events(epoll, ready, 64);
        for (int i = 0; i < n; i++) {
            struct connection *connection = ready[i].data.ptr;
            uint64_t replies = receive(connection, false);
            uint64_t took = now_ns() - connection->sent_ns;
            for (uint64_t j = 0; j < replies; j++)
                samples_add(&samples, took);
            done += replies;
            connection->outstanding -= (unsigned)replies;
            if (connection->outstanding == 0 && issued < total) {
                unsigned batch = total - issued < pipeline ? (unsigned)(total - issued) : pipeline;
                send_batch(connection, &commands, batch, &random);
                issued += batch;
            }
        }
    }
    uint64_t took = now_ns() - start;
    for (unsigned long i = 0; i < count; i++)
        events += connections[i].counter.events;
    print_result(&samples, took, done, events);
}

/* --- live and fan-out ------------------------------------------------------------------------- */

/* Sends version `version` of the stream, expecting the one before. */
static void send_append(struct connection *writer, const char *stream, unsigned long version)
{
    char line[256];
    int len = version == 0
                  ? snprintf(line, sizeof line,
                             "EAPPEND %s Ev EXPECTED_VERSION empty PAYLOAD x\r\n", stream)
                  : snprintf(line, sizeof line, "EAPPEND %s Ev EXPECTED_VERSION %lu PAYLOAD x\r\n",
                             stream, version - 1);
    send_all(writer->fd, line, (size_t)len);
}

/* Each event is sent when all subscribers have the one before; a sample is the time until the
 * last one has it. */
static void run_fanout(const char *port_text, const char *subscribers_text, const char *count_text)
{
    unsigned long port = parse_number(port_text, "port", 65535);
    unsigned long subscribers = parse_number(subscribers_text, "subscribers", CONNECTIONS_MAX);
    unsigned long count = parse_number(count_text, "count", 10000000ul);
    struct samples samples = {allocate(count, sizeof(uint32_t)), 0, count};
    struct epoll_event ready[64];
    struct connection writer = {0};
    char stream[64];
    int epoll;

    snprintf(stream, sizeof stream, "bench-%lx-%x", (unsigned long)now_ns(), (unsigned)getpid());
    connect_to(&writer, port);
    struct connection *connections = connect_all(port, subscribers, &epoll);
    for (unsigned long i = 0; i < subscribers; i++)
        call(&connections[i], "ESUB %s FROM LATEST WINDOW 10000000\r\n", stream);
    uint64_t start = now_ns();
    uint64_t got = 0;
    for (unsigned long i = 0; i < count; i++) {
        uint64_t sent = now_ns();
        send_append(&writer, stream, i);
        while (got < (i + 1) * subscribers) {
            int n = wait_events(epoll, ready, 64);
            for (int j = 0; j < n; j++) {
                struct connection *connection = ready[j].data.ptr;
                uint64_t before = connection->counter.messages;
                receive(connection, false);
                got += connection->counter.messages - before;
            }
        }
        samples_add(&samples, now_ns() - sent);
        while (writer.counter.replies < i + 2) /* HELLO's and the appends' */
            receive(&writer, true);
    }
    print_result(&samples, now_ns() - start, count, got);
}

/* --- result ----------------------------------------------------------------------------------- */

static int compare_us(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static uint32_t percentile(const struct samples *samples, unsigned per_thousand)
{
    return samples->us[(samples->count - 1) * per_thousand / 1000];
}

static void print_result(const struct samples *samples, uint64_t ns, uint64_t done, uint64_t events)
{
    double seconds = (double)ns / 1e9;
    qsort(samples->us, samples->count, sizeof *samples->us, compare_us);
    printf("{\"done\": %lu, \"events\": %lu, \"seconds\": %.6f, \"per_second\": %.1f, "
           "\"events_per_second\": %.1f, \"p50_us\": %u, \"p99_us\": %u, \"p999_us\": %u, "
           "\"max_us\": %u}\n",
           (unsigned long)done, (unsigned long)events, seconds, (double)done / seconds,
           (double)events / seconds, percentile(samples, 500), percentile(samples, 990),
           percentile(samples, 999), samples->us[samples->count - 1]);
}
