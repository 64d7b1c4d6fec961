/* Byte relay on epoll: accept, dial the upstream, copy both ways.  The kernel's share of any gateway,
 * where nginx is not installed.
 *
 *   relay LISTEN_PORT UPSTREAM_PORT */
#include "common.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
static int peer[65536], ep;
static void add(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
int main(int argc, char **argv) {
    if (argc < 3) return 2;
    signal(SIGPIPE, SIG_IGN);
    int ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, u = a;
    u.sin_port = htons((uint16_t)atoi(argv[2]));
    if (bind(ls, (void *)&a, sizeof a) || listen(ls, 4096)) die("listen");
    ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = ls}, ev[256];
    epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
    static char buf[262144];
    for (;;) {
        int n = epoll_wait(ep, ev, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = ev[i].data.fd;
            if (fd == ls) {
                int c;
                while ((c = accept4(ls, NULL, NULL, 0)) >= 0) {
                    int s = socket(AF_INET, SOCK_STREAM, 0);
                    if (connect(s, (void *)&u, sizeof u)) die("connect");
                    peer[c] = s, peer[s] = c;
                    add(c), add(s);
                }
                continue;
            }
            ssize_t k = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
            if (k < 0 && errno == EAGAIN) continue;
            if (k <= 0) {
                if (peer[fd]) { shutdown(peer[fd], SHUT_RDWR); peer[peer[fd]] = 0; }
                close(fd);
                continue;
            }
            for (ssize_t o = 0; o < k && peer[fd];) {
                ssize_t w = send(peer[fd], buf + o, (size_t)(k - o), MSG_NOSIGNAL);
                if (w <= 0) break;
                o += w;
            }
        }
    }
}
