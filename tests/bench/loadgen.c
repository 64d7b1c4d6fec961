/* Load generator for a chat gateway: N concurrent WebSocket or SSE clients, each
 * running K turns of the upstream's deterministic text.  One thread, one epoll.
 * Every delta is compared with the expected bytes at the expected offset, whatever
 * the gateway's framing, so loss, reordering, duplication, cross-talk and damaged
 * escapes are all errors; merged deltas are fine.
 *
 * It connects, prints one line of JSON, waits for a line on stdin, runs, and prints
 * another line of JSON.  See usage() for the options.
 *
 * Templates may contain {prompt}, the "#midm ...#" marker that the gateway has to
 * pass on to the upstream, and {id}, what --ready-capture caught.
 */
#include "common.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static struct {
    int port, sub_port, conns, turns, tokens, us, ttft, ramp_ms, subs, sse, timeout_s, inflight, slot0, sources, churn_per_s, churn_ms;
    const char *path, *send, *only, *delta, *end, *error, *ready, *ready_capture, *stamps, *sub_path;
} o = {.conns = 1, .turns = 1, .tokens = 256, .us = 20000, .ramp_ms = -1, .timeout_s = 60, .inflight = 32, .path = "/ws"};

enum { CONNECTING, UPGRADING, READY_WAIT, IDLE, RUNNING, DONE_, CLOSING, FAILED };
enum { PRIMARY, SUBSCRIBER, CHURNER }; /* runs turns; only listens; comes and goes */

typedef struct {
    int fd, id, slot, role, state, next_tok, chunked, in_body;
    Turn turn;
    size_t off, body_left; /* bytes of text verified; length of an HTTP body that is not chunked */
    Buf in, out, ev, txt, text;
    uint32_t *ends; /* ends[i]: byte offset at which token i is complete */
    uint64_t t_conn, t_send, t_last;
    char ident[80];
} Conn;

typedef struct {
    uint32_t *v;
    size_t n, cap;
} Samples;
static void sample(Samples *s, uint64_t ns) {
    if (s->n == s->cap) s->v = realloc(s->v, (s->cap = s->cap ? s->cap * 2 : 65536) * sizeof *s->v);
    uint64_t u = ns / 100; /* tenths of a microsecond */
    s->v[s->n++] = u > UINT32_MAX ? UINT32_MAX : (uint32_t)u;
}
static int cmp_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}
static void print_samples(const char *name, Samples *s) {
    qsort(s->v, s->n, sizeof *s->v, cmp_u32);
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += s->v[i];
#define PCT(p) (s->n ? s->v[(size_t)((double)(s->n - 1) * (p))] / 10.0 : 0.0)
    printf(",\"%s\":{\"n\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", name, s->n,
           s->n ? sum / (double)s->n / 10 : 0.0, PCT(.5), PCT(.9), PCT(.99), PCT(.999), PCT(1));
}

static int ep;
static Conn *conns, *churners;
static uint64_t *stamps;
static Samples s_ready, s_ttft, s_gap, s_lag, s_sub_lag, s_turn, s_churn;
static uint64_t n_tokens, n_token_frames, n_bytes, n_turns_done, n_wire;
static uint64_t e_text, e_proto, e_gateway, e_closed, e_short;
static int n_idle, n_done, n_failed, n_churned, n_churn_failed;
static uint64_t t_first_send, t_last_token;
static char first_error[400];

static void note_error(const char *what, const char *p, size_t n) {
    if (!*first_error) snprintf(first_error, sizeof first_error, "%s: %.*s", what, (int)(n > 200 ? 200 : n), p);
}

static void set_state(Conn *c, int s) {
    if (c->state == s) return;
    if (c->role == CHURNER) {
        n_churned += s == DONE_;
        n_churn_failed += s == FAILED;
        c->state = s;
        return;
    }
    if (c->state == IDLE) n_idle--;
    if (s == IDLE) n_idle++;
    if (s == DONE_) n_done++;
    if (s == FAILED) n_failed++;
    c->state = s;
}

