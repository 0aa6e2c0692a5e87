/* The peers of gate_races.pyx: each connects, reads to the end, and closes. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static inline int races_listen(uint16_t *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof at;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 512) || getsockname(fd, (struct sockaddr *)&at, &size))
        return -1;
    *port = ntohs(at.sin_port);
    return fd;
}

/* Returns how many bytes the server has said, or -1. A server may reset a peer that it does not read. */
static inline int races_visit(uint16_t port, uint32_t host, int speaks)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000000u + host)}};
    char told[256];
    ssize_t got = -1;
    int sum = 0;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd >= 0 && !bind(fd, (struct sockaddr *)&from, sizeof from) && !connect(fd, (struct sockaddr *)&at, sizeof at)) {
        if (speaks)
            send(fd, told, 1, MSG_NOSIGNAL);
        while ((got = recv(fd, told, sizeof told, 0)) > 0)
            sum += (int)got;
    }
    if (got < 0 && errno == ECONNRESET)
        got = 0;
    close(fd);
    return got < 0 ? -1 : sum;
}
