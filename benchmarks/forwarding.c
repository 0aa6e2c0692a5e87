/* Both ends of a forwarder that is measured.

       forwarding serve                       prints its port; ends with its standard input
       forwarding connections PORT N          N connections, 16 at a time: a byte, an answer, and the end
       forwarding bytes PORT N                N bytes over four connections, read and dropped by the server

   Prints how many connections, or bytes, the server has answered. */

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { THREADS = 16, CHUNK = 1 << 17 };

static int listening;
static struct sockaddr_in place = {.sin_family = AF_INET};
static long wanted, done;
static int streams; /* bytes, not connections */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *serve(void *unused)
{
    char *buffer = malloc(CHUNK);
    int fd;
    while ((fd = accept(listening, NULL, NULL)) >= 0) {
        ssize_t got = recv(fd, buffer, 1, 0);
        if (got == 1 && buffer[0] == 'b') {
            long sum = 0;
            char text[32];
            while ((got = recv(fd, buffer, CHUNK, 0)) > 0)
                sum += got;
            got = send(fd, text, (size_t)snprintf(text, sizeof text, "%ld", sum), MSG_NOSIGNAL);
        } else if (got == 1)
            got = send(fd, "1", 1, MSG_NOSIGNAL);
        close(fd);
    }
    free(buffer);
    return unused;
}

static void once(char *buffer, long bytes)
{
    char text[32] = "";
    size_t at = 0;
    ssize_t got;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&place, sizeof place))
        fail("connect");
    if (send(fd, streams ? "b" : "c", 1, MSG_NOSIGNAL) != 1)
        fail("send");
    while (bytes > 0) {
        const ssize_t sent = send(fd, buffer, bytes < CHUNK ? (size_t)bytes : CHUNK, MSG_NOSIGNAL);
        if (sent <= 0)
            fail("send");
        bytes -= sent;
    }
    if (streams)
        shutdown(fd, SHUT_WR);
    while (at < sizeof text - 1 && (got = recv(fd, text + at, sizeof text - 1 - at, 0)) > 0)
        at += (size_t)got;
    __atomic_fetch_add(&done, atol(text), __ATOMIC_RELAXED);
    close(fd);
}

static void *drive(void *unused)
{
    char *buffer = calloc(1, CHUNK);
    if (streams)
        once(buffer, wanted / 4);
    else
        while (__atomic_fetch_sub(&wanted, 1, __ATOMIC_RELAXED) > 0)
            once(buffer, 0);
    free(buffer);
    return unused;
}

int main(int count, char **words)
{
    pthread_t thread[THREADS];
    int i, threads = THREADS;
    const int on = 1;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (count == 2 && strcmp(words[1], "serve") == 0) {
        socklen_t size = sizeof place;
        char byte;
        listening = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        if (bind(listening, (struct sockaddr *)&place, sizeof place) || listen(listening, 1024) ||
            getsockname(listening, (struct sockaddr *)&place, &size))
            fail("listen");
        for (i = 0; i < threads; i++)
            pthread_create(&thread[i], NULL, serve, NULL);
        printf("%d\n", ntohs(place.sin_port));
        fflush(stdout);
        while (read(0, &byte, 1) > 0) {
        }
        return 0;
    }
    if (count != 4)
        return 2;
    streams = strcmp(words[1], "bytes") == 0;
    place.sin_port = htons((uint16_t)atoi(words[2]));
    wanted = atol(words[3]);
    threads = streams ? 4 : THREADS;
    for (i = 0; i < threads; i++)
        pthread_create(&thread[i], NULL, drive, NULL);
    for (i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    printf("%ld\n", done);
    return 0;
}
