#include "reader.h"

#include "driver.h"
#include "inbound_audit/readers/inbound_audit.h"

int64_t reader_count(const unsigned char *base, uint64_t size, const unsigned char *bytes, int v6, int length)
{
    ia_section section;
    ia__prefix p = {0, 0, v6, length};
    int i;
    memset(&section, 0, sizeof section);
    section.base = base;
    section.stride = section.size = size;
    for (i = 0; i < (v6 ? 8 : 4); i++)
        p.hi |= (uint64_t)bytes[i] << (56 - 8 * i);
    for (i = 0; v6 && i < 8; i++)
        p.lo |= (uint64_t)bytes[8 + i] << (56 - 8 * i);
    return ia__tree_count(&section, &p);
}

int64_t reader_open_and_count(const char *directory, int map)
{
    static const char *const prefix[] = {"10.0.0.0/8", "10.1.0.0/20", "10.1.2.3", "2001:db8::/32", "2001:db8::/57",
                                         "2001:db8::7", "0.0.0.0/0", "::/0"};
    static const char *const service[] = {"SMTP", "Control", "inbound_cidr"};
    ia_error error = IA_OK;
    ia_handle *audit = ia_open(directory, map ? IA_MAP : IA_PREAD, &error);
    int64_t total = 0, count;
    size_t i, j;
    if (audit == NULL) {
        expect(error != IA_OK, "an audit that is not opened has a reason");
        return -(int64_t)error;
    }
    for (j = 0; j < 3; j++)
        for (i = 0; i < sizeof prefix / sizeof *prefix; i++) {
            count = ia_count_text(audit, service[j], prefix[i]);
            expect(count >= 0 || count == -(int64_t)audit->fault, "a count is a number, or the fault of the audit");
            total += count;
        }
    expect(ia_strerror(ia_refresh(audit)) != NULL, "a refresh ends");
    ia_close(audit);
    return total;
}