static void conn_fail(Conn *c, uint64_t *counter, const char *what) {
    if (c->state == FAILED || c->state == DONE_) return;
    if (c->role != CHURNER) (*counter)++;
    note_error(what, c->in.p ? c->in.p : "", c->in.len);
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    set_state(c, FAILED);
}

static void conn_end(Conn *c) {
    close(c->fd);
    c->fd = -1;
    set_state(c, DONE_);
}

static void flush_out(Conn *c) {
    while (c->out.len) {
        ssize_t n = send(c->fd, c->out.p, c->out.len, MSG_NOSIGNAL);
        if (n <= 0) {
            if (n < 0 && errno == EAGAIN) {
                struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
                epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
                return;
            }
            conn_fail(c, &e_closed, "send");
            return;
        }
        buf_drop(&c->out, (size_t)n);
    }
}

static void expand(Buf *b, const char *t, Conn *c) {
    char tmp[160];
    while (*t) {
        if (!strncmp(t, "{id}", 4)) buf_str(b, c->ident), t += 4;
        else if (!strncmp(t, "{prompt}", 8)) {
            snprintf(tmp, 160, "#midm slot=%d turn=%d tokens=%d us=%d ttft=%d#", c->slot, c->turn.turn, o.tokens, o.us, o.ttft);
            buf_str(b, tmp);
            t += 8;
        } else buf_add(b, t++, 1);
    }
}

static void ws_frame(Buf *b, int op, const char *p, size_t n) {
    static uint32_t seed = 12345;
    unsigned char h[14], m[4];
    size_t k = 2;
    h[0] = (unsigned char)(0x80 | op);
    if (n < 126) h[1] = (unsigned char)(0x80 | n);
    else h[1] = 0x80 | 126, h[2] = (unsigned char)(n >> 8), h[3] = (unsigned char)n, k = 4;
    seed = seed * 1664525 + 1013904223;
    memcpy(m, &seed, 4);
    memcpy(h + k, m, 4);
    buf_add(b, h, k + 4);
    buf_need(b, n);
    for (size_t i = 0; i < n; i++) b->p[b->len++] = (char)(p[i] ^ m[i & 3]);
}

