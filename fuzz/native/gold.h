/* Gold readers of addresses and prefixes: inet_pton, and the grammar written once more without the core. */
#ifndef FUZZ_GOLD_H
#define FUZZ_GOLD_H

#include <arpa/inet.h>
#include <stdint.h>
#include <string.h>

enum { GOLD_MAX = 4096 };

typedef struct gold_prefix {
    unsigned char byte[16]; /* four of them for IPv4; the bits after `length` are zero */
    int version, length;
} gold_prefix;

static inline int gold_width(int version) { return version == 4 ? 32 : 128; }

static inline int gold_is_mapped(const gold_prefix *p)
{
    static const unsigned char start[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255};
    return p->version == 6 && memcmp(p->byte, start, 12) == 0;
}

static inline void gold_unmap(gold_prefix *p)
{
    memmove(p->byte, p->byte + 12, 4);
    memset(p->byte + 4, 0, 12);
    p->version = 4;
    p->length -= 96;
}

static inline void gold_mask(gold_prefix *p)
{
    int bit;
    for (bit = p->length; bit < 128; bit++)
        p->byte[bit / 8] &= (unsigned char)~(0x80 >> bit % 8);
}

/* A zone id as RFC 4007 has it, without the characters of the grammar. */
static inline int gold_is_zone(const char *s, size_t n)
{
    size_t i;
    for (i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~' || strchr("%[]/", s[i]) != NULL)
            return 0;
    return n > 0;
}

/* One address by inet_pton, which is still IPv6 if it is mapped. Returns whether it is one. */
static inline int gold_raw(const char *s, size_t n, gold_prefix *out)
{
    char text[GOLD_MAX + 1];
    const char *zone;
    memset(out, 0, sizeof *out);
    if (n > GOLD_MAX || memchr(s, 0, n) != NULL)
        return 0;
    memcpy(text, s, n);
    text[n] = 0;
    out->version = strchr(text, ':') != NULL ? 6 : 4;
    out->length = gold_width(out->version);
    zone = out->version == 6 ? strchr(text, '%') : NULL;
    if (zone != NULL) {
        if (!gold_is_zone(zone + 1, strlen(zone + 1)))
            return 0;
        text[zone - text] = 0;
    }
    return inet_pton(out->version == 6 ? AF_INET6 : AF_INET, text, out->byte) == 1;
}

static inline int gold_address(const char *s, size_t n, gold_prefix *out)
{
    const int bracket = n >= 2 && s[0] == '[' && s[n - 1] == ']';
    if (!gold_raw(s + bracket, n - 2 * (size_t)bracket, out) || (bracket && out->version == 4))
        return 0;
    if (gold_is_mapped(out))
        gold_unmap(out);
    return 1;
}

/* The number of a text of digits alone, or -1. */
static inline int gold_number(const char *s, size_t n, int most)
{
    size_t i;
    int value = 0;
    for (i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return -1;
        value = value > most ? value : 10 * value + (s[i] - '0');
    }
    return n == 0 || value > most ? -1 : value;
}

/* The length of a netmask, or -1. */
static inline int gold_mask_length(const char *s, size_t n)
{
    gold_prefix mask;
    int length;
    if (!gold_raw(s, n, &mask) || mask.version != 4)
        return -1;
    for (length = 0; length <= 32; length++) {
        gold_prefix ones = {{255, 255, 255, 255}, 4, length};
        gold_mask(&ones);
        if (memcmp(ones.byte, mask.byte, 4) == 0)
            return length;
    }
    return -1;
}

static inline int gold_length(const char *s, size_t n, int version)
{
    const int length = gold_number(s, n, gold_width(version));
    return length < 0 && version == 4 ? gold_mask_length(s, n) : length;
}

static inline int gold_localhost(const char *s, size_t n, gold_prefix *out)
{
    const int length = n == 0 ? 32 : s[0] == '/' ? gold_number(s + 1, n - 1, 128) : -1;
    if (length < 0 || !gold_raw(length > 32 ? "::1" : "127.0.0.1", length > 32 ? 3 : 9, out))
        return 0;
    out->length = length;
    gold_mask(out);
    return 1;
}

/* Length 0 and no address stand for "no slash was there" in `tail`. */
static inline int gold_finish(gold_prefix *out, const char *tail, size_t n)
{
    if (tail != NULL) {
        out->length = gold_length(tail, n, out->version);
        if (out->length < 0)
            return 0;
    }
    if (gold_is_mapped(out) && out->length >= 96)
        gold_unmap(out);
    gold_mask(out);
    return 1;
}

/* A `cidr` argument that has an address. */
static inline int gold_absolute(const char *s, size_t n, gold_prefix *out)
{
    const char *slash = n ? memchr(s, '/', n) : NULL, *stop;
    size_t front = slash != NULL ? (size_t)(slash - s) : n;
    if (n >= 9 && memcmp(s, "localhost", 9) == 0)
        return gold_localhost(s + 9, n - 9, out);
    if (n == 0 || s[0] != '[')
        return gold_raw(s, front, out) && gold_finish(out, slash != NULL ? slash + 1 : NULL, slash != NULL ? n - front - 1 : 0);
    stop = memchr(s, ']', n);
    if (stop == NULL)
        return 0;
    if (slash == NULL || slash > stop) { /* [address] or [address]/length */
        if (!gold_raw(s + 1, (size_t)(stop - s) - 1, out) || out->version == 4)
            return 0;
        if (stop + 1 == s + n)
            return gold_finish(out, NULL, 0);
        return stop[1] == '/' && gold_finish(out, stop + 2, (size_t)(s + n - stop) - 2);
    }
    return stop + 1 == s + n && gold_raw(s + 1, front - 1, out) && out->version == 6
        && gold_finish(out, slash + 1, (size_t)(stop - slash) - 1);
}

/* The length that a text such as "/24" or "/24,/56" means for a peer of that version, or -1. */
static inline int gold_relative(const char *s, size_t n, int version)
{
    const char *comma = memchr(s, ',', n);
    int four, six, length;
    if (n == 0 || s[0] != '/')
        return -1;
    if (comma == NULL) {
        length = gold_number(s + 1, n - 1, 128);
        if (length == 32)
            return gold_width(version);
        return length > gold_width(version) ? -1 : length;
    }
    if ((size_t)(comma - s) + 1 >= n || comma[1] != '/')
        return -1;
    four = gold_number(s + 1, (size_t)(comma - s) - 1, 32);
    six = gold_number(comma + 2, (size_t)(s + n - comma) - 2, 128);
    return four < 0 || six < 0 ? -1 : version == 4 ? four : six;
}

#endif
