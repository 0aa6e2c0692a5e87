/* What a native target and the common driver know of one another. */
#ifndef FUZZ_DRIVER_H
#define FUZZ_DRIVER_H

#include <stddef.h>
#include <stdint.h>

void set_up(void);                           /* the target's: once, before the first input */
void run(const uint8_t *data, size_t size);  /* the target's: one input */
void expect(int holds, const char *property); /* ends the process if a property does not hold */

#endif