static void http_post(Conn *c, const char *path, const char *body_template) {
    Buf body = {0}, p = {0};
    char h[400];
    expand(&body, body_template, c);
    expand(&p, path, c);
    buf_add(&p, "", 1);
    buf_add(&c->out, h, (size_t)snprintf(h, sizeof h, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", p.p, body.len));
    buf_add(&c->out, body.p, body.len);
    free(body.p);
    free(p.p);
    c->in_body = c->chunked = 0;
    c->ev.len = 0;
    flush_out(c);
}

static void ws_send_text(Conn *c, const char *template) {
    Buf b = {0};
    expand(&b, template, c);
    ws_frame(&c->out, 1, b.p, b.len);
    free(b.p);
    flush_out(c);
}

static void prepare_text(Conn *c) {
    char tmp[48];
    c->turn.slot = c->slot, c->turn.tokens = o.tokens, c->turn.us = o.us;
    if (!c->ends) c->ends = malloc(sizeof(uint32_t) * (size_t)o.tokens);
    c->text.len = 0;
    for (int i = 0; i < o.tokens; i++) {
        buf_str(&c->text, token_text(&c->turn, i, tmp));
        c->ends[i] = (uint32_t)c->text.len;
    }
    c->off = 0;
    c->next_tok = 0;
}

static void start_turn(Conn *c) {
    prepare_text(c);
    set_state(c, RUNNING);
    c->t_send = c->t_last = now_ns();
    if (!t_first_send) t_first_send = c->t_send;
    if (c->role == SUBSCRIBER) return;
    if (o.sse) http_post(c, o.path, o.send);
    else ws_send_text(c, o.send);
}

static void end_turn(Conn *c) {
    uint64_t t = now_ns();
    if (c->next_tok != o.tokens || c->off != c->text.len) {
        if (c->state == RUNNING && c->off < c->text.len) e_short++, note_error("turn ended short", c->in.p ? c->in.p : "", 0);
    }
    if (c->role == PRIMARY) sample(&s_turn, t - c->t_send);
    n_turns_done++;
    c->turn.turn++;
    if (c->turn.turn >= o.turns) {
        set_state(c, DONE_);
        return;
    }
    start_turn(c);
}

static void on_delta(Conn *c, const char *p, size_t n) { /* n unescaped bytes */
    uint64_t t = now_ns();
    n_token_frames++;
    if (c->off + n > c->text.len || memcmp(c->text.p + c->off, p, n)) {
        e_text++;
        note_error("text differs", p, n);
        return;
    }
    if (c->off == 0 && c->role == PRIMARY) sample(&s_ttft, t - c->t_send);
    else if (c->off) sample(&s_gap, t - c->t_last);
    c->t_last = t_last_token = t;
    c->off += n;
    n_bytes += n;
    while (c->next_tok < o.tokens && c->ends[c->next_tok] <= c->off) {
        if (stamps && c->next_tok < STAMP_TOKENS && c->slot < MAX_SLOTS) {
            uint64_t e = __atomic_load_n(&stamps[(size_t)c->slot * STAMP_TOKENS + (size_t)c->next_tok], __ATOMIC_ACQUIRE);
            if (e >= c->t_send && e <= t) sample(o.sub_port && c->role == SUBSCRIBER ? &s_sub_lag : &s_lag, t - e);
        }
        c->next_tok++;
        n_tokens++;
    }
}

/* Unescapes the JSON string starting at p (just after the quote) into c->txt;
 * returns the position after the closing quote, or NULL. */
static const char *json_string(Conn *c, const char *p, const char *end) {
    c->txt.len = 0;
    while (p < end && *p != '"') {
        if (*p != '\\') {
            const char *q = p;
            while (q < end && *q != '"' && *q != '\\') q++;
            buf_add(&c->txt, p, (size_t)(q - p));
            p = q;
            continue;
        }
        if (++p >= end) return NULL;
        char ch = *p++;
        const char *from = "\"\\/bfnrt", *to = "\"\\/\b\f\n\r\t", *f = strchr(from, ch);
        if (ch == 'u') {
            unsigned cp, lo;
            if (end - p < 4 || sscanf(p, "%4x", &cp) != 1) return NULL;
            p += 4;
            if (cp >= 0xd800 && cp < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' && sscanf(p + 2, "%4x", &lo) == 1)
                cp = 0x10000 + ((cp - 0xd800) << 10) + (lo - 0xdc00), p += 6;
            unsigned char u[4];
            size_t n = 0;
            if (cp < 0x80) u[n++] = (unsigned char)cp;
            else if (cp < 0x800) u[n++] = (unsigned char)(0xc0 | cp >> 6), u[n++] = (unsigned char)(0x80 | (cp & 63));
            else if (cp < 0x10000) u[n++] = (unsigned char)(0xe0 | cp >> 12), u[n++] = (unsigned char)(0x80 | (cp >> 6 & 63)), u[n++] = (unsigned char)(0x80 | (cp & 63));
            else u[n++] = (unsigned char)(0xf0 | cp >> 18), u[n++] = (unsigned char)(0x80 | (cp >> 12 & 63)), u[n++] = (unsigned char)(0x80 | (cp >> 6 & 63)), u[n++] = (unsigned char)(0x80 | (cp & 63));
            buf_add(&c->txt, u, n);
        } else if (f) buf_add(&c->txt, to + (f - from), 1);
        else return NULL;
    }
    return p < end ? p + 1 : NULL;
}

static const char *find(const char *p, const char *end, const char *needle) {
    return needle ? memmem(p, (size_t)(end - p), needle, strlen(needle)) : NULL;
}

static void capture_ident(Conn *c, const char *p, const char *end) {
    const char *q = find(p, end, o.ready_capture);
    size_t k = 0;
    if (!q) return;
    for (q += strlen(o.ready_capture); q < end && *q != '"' && k < sizeof c->ident - 1;) c->ident[k++] = *q++;
    c->ident[k] = 0;
}

static void on_ready(Conn *c) {
    uint64_t took = now_ns() - c->t_conn;
    if (c->role != CHURNER) {
        sample(&s_ready, took);
        set_state(c, IDLE);
        return;
    }
    sample(&s_churn, took);
    set_state(c, CLOSING);
    ws_frame(&c->out, 8, "\x03\xe8", 2); /* 1000, a normal end */
    flush_out(c);
}

static void on_message(Conn *c, const char *p, size_t n) { /* one WS text message or SSE event */
    const char *end = p + n, *q, *r;
    if (c->state == READY_WAIT) {
        if (!find(p, end, o.ready)) return;
        capture_ident(c, p, end);
        on_ready(c);
        return;
    }
    if (c->state != RUNNING && c->state != DONE_) return;
    if (find(p, end < p + 256 ? end : p + 256, o.error)) {
        e_gateway++;
        note_error("gateway error", p, n);
        if (c->state == RUNNING && !o.sse) end_turn(c);
        return;
    }
    if ((!o.only || find(p, end, o.only)) && (q = find(p, end, o.delta))) {
        q += strlen(o.delta);
        if ((r = json_string(c, q, end))) on_delta(c, c->txt.p, c->txt.len);
        else e_proto++, note_error("bad JSON string", p, n);
    }
    /* Over HTTP a turn ends with its response, else the next request would overtake the last chunk. */
    if (c->state == RUNNING && !o.sse && find(p, end < p + 512 ? end : p + 512, o.end)) end_turn(c);
}

/* --- WebSocket --------------------------------------------------------- */

static int port_of(Conn *c) { return c->role == SUBSCRIBER && o.sub_port ? o.sub_port : o.port; }

static void send_upgrade(Conn *c) {
    Buf p = {0};
    char h[600];
    expand(&p, c->role == SUBSCRIBER ? o.sub_path : o.path, c);
    buf_add(&p, "", 1);
    buf_add(&c->out, h, (size_t)snprintf(h, sizeof h,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", p.p, port_of(c)));
    free(p.p);
    set_state(c, UPGRADING);
    flush_out(c);
}

static void ws_input(Conn *c) {
    size_t pos = 0;
    if (c->state == UPGRADING) {
        char *h = memmem(c->in.p, c->in.len, "\r\n\r\n", 4);
        if (!h) return;
        if (c->in.len < 12 || memcmp(c->in.p, "HTTP/1.1 101", 12)) return conn_fail(c, &e_proto, "handshake");
        pos = (size_t)(h - c->in.p) + 4;
        if (o.ready) set_state(c, READY_WAIT);
        else on_ready(c);
    }
    while (c->fd >= 0 && c->in.len - pos >= 2) {
        unsigned char *f = (unsigned char *)c->in.p + pos;
        size_t head = 2, n = f[1] & 127;
        if (n == 126) head = 4;
        else if (n == 127) head = 10;
        if (c->in.len - pos < head) break;
        if (n == 126) n = (size_t)f[2] << 8 | f[3];
        else if (n == 127) {
            n = 0;
            for (int i = 2; i < 10; i++) n = n << 8 | f[i];
        }
        if (c->in.len - pos < head + n) break;
        int op = f[0] & 15, fin = f[0] & 128, rsv = f[0] & 112;
        const char *p = (const char *)f + head;
        pos += head + n;
        if (op == 8) {
            if (c->state == CLOSING) return conn_end(c);
            c->in.p[pos - n] = 0;
            return conn_fail(c, &e_closed, "close frame");
        }
        if (op == 9) {
            ws_frame(&c->out, 10, p, n);
            flush_out(c);
            continue;
        }
        if (op == 10) continue;
        if (!fin || rsv || (op != 1 && op != 2)) return conn_fail(c, &e_proto, "frame");
        on_message(c, p, n);
    }
    if (c->fd >= 0) buf_drop(&c->in, pos);
}

/* --- HTTP / SSE -------------------------------------------------------- */

static void sse_events(Conn *c) {
    size_t pos = 0;
    for (;;) {
        char *q = memmem(c->ev.p + pos, c->ev.len - pos, "\n\n", 2);
        if (!q) break;
        size_t n = (size_t)(q - c->ev.p) - pos;
        if (c->state == RUNNING) on_message(c, c->ev.p + pos, n);
        pos += n + 2;
    }
    buf_drop(&c->ev, pos);
}

static void http_done(Conn *c) {
    if (c->state == RUNNING) end_turn(c);
}

static void http_input(Conn *c) {
    for (;;) {
        if (!c->in_body) {
            char *h = memmem(c->in.p, c->in.len, "\r\n\r\n", 4);
            if (!h) return;
            if (c->in.len < 10 || c->in.p[9] != '2') return conn_fail(c, &e_gateway, "http status");
            c->chunked = 0;
            c->body_left = 0;
            for (char *l = c->in.p; l < h; l++) {
                if (!strncasecmp(l, "\r\ntransfer-encoding: chunked", 28)) c->chunked = 1;
                if (!strncasecmp(l, "\r\ncontent-length:", 17)) c->body_left = (size_t)atoi(l + 17);
            }
            c->in_body = 1;
            c->ev.len = 0;
            buf_drop(&c->in, (size_t)(h - c->in.p) + 4);
        }
        if (!c->chunked) {
            if (c->in.len < c->body_left) return;
            buf_add(&c->ev, c->in.p, c->body_left);
            buf_drop(&c->in, c->body_left);
            c->in_body = 0;
            return http_done(c);
        }
        size_t pos = 0;
        int last = 0;
        while (!last) {
            char *e = memmem(c->in.p + pos, c->in.len - pos, "\r\n", 2);
            if (!e) break;
            size_t n = strtoul(c->in.p + pos, NULL, 16), head = (size_t)(e - c->in.p) - pos + 2;
            if (c->in.len - pos < head + n + 2) break;
            buf_add(&c->ev, c->in.p + pos + head, n);
            pos += head + n + 2;
            last = n == 0;
        }
        buf_drop(&c->in, pos);
        if (c->state == RUNNING) sse_events(c);
        if (!last) return;
        c->in_body = 0;
        http_done(c);
        if (!c->in.len) return;
    }
}

/* --- sockets ----------------------------------------------------------- */

static void bind_source(Conn *c) {
    /* Different clients come from different addresses of the loopback network. */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl((uint32_t)(INADDR_LOOPBACK + 1 + c->id % o.sources))};
    int one = 1;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one); /* the port is chosen by connect(), for this peer */
    if (bind(c->fd, (void *)&a, sizeof a)) die("bind");
}

static void conn_open(Conn *c) {
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port_of(c)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (o.sources) bind_source(c);
    c->t_conn = now_ns();
    set_state(c, CONNECTING);
    if (connect(c->fd, (void *)&a, sizeof a) && errno != EINPROGRESS) return conn_fail(c, &e_closed, "connect");
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

static void on_connected(Conn *c) {
    int err = 0;
    socklen_t l = sizeof err;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
    if (err) return conn_fail(c, &e_closed, "connect");
    if (o.sse) on_ready(c);
    else send_upgrade(c);
}

static void on_event(Conn *c, uint32_t events) {
    if (c->fd < 0) return;
    if (events & EPOLLOUT) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
        if (c->state == CONNECTING) on_connected(c);
        else flush_out(c);
    }
    if (c->fd < 0 || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR))) return;
    for (int round = 0; round < 4; round++) {
        buf_need(&c->in, 65536);
        ssize_t n = recv(c->fd, c->in.p + c->in.len, c->in.cap - c->in.len, 0);
        if (n == 0) return c->state == CLOSING ? conn_end(c) : conn_fail(c, &e_closed, "closed by gateway");
        if (n < 0) {
            if (errno != EAGAIN) conn_fail(c, &e_closed, "recv");
            return;
        }
        c->in.len += (size_t)n;
        n_wire += (size_t)n;
        int full = c->in.len == c->in.cap;
        if (o.sse) http_input(c);
        else ws_input(c);
        if (c->fd < 0 || !full) break;
    }
    /* Ten thousand idle connections are not to hold a read buffer each. */
    if (c->fd < 0 || (!c->in.len && c->state == IDLE)) free(c->in.p), memset(&c->in, 0, sizeof c->in);
}

static void poll_once(int ms) {
    struct epoll_event ev[256];
    int n = epoll_wait(ep, ev, 256, ms);
    for (int i = 0; i < n; i++) on_event(ev[i].data.ptr, ev[i].events);
}

static int stdin_line(void) {
    char b[64];
    struct pollfd p = {.fd = 0, .events = POLLIN};
    if (poll(&p, 1, 0) <= 0) return 0;
    if (read(0, b, sizeof b) <= 0) exit(0);
    return 1;
}

static void usage(void) {
    fprintf(stderr,
            "loadgen --port P [--sse] --conns N --turns K --tokens T --us INTERVAL_US [--ttft US]\n"
            "  --path P --send TEMPLATE [--only M] --delta MARKER [--end MARKER] [--error M]\n"
            "  [--ready M [--ready-capture M]] [--subs N --sub-path P [--sub-port P]] [--churn-per-s N --churn-ms MS]\n"
            "  [--ramp-ms MS] [--inflight N] [--stamps FILE] [--timeout S] [--slot0 N] [--sources N]\n"
            "turns=0: connect, wait for a line, leave.  subs: connections that listen to each session,\n"
            "on another port with --sub-port; the lag of theirs is told apart then.\n"
            "churn: connections that come, wait for --ready and go while the turns run.\n"
            "sources: how many addresses, from 127.0.0.2 on, the clients come from.\n");
    exit(2);
}

static void parse_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        char *a = argv[i];
#define INT(name, field) if (!strcmp(a, "--" name) && i + 1 < argc) { o.field = atoi(argv[++i]); continue; }
#define STR(name, field) if (!strcmp(a, "--" name) && i + 1 < argc) { o.field = argv[++i]; continue; }
        if (!strcmp(a, "--sse")) { o.sse = 1; continue; }
        INT("port", port) INT("conns", conns) INT("turns", turns) INT("tokens", tokens) INT("us", us) INT("ttft", ttft)
        INT("ramp-ms", ramp_ms) INT("subs", subs) INT("sub-port", sub_port) INT("timeout", timeout_s) INT("inflight", inflight) INT("slot0", slot0)
        INT("sources", sources) INT("churn-per-s", churn_per_s) INT("churn-ms", churn_ms)
        STR("path", path) STR("send", send) STR("only", only) STR("delta", delta) STR("end", end) STR("error", error)
        STR("ready", ready) STR("ready-capture", ready_capture) STR("stamps", stamps) STR("sub-path", sub_path)
        fprintf(stderr, "unknown option %s\n", a);
        usage();
    }
    if (!o.port || !o.send || !o.delta || (!o.sse && !o.end) || (o.subs && !o.sub_path)) usage();
}

