/* The load of the bench: WebSocket clients that keep a proxy busy, and what that cost it.
 *
 *   load echo       each connection keeps `window` messages of `size` bytes in flight
 *   load handshake  connect, upgrade, reset, again: `connections` of them at a time
 *   load hold       open `connections` and leave them alone; Pings are answered
 *   load post       each connection POSTs `body`, a form, again and again; the answer must be 200
 *
 * Options are name=value: port, path, body, header ('Name: value', may be repeated), connections, window,
 * size, seconds, warm (seconds before it counts), units (so many and then end, for counting
 * instructions; in place of seconds), sources (so many addresses from 127.0.0.2 on), tls=1,
 * pid (may be repeated: whose CPU time is charged), go=1 (wait for a line on standard input).
 *
 * Prints "open" when every connection is, and at the end one JSON object. `cpu_ns` is what the pids
 * spent on a CPU from /proc/PID/task/TID/schedstat, user and kernel, read in the same moments as the
 * units are counted. Every byte that comes back is compared with what went out. */
#include "common.h"
#include <dirent.h>
#include <openssl/ssl.h>
#include <time.h>

enum { WINDOW_MAX = 256, ANSWER_MAX = 4096, PIDS_MAX = 64, OPENING_MAX = 64 };
enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = 40 * SUB };

typedef enum { CLOSED, CONNECTING, SECURING, UPGRADING, OPEN } stage;

typedef struct {
    int fd;
    stage at;
    SSL *ssl;
    char *answer;          /* to our handshake, until it is whole */
    uint32_t answer_size;
    bool wants_out;        /* the socket took less than there is */
    uint32_t to_send;      /* messages due */
    size_t sent;           /* bytes of the first of them that went out */
    size_t received;       /* bytes of the reply that is coming */
    uint32_t oldest, next; /* in `began`, both counted without end */
    uint64_t began[];      /* ns, when each message in flight was due; `window` of them */
} client;

static enum { ECHO, HANDSHAKE, HOLD, POST } mode;
static int port, connections = 64, window = 1, sources, tls, go;
static long size = 64, units;
static double seconds = 2, warm = 0.3;
static const char *path = "/", *body = "";
static char headers[8192];
static int pids[PIDS_MAX], pid_count;

static int epoll;
static SSL_CTX *context;
static client **clients;
static char request[16384];
static size_t request_size, message_size, reply_size;
static uint8_t *message, *reply, scratch[SCRATCH];
static bool counting, limited;
static long left_to_begin, in_flight, opened, opening;
static uint64_t done, failed, refused, pings;
static int status;
static uint64_t latencies[BUCKETS], latency_count;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- measuring ---- */

/* On-CPU nanoseconds of a process, all its threads. */
static uint64_t cpu_of(int pid) {
    char name[64 + 256];
    uint64_t sum = 0;
    snprintf(name, sizeof name, "/proc/%d/task", pid);
    DIR *tasks = opendir(name);
    struct dirent *entry;
    if (!tasks) return 0;
    while ((entry = readdir(tasks))) {
        unsigned long long ns;
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "/proc/%d/task/%s/schedstat", pid, entry->d_name);
        FILE *file = fopen(name, "r");
        if (!file) continue;
        if (fscanf(file, "%llu", &ns) == 1) sum += ns;
        fclose(file);
    }
    closedir(tasks);
    return sum;
}

static uint64_t cpu_of_all(void) {
    uint64_t sum = 0;
    for (int i = 0; i < pid_count; i++) sum += cpu_of(pids[i]);
    return sum;
}

/* Buckets of 1/64 of a power of two: a quantile is right to 1.6 %. */
static void note_latency(uint64_t ns) {
    unsigned bits = 63 - __builtin_clzll(ns | SUB), shift = bits - SUB_BITS;
    unsigned bucket = (shift << SUB_BITS) + (ns >> shift);
    if (bucket >= BUCKETS) bucket = BUCKETS - 1;
    latencies[bucket]++;
    latency_count++;
}

static double quantile_us(double q) {
    uint64_t before = 0, wanted = q * latency_count;
    for (unsigned bucket = 0; bucket < BUCKETS; bucket++) {
        before += latencies[bucket];
        if (before <= wanted) continue;
        unsigned shift = bucket < 2 * SUB ? 0 : (bucket >> SUB_BITS) - 1;
        return (double)((uint64_t)(bucket - (shift << SUB_BITS)) << shift) / 1e3;
    }
    return 0;
}

/* ---- a connection ---- */

static void restart(client *c);

static void interest(client *c, uint32_t events) { watch(epoll, EPOLL_CTL_MOD, c->fd, events, c); }

