/* A model server that costs next to nothing: midm's POST /chat/stream, SSE over
 * HTTP/1.1, one chunk per event, `accumulated` growing as on the real wire.  The
 * text of a turn is made and escaped when it is asked for; an event is a copy of
 * a piece of it.  One thread, one epoll, a heap of due times on a timerfd.
 *
 *   upstream PORT STAMPFILE [--lose I]
 *
 * What to stream is read from the LAST "#midm ..." marker in the request body.
 * us=0 means as fast as the socket takes it.  --lose leaves token I of every turn
 * out: a fault that a measurement has to notice.
 */
#include "common.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

typedef struct {
    int fd, heap_pos, next, streaming, want_out, cap_ends;
    Turn turn;
    uint64_t due;
    Buf in, out, text; /* text: all of the turn's, JSON-escaped */
    uint32_t *ends;    /* ends[i]: where token i ends in it */
    size_t out_pos;
} Conn;

static int ep, lose = -1;
static uint64_t *stamps;
static Conn **heap;
static int nheap, capheap;

static void heap_swap(int a, int b) {
    Conn *t = heap[a];
    heap[a] = heap[b];
    heap[b] = t;
    heap[a]->heap_pos = a;
    heap[b]->heap_pos = b;
}
static void heap_up(int i) {
    while (i && heap[(i - 1) / 2]->due > heap[i]->due) heap_swap(i, (i - 1) / 2), i = (i - 1) / 2;
}
static void heap_down(int i) {
    for (;;) {
        int l = 2 * i + 1, m = i;
        if (l < nheap && heap[l]->due < heap[m]->due) m = l;
        if (l + 1 < nheap && heap[l + 1]->due < heap[m]->due) m = l + 1;
        if (m == i) return;
        heap_swap(i, m);
        i = m;
    }
}
static void heap_push(Conn *c) {
    if (nheap == capheap) heap = realloc(heap, sizeof(Conn *) * (size_t)(capheap = capheap ? capheap * 2 : 1024));
    c->heap_pos = nheap;
    heap[nheap++] = c;
    heap_up(c->heap_pos);
}
static void heap_remove(Conn *c) {
    int i = c->heap_pos;
    if (i < 0) return;
    heap_swap(i, nheap - 1);
    nheap--;
    c->heap_pos = -1;
    if (i < nheap) heap_down(i), heap_up(i);
}

static void conn_close(Conn *c) {
    heap_remove(c);
    close(c->fd);
    free(c->in.p);
    free(c->out.p);
    free(c->text.p);
    free(c->ends);
    free(c);
}

static int flush_out(Conn *c) { /* 1 drained, 0 blocked, -1 dead */
    while (c->out_pos < c->out.len) {
        ssize_t n = send(c->fd, c->out.p + c->out_pos, c->out.len - c->out_pos, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) return -1;
            if (!c->want_out) {
                struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
                epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
                c->want_out = 1;
            }
            return 0;
        }
        c->out_pos += (size_t)n;
    }
    c->out.len = c->out_pos = 0;
    if (c->want_out) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
        c->want_out = 0;
    }
    return 1;
}

static void chunk_begin(Conn *c, size_t *mark) {
    buf_str(&c->out, "00000000\r\n"); /* room for the size, closed up below */
    *mark = c->out.len;
}
static void chunk_end(Conn *c, size_t mark) {
    char head[12];
    size_t len = c->out.len - mark;
    size_t n = (size_t)snprintf(head, sizeof head, "%x\r\n", (unsigned)len);
    memcpy(c->out.p + mark - 10, head, n);
    memmove(c->out.p + mark - 10 + n, c->out.p + mark, len);
    c->out.len -= 10 - n;
    buf_str(&c->out, "\r\n");
}

