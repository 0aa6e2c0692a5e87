/* The floor of `make bench-flood`: a server that accepts, sends one line and closes, and does nothing else. With an
   argument it sends nothing. Linux.

       flood [nothing]  prints its port, and answers each line on standard input with the seconds of processor time that it
                    has used; ends when standard input does */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64 };

static const char line[] = "421 4.7.0 connection limit exceeded\r\n";

static void check(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static void *tell_the_time(void *nothing)
{
    char asked[16];
    while (fgets(asked, sizeof asked, stdin)) {
        struct timespec used;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        printf("%.9f\n", used.tv_sec + used.tv_nsec * 1e-9);
        fflush(stdout);
    }
    exit(0);
    return nothing;
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    struct epoll_event event = {.events = EPOLLIN};
    pthread_t thread;
    int listening, epoll, i;
    const int says = argc == 1;
    (void)argv;
    check(listening = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
    check(bind(listening, (struct sockaddr *)&at, size), "bind");
    check(listen(listening, 1024), "listen");
    check(getsockname(listening, (struct sockaddr *)&at, &size), "getsockname");
    check(epoll = epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    check(epoll_ctl(epoll, EPOLL_CTL_ADD, listening, &event), "epoll_ctl");
    check(-pthread_create(&thread, NULL, tell_the_time, NULL), "pthread_create");
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    for (;;) {
        epoll_wait(epoll, &event, 1, -1);
        for (i = 0; i < BATCH; i++) {
            struct sockaddr_storage from;
            socklen_t length = sizeof from;
            int fd = accept4(listening, (struct sockaddr *)&from, &length, SOCK_CLOEXEC);
            if (fd < 0)
                break;
            if (says)
                send(fd, line, sizeof line - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
            close(fd);
        }
    }
}
