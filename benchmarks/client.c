/* The SMTP client of the benchmarks where an interpreter would be what limits: one epoll loop, no allocation, Linux.

       client PORT CONNECTIONS IN_FLIGHT NAP_MICROSECONDS FIRST_ADDRESS 220 'QUIT' 221

   The dialogue is a list of reply codes and, between them, of what is sent after each (CRLF is added). A connection is:
   connect to 127.0.0.1, the dialogue, the server's end of the stream, close; then the next one takes its place. Each
   comes from another of 2^22 addresses, from the first one on. Without a dialogue the server has nothing to say: it ends
   the stream, or resets the connection.

   Makes CONNECTIONS and 2 x IN_FLIGHT more: what is measured begins when the first IN_FLIGHT are over and ends when as
   many are left, so that the server has had its full load all the while. Prints the seconds of that, and the seconds of
   processor time that the client has used in it.

   A connection is closed with a reset: its server has closed it already, and nothing is left to wait in TIME_WAIT, where
   the ten thousands of a run would be in the way of those that follow.

   The client sleeps a little between two polls of its sockets. A server that answers while no thread waits in epoll wakes
   none, and many answers are taken by one poll: that is what keeps the client's share of the processors small.

   Ends with status 1 and a line on standard error when a reply has another code, a connection breaks, or the server
   says nothing for SILENCE_MOST seconds. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { STEPS_MOST = 32, IN_FLIGHT_MOST = 4096, EVENTS = 256, REPLY_MOST = 2048, SILENCE_MOST = 20 };

typedef struct {
    int fd;
    int step;              /* the reply that is awaited; `steps` when all have come */
    size_t had;            /* bytes of that reply so far */
    char reply[REPLY_MOST];
} connection;

static connection table[IN_FLIGHT_MOST];
static const char *code[STEPS_MOST];
static char *line[STEPS_MOST];
static size_t length[STEPS_MOST];
static int steps;
static int epoll;
static struct sockaddr_in server;
static uint32_t first;

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void check(int result, const char *what)
{
    if (result < 0)
        fail("%s: %s", what, strerror(errno));
}

static double seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

static void begin(connection *it, unsigned number)
{
    /* The multiplier is odd, so each address comes once before any comes twice, and neighbours are far apart. */
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(first | ((number + 1) * 2654435761u & 0x3fffffu));
    int on = 1;
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = it};

    check(it->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
    check(setsockopt(it->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on), "IP_BIND_ADDRESS_NO_PORT");
    check(setsockopt(it->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset), "SO_LINGER");
    check(bind(it->fd, (struct sockaddr *)&source, sizeof source), "bind");
    if (connect(it->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, it->fd, &event), "epoll_ctl");
    it->step = 0;
    it->had = 0;
}

/* Whether the last of the reply's lines is there: "250 text" and not "250-text". */
static int complete(const connection *it)
{
    if (it->had < 5 || it->reply[it->had - 1] != '\n')
        return 0;
    const char *last = memrchr(it->reply, '\n', it->had - 1);
    last = last ? last + 1 : it->reply;
    return last[3] == ' ';
}

/* Takes what has come; 1 when the connection is over. */
static int advance(connection *it, unsigned events)
{
    ssize_t got;
    if (it->step == steps) { /* only the end of the stream may still come */
        got = recv(it->fd, it->reply, REPLY_MOST, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (got != 0 && (steps || errno != ECONNRESET))
            fail("after the last reply: %s", got < 0 ? strerror(errno) : "more");
        return 1;
    }
    got = recv(it->fd, it->reply + it->had, REPLY_MOST - it->had, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (got <= 0)
        fail("awaiting %s: %s", code[it->step], got < 0 ? strerror(errno) : "the server ended the connection");
    it->had += got;
    if (!complete(it)) {
        if (it->had == REPLY_MOST)
            fail("awaiting %s: the reply has no end", code[it->step]);
        return 0;
    }
    if (memcmp(it->reply, code[it->step], 3) != 0)
        fail("awaiting %s: %.*s", code[it->step], (int)it->had - 2, it->reply);
    it->had = 0;
    int step = it->step++;
    if (it->step == steps)
        return (events & EPOLLRDHUP) != 0; /* the end came along, and a look for it would find nothing else */
    if (send(it->fd, line[step], length[step], MSG_NOSIGNAL) != (ssize_t)length[step])
        fail("after %s: %s", code[step], strerror(errno));
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 6 || (argc > 6 && argc % 2 == 0) || (argc - 5) / 2 > STEPS_MOST)
        fail("usage: client PORT CONNECTIONS IN_FLIGHT NAP_MICROSECONDS FIRST_ADDRESS [CODE [LINE CODE]...]");
    unsigned number = strtoul(argv[2], NULL, 10), in_flight = strtoul(argv[3], NULL, 10), begun = 0, ended = 0;
    unsigned long microseconds = strtoul(argv[4], NULL, 10);
    struct timespec nap = {microseconds / 1000000, microseconds % 1000000 * 1000};
    if (in_flight > IN_FLIGHT_MOST)
        fail("at most %d connections at a time", IN_FLIGHT_MOST);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(strtoul(argv[1], NULL, 10))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    first = ntohl(inet_addr(argv[5]));
    for (int at = 6; at < argc; at += 2, steps++) {
        code[steps] = argv[at];
        if (strlen(code[steps]) != 3)
            fail("%s is no reply code", code[steps]);
        if (at + 1 < argc) {
            int written = asprintf(&line[steps], "%s\r\n", argv[at + 1]);
            check(written, "asprintf");
            length[steps] = written;
        }
    }
    check(epoll = epoll_create1(EPOLL_CLOEXEC), "epoll_create1");

    unsigned all = number + 2 * in_flight;
    double started = 0, used = 0, took = 0;
    for (; begun < in_flight; begun++)
        begin(&table[begun], begun);
    while (ended < all) {
        struct epoll_event events[EVENTS];
        if (microseconds)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
        int ready = epoll_wait(epoll, events, EVENTS, SILENCE_MOST * 1000);
        if (ready < 0 && errno == EINTR)
            continue;
        check(ready, "epoll_wait");
        if (ready == 0)
            fail("the server said nothing for %d s", SILENCE_MOST);
        for (int i = 0; i < ready; i++) {
            connection *it = events[i].data.ptr;
            if (!advance(it, events[i].events))
                continue;
            close(it->fd);
            ended++;
            if (ended == in_flight) {
                started = seconds(CLOCK_MONOTONIC);
                used = seconds(CLOCK_PROCESS_CPUTIME_ID);
            } else if (ended == in_flight + number) {
                took = seconds(CLOCK_MONOTONIC) - started;
                used = seconds(CLOCK_PROCESS_CPUTIME_ID) - used;
            }
            if (begun < all)
                begin(it, begun++);
        }
    }
    printf("%.6f %.6f\n", took, used);
    return 0;
}
