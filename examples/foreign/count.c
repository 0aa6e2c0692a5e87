/* How many sessions of a shared audit are open from a prefix, asked by a program that has no Python in it.
 *
 *     cc -I "$(python -c 'import inbound_audit.readers as r; print(r.header().parent)')" -o count count.c
 *     ./count mail 192.0.2.0/24 SMTP */
#include <inttypes.h>
#include <stdio.h>

#include "inbound_audit.h"

int main(int argc, char **argv)
{
    ia_error err;
    ia_handle *audit;
    int64_t count;
    if (argc < 3) {
        fprintf(stderr, "usage: %s NAME PREFIX [SERVICE]\n", argv[0]);
        return 2;
    }
    audit = ia_open(argv[1], 0, &err);
    if (audit == NULL) {
        fprintf(stderr, "%s: %s\n", argv[1], ia_strerror(err));
        return 1;
    }
    count = ia_count_text(audit, argc > 3 ? argv[3] : NULL, argv[2]);
    if (count >= 0)
        printf("%" PRId64 "\n", count);
    else
        fprintf(stderr, "%s: %s\n", argv[2], ia_strerror((ia_error)-count));
    ia_close(audit);
    return count < 0;
}
