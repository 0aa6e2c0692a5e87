/* One line of a change log, written by one system call: what the room `change_log` declares. */
#ifndef INBOUND_AUDIT_CHANGE_LOG_H
#define INBOUND_AUDIT_CHANGE_LOG_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define IA_MAX_KEY 4096
#define IA_MAX_PREFIX 128
#define IA_MAX_LINE (3 * IA_MAX_KEY + IA_MAX_PREFIX)

/* Writes a key percent-encoded, and returns the size of the result: at most three bytes for each of the first IA_MAX_KEY. */
static inline size_t ia_percent_encode(const char *key, size_t size, char *out)
{
    static const char digits[] = "0123456789ABCDEF";
    char *at = out;
    size_t i;
    for (i = 0; i < size && i < IA_MAX_KEY; i++) {
        unsigned char c = (unsigned char)key[i];
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-')
            *at++ = (char)c;
        else
            *at++ = '%', *at++ = digits[c >> 4], *at++ = digits[c & 15];
    }
    return (size_t)(at - out);
}

/* `encode`: the key is a text and is percent-encoded; otherwise it is an address of at most 63 bytes. Returns 0; or
   an error number if the line was not written whole: ENOSPC for the beginning of a line. */
static inline int ia_write_line(int fd, uint64_t log, uint64_t number, int64_t when, int64_t by, int removed,
                                const char *key, size_t size, int encode)
{
    char line[IA_MAX_LINE];
    int at = removed ? snprintf(line, IA_MAX_PREFIX, "%016llx %llu %lld remove ", (unsigned long long)log,
                                (unsigned long long)number, (long long)when)
                     : snprintf(line, IA_MAX_PREFIX, "%016llx %llu %lld %lld ", (unsigned long long)log,
                                (unsigned long long)number, (long long)when, (long long)by);
    size_t length = (size_t)at;
    ssize_t done;
    if (encode)
        length += ia_percent_encode(key, size, line + length);
    else {
        memcpy(line + length, key, size);
        length += size;
    }
    line[length++] = '\n';
    do
        done = write(fd, line, length);
    while (done < 0 && errno == EINTR);
    return done == (ssize_t)length ? 0 : done < 0 ? errno : ENOSPC;
}

#endif