static void add_stream_head(Conn *c) {
    buf_str(&c->out, "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 11:14:10 GMT\r\nserver: uvicorn\r\ncache-control: no-cache\r\n"
                     "connection: keep-alive\r\nx-accel-buffering: no\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                     "vary: Origin\r\ntransfer-encoding: chunked\r\n\r\n");
}

static void add_token(Conn *c, int i) {
    char count[48];
    size_t begin = i ? c->ends[i - 1] : 0, m;
    chunk_begin(c, &m);
    buf_str(&c->out, "data: {\"type\": \"chunk\", \"content\": \"");
    buf_add(&c->out, c->text.p + begin, c->ends[i] - begin);
    buf_str(&c->out, "\", \"accumulated\": \"");
    buf_add(&c->out, c->text.p, c->ends[i]);
    buf_add(&c->out, count, (size_t)snprintf(count, sizeof count, "\", \"token_count\": %d}\n\n", i + 1));
    chunk_end(c, m);
}

static void add_ending(Conn *c) {
    char count[48];
    size_t m;
    chunk_begin(c, &m);
    buf_str(&c->out, "data: {\"type\": \"complete\", \"full_response\": \"");
    buf_add(&c->out, c->text.p, c->text.len);
    buf_add(&c->out, count, (size_t)snprintf(count, sizeof count, "\", \"total_tokens\": %d}\n\n", c->turn.tokens));
    chunk_end(c, m);
    chunk_begin(c, &m);
    buf_str(&c->out, "data: [DONE]\n\n");
    chunk_end(c, m);
    buf_str(&c->out, "0\r\n\r\n");
}

static void put_event(Conn *c) { /* adds event number c->next: start, tokens..., complete and DONE */
    size_t m;
    if (c->next < 0) {
        add_stream_head(c);
        chunk_begin(c, &m);
        buf_str(&c->out, "data: {\"type\": \"start\", \"message\": \"Stream started\"}\n\n");
        chunk_end(c, m);
    } else if (c->next < c->turn.tokens) {
        if (c->next != lose) add_token(c, c->next);
        if (c->turn.slot < MAX_SLOTS && c->next < STAMP_TOKENS)
            __atomic_store_n(&stamps[(size_t)c->turn.slot * STAMP_TOKENS + (size_t)c->next], now_ns(), __ATOMIC_RELEASE);
    } else {
        add_ending(c);
        c->streaming = 0;
    }
    c->next++;
}

static void prepare(Conn *c) {
    char tmp[48];
    if (c->turn.tokens > c->cap_ends) {
        c->cap_ends = c->turn.tokens;
        c->ends = realloc(c->ends, sizeof *c->ends * (size_t)c->cap_ends);
        if (!c->ends) die("realloc");
    }
    c->text.len = 0;
    for (int i = 0; i < c->turn.tokens; i++) {
        buf_json(&c->text, token_text(&c->turn, i, tmp));
        c->ends[i] = (uint32_t)c->text.len;
    }
}

static int pump(Conn *c);

static int on_request(Conn *c, size_t head, size_t body) {
    const char *b = c->in.p + head, *end = b + body;
    if (!memcmp(c->in.p, "GET ", 4)) {
        buf_str(&c->out, "HTTP/1.1 200 OK\r\ncontent-length: 135\r\ncontent-type: application/json\r\n\r\n"
                         "{\"status\":\"healthy\",\"model_loaded\":true,\"embedding_model_loaded\":true,\"embedding_dimensions\":768,"
                         "\"device\":\"cpu\",\"cuda_available\":false}");
        return flush_out(c) < 0 ? -1 : 0;
    }
    const char *q = b, *last = NULL;
    while ((q = memmem(q, (size_t)(end - q), "#midm ", 6))) last = q, q += 6;
    if (!last) last = b;
    c->turn.slot = int_after(last, end, "slot=", MAX_SLOTS);
    c->turn.turn = int_after(last, end, "turn=", 0);
    c->turn.tokens = int_after(last, end, "tokens=", 256);
    c->turn.us = int_after(last, end, " us=", 20000);
    c->turn.ttft_us = int_after(last, end, "ttft=", 0);
    c->next = -1;
    c->streaming = 1;
    prepare(c);
    c->due = now_ns();
    put_event(c);
    if (flush_out(c) < 0) return -1;
    if (c->turn.us) {
        c->due += (uint64_t)c->turn.ttft_us * 1000;
        heap_push(c);
        return 0;
    }
    return pump(c);
}

static int pump(Conn *c) { /* us=0: fill the socket until it blocks */
    while (c->streaming && c->turn.us == 0) {
        while (c->streaming && c->out.len < 16384) put_event(c);
        int r = flush_out(c);
        if (r <= 0) return r;
    }
    return 0;
}

static int on_input(Conn *c) {
    for (;;) {
        buf_need(&c->in, 16384);
        ssize_t n = recv(c->fd, c->in.p + c->in.len, c->in.cap - c->in.len, 0);
        if (n == 0) return -1;
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        c->in.len += (size_t)n;
        char *h = memmem(c->in.p, c->in.len, "\r\n\r\n", 4);
        if (!h || c->streaming) continue;
        size_t head = (size_t)(h - c->in.p) + 4, body = 0;
        for (char *l = c->in.p; l < h; l++)
            if (!strncasecmp(l, "\r\ncontent-length:", 17)) body = (size_t)atoi(l + 17);
        if (c->in.len < head + body) continue;
        int r = on_request(c, head, body);
        buf_drop(&c->in, head + body);
        if (r < 0) return r;
    }
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: upstream PORT STAMPFILE [--lose I]\n"), 2;
    if (argc > 4 && !strcmp(argv[3], "--lose")) lose = atoi(argv[4]);
    stamps = stamps_open(argv[2], 1);
    signal(SIGPIPE, SIG_IGN);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) die("listen");
    ep = epoll_create1(0);
    int tfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &ls};
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    e.data.ptr = &tfd;
    epoll_ctl(ep, EPOLL_CTL_ADD, tfd, &e);
    uint64_t armed = 0;
    struct epoll_event ev[256];
    for (;;) {
        uint64_t want = nheap ? heap[0]->due : 0;
        if (want != armed) {
            struct itimerspec it = {.it_value = {.tv_sec = (time_t)(want / 1000000000ull), .tv_nsec = (long)(want % 1000000000ull)}};
            timerfd_settime(tfd, TFD_TIMER_ABSTIME, &it, NULL);
            armed = want;
        }
        int n = epoll_wait(ep, ev, 256, -1);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.ptr == &ls) {
                for (;;) {
                    int fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK);
                    if (fd < 0) break;
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    Conn *c = calloc(1, sizeof *c);
                    c->fd = fd;
                    c->heap_pos = -1;
                    struct epoll_event ce = {.events = EPOLLIN, .data.ptr = c};
                    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ce);
                }
            } else if (ev[i].data.ptr == &tfd) {
                uint64_t x;
                if (read(tfd, &x, 8) < 0) continue;
                armed = 0;
            } else {
                Conn *c = ev[i].data.ptr;
                int r = 0;
                if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) r = on_input(c);
                if (r >= 0 && (ev[i].events & EPOLLOUT)) {
                    r = flush_out(c);
                    if (r > 0) r = pump(c);
                }
                if (r < 0) conn_close(c);
            }
        }
        uint64_t t = now_ns();
        while (nheap && heap[0]->due <= t) {
            Conn *c = heap[0];
            put_event(c);
            if (c->streaming) {
                c->due += (uint64_t)c->turn.us * 1000;
                heap_down(0);
            } else heap_remove(c);
            if (flush_out(c) < 0) conn_close(c);
        }
    }
}