static void begin(client *c) {
    static uint32_t turn;
    int one = 1;
    struct sockaddr_in to = loopback(port), from = loopback(0);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    no_delay(c->fd);
    if (sources) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + turn++ % sources);
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind");
    }
    c->at = CONNECTING;
    c->answer = must(malloc(ANSWER_MAX + 1));
    c->answer_size = 0;
    c->began[0] = now();
    opening++;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect");
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLOUT, c);
}

/* With a reset: no port waits for the last segments of a connection that nobody misses. */
static void end(client *c) {
    struct linger none = {1, 0};
    if (c->at != OPEN) opening--;
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    SSL_free(c->ssl);
    close(c->fd);
    free(c->answer);
    *c = (client){.fd = -1};
}

static void fail(client *c) {
    failed++;
    if (mode == ECHO) in_flight -= c->next - c->oldest;
    end(c);
    if (mode == HANDSHAKE) restart(c);
}

static ssize_t tls_result(client *c, int result) {
    if (result > 0) return result;
    int why = SSL_get_error(c->ssl, result);
    errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : EIO;
    return why == SSL_ERROR_ZERO_RETURN ? 0 : -1;
}

static ssize_t give(client *c, const void *data, size_t length) {
    return c->ssl ? tls_result(c, SSL_write(c->ssl, data, length)) : send(c->fd, data, length, 0);
}

static ssize_t take(client *c, void *data, size_t length) {
    return c->ssl ? tls_result(c, SSL_read(c->ssl, data, length)) : recv(c->fd, data, length, 0);
}

/* Send what is due, small messages many at once. False when the connection has broken. */
static bool pump(client *c) {
    while (c->to_send) {
        const uint8_t *data = message + c->sent;
        size_t length = message_size - c->sent;
        if (!c->sent && c->to_send > 1 && 2 * message_size <= SCRATCH) {
            size_t count = SCRATCH / message_size < c->to_send ? SCRATCH / message_size : c->to_send;
            for (size_t i = 0; i < count; i++) memcpy(scratch + i * message_size, message, message_size);
            data = scratch;
            length = count * message_size;
        }
        ssize_t sent = give(c, data, length);
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent < 0) break;
        c->to_send -= (c->sent + sent) / message_size;
        c->sent = (c->sent + sent) % message_size;
    }
    if (c->wants_out != (c->to_send > 0)) {
        c->wants_out = c->to_send > 0;
        interest(c, EPOLLIN | (c->wants_out ? EPOLLOUT : 0));
    }
    return true;
}

static void due(client *c, uint64_t time) {
    if (limited && left_to_begin-- <= 0) return;
    c->began[c->next++ % window] = time;
    c->to_send++;
    in_flight++;
}

/* What came of the replies, compared with what they must be. */
static bool replies(client *c, const uint8_t *data, size_t length) {
    uint64_t time = 0;
    while (length) {
        size_t part = reply_size - c->received < length ? reply_size - c->received : length;
        if (c->oldest == c->next || memcmp(data, reply + c->received, part)) return false;
        data += part;
        length -= part;
        c->received += part;
        if (c->received < reply_size) break;
        c->received = 0;
        if (!time) time = now();
        if (counting) {
            done++;
            note_latency(time - c->began[c->oldest % window]);
        }
        c->oldest++;
        in_flight--;
        due(c, time);
    }
    return pump(c);
}

/* While held, Pings alone may come, each whole and small. */
static bool answer_pings(client *c, uint8_t *data, size_t length) {
    while (length) {
        uint8_t pong[6 + 125] = {0x8a, 0x80};
        if (length < 2 || data[0] != 0x89 || data[1] > 125 || length < 2u + data[1]) return false;
        pong[1] |= data[1];
        memcpy(pong + 6, data + 2, data[1]);
        if (give(c, pong, 6 + data[1]) != 6 + data[1]) return false;
        pings++;
        length -= 2 + data[1];
        data += 2 + data[1];
    }
    return true;
}

static bool is_open(client *c, uint8_t *more, size_t length) {
    uint64_t took = now() - c->began[0];
    opening--;
    opened++;
    c->at = OPEN;
    if (mode == HANDSHAKE) {
        if (counting) {
            done++;
            note_latency(took);
        }
        end(c);
        restart(c);
        return true;
    }
    if (mode == HOLD) return answer_pings(c, more, length);
    return length == 0;
}

