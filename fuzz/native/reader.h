/* The C reader of shared files, `inbound_audit/readers/inbound_audit.h`, in a file of its own: its names are the core's. */
#ifndef FUZZ_READER_H
#define FUZZ_READER_H

#include <stddef.h>
#include <stdint.h>

/* What the reader counts in the bytes of a tree, of which `size` may be read. `bytes`: a packed address, 4 or 16. */
int64_t reader_count(const unsigned char *base, uint64_t size, const unsigned char *bytes, int v6, int length);

/* Opens the audit in a directory, counts, and closes it: with a mapping, or with pread. Returns the sum of the counts. */
int64_t reader_open_and_count(const char *directory, int map);

#endif
