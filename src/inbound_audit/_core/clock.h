/* The system's coarse clock: what the room `clock` declares. */
#ifndef INBOUND_AUDIT_CLOCK_H
#define INBOUND_AUDIT_CLOCK_H

#include <stdint.h>
#include <time.h>

#ifdef CLOCK_REALTIME_COARSE
#define IA_CLOCK CLOCK_REALTIME_COARSE
#else
#define IA_CLOCK CLOCK_REALTIME
#endif

/* The bound of a time in microseconds: the sum of two such times still fits. */
#define IA_MAX_TIME_US ((int64_t)1 << 59)

static inline int64_t ia_system_clock(void)
{
    struct timespec now;
    clock_gettime(IA_CLOCK, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

#endif