static Conn *make_conns(int n) {
    Conn *made = calloc((size_t)n + 1, sizeof *made);
    if (!made) die("calloc");
    for (int i = 0; i < n; i++) {
        made[i].fd = made[i].state = -1;
        made[i].id = i;
        made[i].slot = o.slot0 + i % o.conns; /* primaries first, then subscribers */
        made[i].role = i < o.conns ? PRIMARY : SUBSCRIBER;
    }
    return made;
}

static void print_first_error(void) { /* and the end of the line */
    for (char *p = first_error; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == '"' || *p == '\\' || (*p & 0x80)) *p = '.';
    printf(",\"first_error\":\"%s\"}\n", first_error);
}

static void connect_all(int total) {
    uint64_t t0 = now_ns(), deadline = t0 + (uint64_t)o.timeout_s * 1000000000ull;
    uint64_t t_subs = t0; /* when the first subscriber may come */
    int opened = 0;
    while (n_idle + n_failed < total && now_ns() < deadline) {
        /* A subscriber names its session, which the primary is told when it is ready. */
        int limit = n_idle + n_failed < o.conns ? o.conns : total;
        while (opened < limit && opened - n_idle - n_failed < o.inflight) {
            if (opened >= o.conns) memcpy(conns[opened].ident, conns[opened % o.conns].ident, sizeof conns->ident);
            conn_open(&conns[opened++]);
        }
        poll_once(10);
        if (opened <= o.conns) t_subs = now_ns();
    }
    double secs = (double)(now_ns() - t0) / 1e9, subs_secs = (double)(now_ns() - t_subs) / 1e9;
    printf("{\"event\":\"connected\",\"conns\":%d,\"failed\":%d,\"secs\":%.3f,\"per_s\":%.0f", n_idle, total - n_idle, secs, n_idle / secs);
    if (total > o.conns) printf(",\"subs_per_s\":%.0f", (total - o.conns) / subs_secs);
    print_samples("ready_us", &s_ready);
    print_first_error();
}