static bool read_answer(client *c) {
    ssize_t got = take(c, c->answer + c->answer_size, ANSWER_MAX - c->answer_size);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    c->answer_size += got;
    c->answer[c->answer_size] = 0;
    char *stop = strstr(c->answer, "\r\n\r\n");
    if (!stop) return c->answer_size < ANSWER_MAX;
    status = atoi(c->answer + strlen("HTTP/1.1 "));
    if (status != 101) {
        refused++;
        return false;
    }
    stop += 4;
    char *answer = c->answer;
    size_t more = answer + c->answer_size - stop;
    memcpy(scratch, stop, more);
    c->answer = NULL;
    free(answer);
    return is_open(c, scratch, more);
}

/* POST: one request at a time on a connection. */
static bool ask(client *c) {
    c->began[0] = now();
    c->answer_size = 0;
    return give(c, request, request_size) == (ssize_t)request_size;
}

static bool read_reply(client *c) {
    ssize_t got = take(c, c->answer + c->answer_size, ANSWER_MAX - c->answer_size);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    c->answer_size += got;
    c->answer[c->answer_size] = 0;
    char *stop = strstr(c->answer, "\r\n\r\n"), *length = strcasestr(c->answer, "\r\ncontent-length:");
    if (!stop) return c->answer_size < ANSWER_MAX;
    status = atoi(c->answer + strlen("HTTP/1.1 "));
    if (status != 200 || !length || length > stop) {
        refused++;
        return false;
    }
    size_t whole = stop + 4 - c->answer + atol(length + strlen("\r\ncontent-length:"));
    if (c->answer_size != whole) return c->answer_size < whole && whole < ANSWER_MAX;
    if (counting) {
        done++;
        note_latency(now() - c->began[0]);
    }
    return ask(c);
}

static bool upgrade(client *c) {
    if (mode == POST) {
        opening--;
        opened++;
        c->at = OPEN;
        return true;
    }
    c->at = UPGRADING;
    return give(c, request, request_size) == (ssize_t)request_size;
}

static bool connected(client *c) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error) return false;
    interest(c, EPOLLIN);
    if (!tls) return upgrade(c);
    c->ssl = must(SSL_new(context));
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_connect_state(c->ssl);
    c->at = SECURING;
    return true;
}

static bool serve(client *c, uint32_t events) {
    if (c->at == CONNECTING && (!connected(c) || !tls)) return c->at == UPGRADING || c->at == OPEN;
    if (c->at == SECURING) {
        int result = SSL_do_handshake(c->ssl);
        if (result == 1) return upgrade(c);
        return tls_result(c, result) < 0 && errno == EAGAIN;
    }
    if (c->at == UPGRADING) return read_answer(c);
    if (mode == POST) return read_reply(c);
    if (events & EPOLLOUT && !pump(c)) return false;
    for (int reads = 0; reads < 8; reads++) {
        ssize_t got = take(c, scratch, SCRATCH);
        if (got < 0) return errno == EAGAIN;
        if (got == 0) return false;
        if (!(mode == HOLD ? answer_pings(c, scratch, got) : replies(c, scratch, got))) return false;
        if (!c->ssl && got < SCRATCH) return true;
    }
    return true;
}

static void turn(int wait_ms) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll, events, EVENTS, wait_ms);
    for (int i = 0; i < count; i++) {
        client *c = events[i].data.ptr;
        if (c->at != CLOSED && !serve(c, events[i].events)) fail(c);
    }
}

static void turns(double length) {
    uint64_t stop = now() + length * 1e9;
    while (now() < stop) turn(10);
}

/* ---- the run ---- */

static void restart(client *c) {
    if (!limited || left_to_begin-- > 0) begin(c);
}

static void option(const char *text) {
    char name[32];
    const char *value = strchr(text, '=');
    if (!value || value - text >= (long)sizeof name) goto unknown;
    snprintf(name, sizeof name, "%.*s", (int)(value - text), text);
    value++;
    struct { const char *name; int *to; } numbers[] = {
        {"port", &port}, {"connections", &connections}, {"window", &window},
        {"sources", &sources}, {"tls", &tls}, {"go", &go},
    };
    for (unsigned i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (!strcmp(name, numbers[i].name)) {
            *numbers[i].to = atoi(value);
            return;
        }
    }
    if (!strcmp(name, "path")) path = value;
    else if (!strcmp(name, "body")) body = value;
    else if (!strcmp(name, "size")) size = atol(value);
    else if (!strcmp(name, "units")) units = atol(value);
    else if (!strcmp(name, "seconds")) seconds = atof(value);
    else if (!strcmp(name, "warm")) warm = atof(value);
    else if (!strcmp(name, "pid") && pid_count < PIDS_MAX) pids[pid_count++] = atoi(value);
    else if (!strcmp(name, "header") && strlen(headers) + strlen(value) + 3 < sizeof headers) {
        strcat(strcat(headers, value), "\r\n");
    } else goto unknown;
    return;
unknown:
    fprintf(stderr, "load: what is %s?\n", text);
    exit(2);
}

