/* Shared by the three programs: the deterministic text of a turn, the
 * emission-stamp file, clocks and small buffers.
 *
 * The prompt carries the experiment:  #midm slot=17 turn=0 tokens=256 us=20000 ttft=0#
 * Upstream and load generator both derive the very same token sequence from
 * (slot, turn, index), so the load generator can check every byte it is sent
 * without the two talking to each other.  Upstream writes the monotonic time at
 * which it emitted token i of a slot to a shared file; the load generator
 * subtracts, which gives the one-way lag of every single token.
 */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_SLOTS 16384
#define STAMP_TOKENS 1024 /* stamps kept per slot; later tokens get no lag sample */

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

/* Words as a Korean model streams them: spaces, punctuation, markdown, quotes,
 * a backslash, newlines, a tab, an emoji, a control character's neighbours. */
static const char *VOCAB[] = {
    "안녕", "하세요", " 저는", " 믿:음", "입니다", ".", " 오늘", " 날씨가", " 참", " 좋", "네요", "!",
    "\n", "\n\n", " 1.", " **중요**", ": ", "\"인용\"", " C:\\temp", " 코드", "는", " 다음과", " 같습니다", ",",
    " the", " model", " streams", " tokens", " (예", ")", " 😀", " —", " 가", "나", "다", "라",
    "\t", " 데이터", "베이스", " 연결", "을", " 확인", "해", " 주세요", " `ws.send()`", " 그리고", " 또한", " 마지막",
    "으로", " 2.", " 3.", " 결과", "가", " 나옵니다", " {\"k\": 1}", " é", " 中文", " 日本", "語", " 끝",
    "났", "습니다", " 감사", "합니다"};
#define NVOCAB ((int)(sizeof(VOCAB) / sizeof(VOCAB[0])))

typedef struct {
    int slot, turn, tokens, us, ttft_us;
} Turn;

/* Token i of a turn.  Token 0 names slot and turn, so that a frame delivered to
 * the wrong connection or left over from the previous turn is always noticed. */
static inline const char *token_text(const Turn *t, int i, char tmp[48]) {
    if (i == 0) {
        snprintf(tmp, 48, "[s%d/t%d]", t->slot, t->turn);
        return tmp;
    }
    uint32_t h = (uint32_t)(t->slot + 1) * 2654435761u ^ (uint32_t)(t->turn + 7) * 40503u ^ (uint32_t)i * 2246822519u;
    h ^= h >> 15;
    h *= 2654435769u;
    h ^= h >> 13;
    return VOCAB[h % NVOCAB];
}

typedef struct {
    char *p;
    size_t len, cap;
} Buf;

static inline void buf_need(Buf *b, size_t more) {
    if (b->len + more <= b->cap) return;
    size_t cap = b->cap ? b->cap : 256;
    while (cap < b->len + more) cap *= 2;
    b->p = realloc(b->p, cap);
    if (!b->p) die("realloc");
    b->cap = cap;
}
static inline void buf_add(Buf *b, const void *p, size_t n) {
    buf_need(b, n);
    memcpy(b->p + b->len, p, n);
    b->len += n;
}
static inline void buf_str(Buf *b, const char *s) { buf_add(b, s, strlen(s)); }
static inline void buf_drop(Buf *b, size_t n) {
    memmove(b->p, b->p + n, b->len - n);
    b->len -= n;
}

/* JSON string escaping as json.dumps(ensure_ascii=False) does it. */
static inline void buf_json(Buf *b, const char *s) {
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"') buf_str(b, "\\\"");
        else if (c == '\\') buf_str(b, "\\\\");
        else if (c == '\n') buf_str(b, "\\n");
        else if (c == '\r') buf_str(b, "\\r");
        else if (c == '\t') buf_str(b, "\\t");
        else if (c < 0x20) {
            char t[8];
            buf_add(b, t, (size_t)snprintf(t, 8, "\\u%04x", c));
        } else buf_add(b, s, 1);
    }
}

static inline int int_after(const char *p, const char *end, const char *key, int dflt) {
    const char *q = memmem(p, (size_t)(end - p), key, strlen(key));
    return q ? atoi(q + strlen(key)) : dflt;
}

static uint64_t *stamps_open(const char *path, int create) {
    size_t size = (size_t)MAX_SLOTS * STAMP_TOKENS * sizeof(uint64_t); /* sparse */
    int fd = open(path, create ? O_RDWR | O_CREAT : O_RDWR, 0600);
    if (fd < 0) die(path);
    if (create && ftruncate(fd, (off_t)size)) die("ftruncate");
    void *m = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED) die("mmap");
    close(fd);
    return m;
}
#endif