static void open_due_churners(uint64_t begin, int n, int *opened) {
    uint64_t t = now_ns();
    while (*opened < n && t >= begin + 1000000000ull * (uint64_t)*opened / (uint64_t)o.churn_per_s) {
        Conn *c = &churners[*opened];
        c->role = CHURNER;
        c->id = (*opened)++;
        conn_open(c);
    }
}

static void run_turns(int total, int churn_total) {
    /* Subscribers listen from the start; primaries begin spread over the ramp. */
    int ramp_ms = o.ramp_ms >= 0 ? o.ramp_ms : (o.us && o.conns > 1 ? 1000 : 0), next = 0, opened = 0;
    uint64_t begin = now_ns(), deadline = begin + (uint64_t)o.timeout_s * 1000000000ull;
    for (int i = o.conns; i < total; i++)
        if (conns[i].state == IDLE) start_turn(&conns[i]);
    while ((n_done + n_failed < total || n_churned + n_churn_failed < churn_total) && now_ns() < deadline) {
        uint64_t t = now_ns();
        while (next < o.conns && t >= begin + (uint64_t)ramp_ms * 1000000ull * (uint64_t)next / (uint64_t)o.conns) {
            if (conns[next].state == IDLE) start_turn(&conns[next]);
            next++;
        }
        open_due_churners(begin, churn_total, &opened);
        poll_once(next < o.conns || opened < churn_total ? 1 : 20);
    }
}

