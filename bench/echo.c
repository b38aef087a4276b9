/* The upstream of the bench: a WebSocket server that sends every frame back.
 *
 *   echo PORT
 *
 * One thread, loopback only. Nothing is put together: what was read of a frame goes back at once,
 * unmasked, so that a frame of any length costs one pass over its bytes. A Ping becomes a Pong, a
 * Pong is swallowed, a Close goes back and ends the connection. While the peer takes nothing,
 * nothing is read from it. It believes its peer, a proxy under measurement: no limit, no check. */
#include "common.h"
#include <openssl/evp.h>
#include <openssl/sha.h>

enum { OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10, HEADER_MAX = 14, HEAD_MAX = 8192 };

typedef struct {
    int fd;
    bool open;                   /* the handshake is done */
    bool closing;                /* a Close came: end once its echo is out */
    uint8_t header[HEADER_MAX];  /* of the frame that is coming */
    unsigned header_size;
    uint64_t left;               /* bytes of its payload still to come */
    unsigned turn;               /* which byte of the mask is next */
    char *head;                  /* of the request, while it is not whole */
    size_t head_size;
    uint8_t *rest;               /* what the socket would not take */
    size_t rest_size;
} peer;

static int epoll;
static uint8_t in[SCRATCH], out[SCRATCH + HEADER_MAX];

static void end(peer *p) {
    close(p->fd);
    free(p->head);
    free(p->rest);
    free(p);
}

/* Send now, or keep for later what does not fit. False when the peer has gone. */
static bool give(peer *p, const uint8_t *data, size_t size) {
    ssize_t sent = p->rest ? 0 : send(p->fd, data, size, 0);
    if (sent < 0 && errno != EAGAIN) return false;
    if (sent < 0) sent = 0;
    if ((size_t)sent == size) return true;
    if (!p->rest) watch(epoll, EPOLL_CTL_MOD, p->fd, EPOLLOUT, p);
    p->rest = must(realloc(p->rest, p->rest_size + size - sent));
    memcpy(p->rest + p->rest_size, data + sent, size - sent);
    p->rest_size += size - sent;
    return true;
}

static bool give_rest(peer *p) {
    ssize_t sent = send(p->fd, p->rest, p->rest_size, 0);
    if (sent < 0) return errno == EAGAIN;
    p->rest_size -= sent;
    memmove(p->rest, p->rest + sent, p->rest_size);
    if (p->rest_size) return true;
    free(p->rest);
    p->rest = NULL;
    watch(epoll, EPOLL_CTL_MOD, p->fd, EPOLLIN, p);
    return !p->closing;
}

/* Bytes of the header at `h`, as far as its first two bytes tell. */
static unsigned header_length(const uint8_t *h) {
    unsigned length = h[1] & 127;
    return 2 + (length == 126 ? 2 : length == 127 ? 8 : 0) + (h[1] & 128 ? 4 : 0);
}

/* The header is whole: note what follows it. Returns how many bytes of it the echo has. */
static size_t frame_begin(peer *p, uint8_t *to) {
    uint8_t *h = p->header, opcode = h[0] & 15;
    size_t size = p->header_size - (h[1] & 128 ? 4 : 0);
    p->left = h[1] & 127;
    if (size > 2) p->left = 0;
    for (size_t i = 2; i < size; i++) p->left = p->left << 8 | h[i];
    p->turn = 0;
    if (opcode == OP_CLOSE) p->closing = true;
    if (opcode == OP_PONG) return 0;
    memcpy(to, h, size);
    to[1] &= 127;
    if (opcode == OP_PING) to[0] = (h[0] & 0xf0) | OP_PONG;
    return size;
}

/* Unmask payload: eight bytes at a time, then what is left of it. */
static void unmask(peer *p, uint8_t *to, const uint8_t *from, size_t size) {
    uint8_t key[8];
    size_t i = 0;
    for (unsigned k = 0; k < 8; k++) {
        key[k] = p->header[1] & 128 ? p->header[p->header_size - 4 + ((p->turn + k) & 3)] : 0;
    }
    uint64_t wide, word;
    memcpy(&wide, key, 8);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, from + i, 8);
        word ^= wide;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++) to[i] = from[i] ^ key[i & 3];
    p->turn = (p->turn + size) & 3;
}

/* Send back the frames in data[0:size], whole or not. The echo is never longer than what came. */
static bool frames(peer *p, const uint8_t *data, size_t size) {
    size_t filled = 0;
    while (size) {
        if (p->header_size < 2 || p->header_size < header_length(p->header)) {
            p->header[p->header_size++] = *data++;
            size--;
            if (p->header_size < 2 || p->header_size < header_length(p->header)) continue;
            filled += frame_begin(p, out + filled);
        }
        size_t part = p->left < size ? p->left : size;
        if ((p->header[0] & 15) != OP_PONG) {
            unmask(p, out + filled, data, part);
            filled += part;
        }
        data += part;
        size -= part;
        p->left -= part;
        if (p->left) break;
        p->header_size = 0;
        if (p->closing) break;
    }
    if (filled && !give(p, out, filled)) return false;
    return !(p->closing && !p->left && !p->rest);
}

static bool answer(peer *p, const char *key) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t sum[SHA_DIGEST_LENGTH], accept[32];
    char text[256];
    snprintf(text, sizeof text, "%.24s%s", key, guid);
    SHA1((uint8_t *)text, strlen(text), sum);
    EVP_EncodeBlock(accept, sum, sizeof sum);
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    p->open = true;
    return give(p, (uint8_t *)text, size);
}

static bool handshake(peer *p, const uint8_t *data, size_t size) {
    if (p->head_size + size > HEAD_MAX) return false;
    p->head = must(realloc(p->head, HEAD_MAX + 1));
    memcpy(p->head + p->head_size, data, size);
    p->head_size += size;
    p->head[p->head_size] = 0;
    char *stop = strstr(p->head, "\r\n\r\n"), *key = strcasestr(p->head, "\r\nsec-websocket-key:");
    if (!stop) return true;
    if (!key) return false;
    key += strlen("\r\nsec-websocket-key:");
    if (!answer(p, key + strspn(key, " "))) return false;
    stop += 4;
    char *head = p->head;
    p->head = NULL;
    bool alive = frames(p, (uint8_t *)stop, head + p->head_size - stop);
    free(head);
    return alive;
}

static bool serve(peer *p, uint32_t events) {
    if (p->rest) return !(events & (EPOLLERR | EPOLLHUP)) && give_rest(p);
    ssize_t size = recv(p->fd, in, sizeof in, 0);
    if (size < 0) return errno == EAGAIN;
    if (size == 0) return false;
    return p->open ? frames(p, in, size) : handshake(p, in, size);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: echo PORT\n");
        return 2;
    }
    prepare();
    int listener = listen_on(atoi(argv[1]));
    struct epoll_event events[EVENTS];
    epoll = epoll_create1(0);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            peer *p = events[i].data.ptr;
            if (p) {
                if (!serve(p, events[i].events)) end(p);
                continue;
            }
            for (int fd, k = 0; k < ACCEPTS && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0; k++) {
                no_delay(fd);
                p = must(calloc(1, sizeof *p));
                p->fd = fd;
                watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, p);
            }
        }
    }
}
