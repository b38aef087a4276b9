/* The floor of the bench: a relay that reads no byte of what it carries.
 *
 *   floor PORT UPSTREAM_PORT copy|splice
 *
 * One thread, loopback only: no HTTP, no frames, no limits. `copy` moves bytes through one buffer,
 * `splice` through a pipe a direction. What a proxy costs above the cheaper of the two is what the
 * proxy adds. Bytes that a socket would not take wait, and the other side is not read meanwhile. */
#include "common.h"

enum { PIPE = 1 << 20 };

typedef struct side {
    int fd;
    int pipe[2];       /* splice: what was read here and not yet written there */
    size_t held;       /* bytes of ours that the other side did not take yet */
    uint8_t *rest;     /* copy: those bytes */
    struct side *other;
    bool gone;
} side;

static int epoll;
static uint8_t scratch[SCRATCH];
static bool splicing;
static side *dead[2 * EVENTS]; /* freed when no event of this turn can name them */
static int dead_count;

static void interest(side *s) {
    uint32_t events = (s->held ? 0 : EPOLLIN) | (s->other->held ? EPOLLOUT : 0);
    watch(epoll, EPOLL_CTL_MOD, s->fd, events, s);
}

/* Write what is held of `s` to the other side. False when that has gone. */
static bool push(side *s) {
    while (s->held) {
        ssize_t sent = splicing ? splice(s->pipe[0], NULL, s->other->fd, NULL, s->held, SPLICE_F_NONBLOCK)
                                : send(s->other->fd, s->rest, s->held, 0);
        if (sent < 0) return errno == EAGAIN;
        s->held -= sent;
        if (!splicing) memmove(s->rest, s->rest + sent, s->held);
    }
    free(s->rest);
    s->rest = NULL;
    return true;
}

static ssize_t take(side *s) {
    if (splicing) {
        ssize_t size = splice(s->fd, NULL, s->pipe[1], NULL, PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (size > 0) s->held = size;
        return size > 0 && !push(s) ? 0 : size;
    }
    ssize_t size = recv(s->fd, scratch, sizeof scratch, 0);
    if (size <= 0) return size;
    ssize_t sent = send(s->other->fd, scratch, size, 0);
    if (sent < 0 && errno != EAGAIN) return 0;
    if (sent < 0) sent = 0;
    if (sent < size) {
        s->held = size - sent;
        s->rest = must(malloc(s->held));
        memcpy(s->rest, scratch + sent, s->held);
    }
    return size;
}

static bool serve(side *s, uint32_t events) {
    bool held = s->held || s->other->held;
    if (events & EPOLLOUT && !push(s->other)) return false;
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP) && !s->held) {
        ssize_t size = take(s);
        if (size == 0 || (size < 0 && errno != EAGAIN)) return false;
    }
    if (held || s->held || s->other->held) {
        interest(s);
        interest(s->other);
    }
    return true;
}

static void end(side *s) {
    s->gone = true;
    close(s->fd);
    free(s->rest);
    if (splicing) {
        close(s->pipe[0]);
        close(s->pipe[1]);
    }
    dead[dead_count++] = s;
}

static void begin(int fd, int upstream_port) {
    struct sockaddr_in upstream = loopback(upstream_port);
    side *pair[2] = {must(calloc(1, sizeof(side))), must(calloc(1, sizeof(side)))};
    pair[0]->fd = fd;
    pair[1]->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(pair[1]->fd, (struct sockaddr *)&upstream, sizeof upstream)) {
        for (int i = 0; i < 2; i++) {
            close(pair[i]->fd);
            free(pair[i]);
        }
        return;
    }
    fcntl(pair[1]->fd, F_SETFL, O_NONBLOCK);
    for (int i = 0; i < 2; i++) {
        side *s = pair[i];
        s->other = pair[!i];
        no_delay(s->fd);
        if (splicing && pipe2(s->pipe, O_NONBLOCK)) die("pipe");
        watch(epoll, EPOLL_CTL_ADD, s->fd, EPOLLIN, s);
    }
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: floor PORT UPSTREAM_PORT copy|splice\n");
        return 2;
    }
    prepare();
    splicing = !strcmp(argv[3], "splice");
    int listener = listen_on(atoi(argv[1]));
    struct epoll_event events[EVENTS];
    epoll = epoll_create1(0);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            side *s = events[i].data.ptr;
            if (!s) {
                for (int fd, k = 0; k < ACCEPTS && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0; k++)
                    begin(fd, atoi(argv[2]));
            } else if (!s->gone && !serve(s, events[i].events)) {
                end(s->other);
                end(s);
            }
        }
        while (dead_count) free(dead[--dead_count]);
    }
}