static double cpu_s(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void report(int total, int churn_total, double cpu) {
    int stuck = 0;
    for (int i = 0; i < total; i++) stuck += conns[i].state == RUNNING || conns[i].state == IDLE;
    double wall = (double)(t_last_token - t_first_send) / 1e9;
    uint64_t expect = (uint64_t)total * (uint64_t)o.turns * (uint64_t)o.tokens;
    int right = n_tokens == expect && !e_text && !e_proto && !e_gateway && !e_closed && !e_short && n_churned == churn_total;
    printf("{\"event\":\"result\",\"ok\":%s,\"tokens\":%lu,\"expected\":%lu,\"turns\":%lu,\"token_frames\":%lu,\"text_bytes\":%lu,\"wire_bytes\":%lu"
           ",\"wall_s\":%.4f,\"stuck\":%d,\"failed\":%d,\"client_cpu_s\":%.4f",
           right ? "true" : "false", n_tokens, expect, n_turns_done, n_token_frames, n_bytes, n_wire, wall, stuck, n_failed, cpu);
    printf(",\"errors\":{\"text\":%lu,\"protocol\":%lu,\"gateway\":%lu,\"closed\":%lu,\"short\":%lu,\"churn\":%d}", e_text, e_proto, e_gateway,
           e_closed, e_short, churn_total - n_churned);
    print_samples("ttft_us", &s_ttft);
    print_samples("gap_us", &s_gap);
    print_samples("lag_us", &s_lag);
    print_samples("sub_lag_us", &s_sub_lag);
    print_samples("turn_us", &s_turn);
    print_samples("churn_us", &s_churn);
    print_first_error();
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (o.stamps) stamps = stamps_open(o.stamps, 0);
    ep = epoll_create1(0);
    int total = o.conns * (1 + o.subs), churn_total = o.churn_per_s * o.churn_ms / 1000;
    conns = make_conns(total);
    churners = make_conns(churn_total);
    connect_all(total);
    while (!stdin_line()) poll_once(20);
    if (o.turns == 0) return 0;
    double cpu = cpu_s();
    run_turns(total, churn_total);
    report(total, churn_total, cpu_s() - cpu);
    return 0;
}