/* The message that each connection sends, masked, and the reply that it must get. */
static void make_message(void) {
    uint8_t head[10] = {0x82}, mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t length = size < 126 ? 2 : size < 65536 ? 4 : 10;
    head[1] = length == 2 ? size : length == 4 ? 126 : 127;
    for (size_t i = 2; i < length; i++) head[i] = (uint64_t)size >> 8 * (length - 1 - i);
    message_size = length + 4 + size;
    reply_size = length + size;
    message = must(malloc(message_size));
    reply = must(malloc(reply_size));
    memcpy(message, head, length);
    message[1] |= 0x80;
    memcpy(message + length, mask, 4);
    memcpy(reply, head, length);
    for (long i = 0; i < size; i++) {
        reply[length + i] = rand();
        message[length + 4 + i] = reply[length + i] ^ mask[i & 3];
    }
}

static void open_all(void) {
    uint64_t give_up = now() + 60000000000ull;
    int next = 0;
    while (opened + (long)failed < connections && now() < give_up) {
        while (next < connections && opening < OPENING_MAX) begin(clients[next++]);
        turn(10);
    }
}

/* One unit takes a while to come back: the first `window` of each connection. */
static void fill(void) {
    uint64_t time = now();
    for (int i = 0; i < connections; i++) {
        client *c = clients[i];
        if (mode == HANDSHAKE) restart(c);
        if (mode == POST && c->at == OPEN && !ask(c)) fail(c);
        if (mode != ECHO || c->at != OPEN) continue;
        for (int k = 0; k < window; k++) due(c, time);
        if (!pump(c)) fail(c);
    }
}

static bool all_done(void) {
    return limited && left_to_begin <= 0 && (mode == ECHO ? in_flight == 0 : opening == 0);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: load echo|handshake|hold|post port=PORT [name=value...]: see load.c\n");
        return 2;
    }
    mode = !strcmp(argv[1], "echo") ? ECHO : !strcmp(argv[1], "handshake") ? HANDSHAKE
           : !strcmp(argv[1], "post") ? POST : HOLD;
    for (int i = 2; i < argc; i++) option(argv[i]);
    if (window < 1 || window > WINDOW_MAX || connections < 1) option("window out of bounds");
    prepare();
    request_size = snprintf(request, sizeof request,
                            "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nUpgrade: websocket\r\n"
                            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                            "Sec-WebSocket-Version: 13\r\n%s\r\n", path, port, headers);
    if (mode == POST)
        request_size = snprintf(request, sizeof request,
                                "POST %s HTTP/1.1\r\nHost: localhost:%d\r\n%s"
                                "Content-Type: application/x-www-form-urlencoded\r\n"
                                "Content-Length: %zu\r\n\r\n%s", path, port, headers, strlen(body), body);
    if (tls) {
        context = must(SSL_CTX_new(TLS_client_method()));
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    }
    make_message();
    epoll = epoll_create1(0);
    clients = must(calloc(connections, sizeof *clients));
    for (int i = 0; i < connections; i++) {
        clients[i] = must(calloc(1, sizeof(client) + window * sizeof(uint64_t)));
        clients[i]->fd = -1;
    }
    if (mode != HANDSHAKE) open_all();
    printf("open\n");
    fflush(stdout);
    if (go && getchar() == EOF) return 0;
    limited = units > 0;
    left_to_begin = units;
    counting = limited;
    if (!limited && mode != HOLD) {
        fill();
        turns(warm);
    }
    done = 0;
    counting = true;
    uint64_t cpu = cpu_of_all(), own = cpu_of(getpid()), start = now();
    if (limited) {
        fill();
        while (!all_done() && !failed) turn(10);
    } else {
        turns(seconds);
    }
    cpu = cpu_of_all() - cpu;
    own = cpu_of(getpid()) - own;
    double took = (now() - start) / 1e9;
    printf("{\"units\": %lu, \"seconds\": %.4f, \"cpu_ns\": %lu, \"load_cpu_ns\": %lu, \"opened\": %ld, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"failed\": %lu, \"refused\": %lu, \"status\": %d, "
           "\"pings\": %lu}\n",
           done, took, cpu, own, opened, quantile_us(0.5), quantile_us(0.99), failed, refused, status, pings);
    return 0;
}
