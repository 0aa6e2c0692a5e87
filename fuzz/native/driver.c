/* The common part of the native targets: one input, a failed check, and a target that uses a second of processor time.
 *
 * With -DREPLAY the program has its own main, and needs no libFuzzer: it runs the files that are named, or, after
 * `--random SEED COUNT`, inputs that it makes from a seed. */
#include "driver.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

enum { MAX_TICKS = 4 }; /* a quarter of a second of processor time each */

static volatile unsigned long executions;

/* Ends the process if one input has used a second of processor time: time that other programs take does not count. */
static void tick(int signal_number)
{
    static unsigned long seen;
    static int ticks;
    (void)signal_number;
    ticks = executions == seen ? ticks + 1 : 0;
    seen = executions;
    if (ticks > MAX_TICKS && executions)
        abort();
}

void expect(int holds, const char *property)
{
    if (holds)
        return;
    fprintf(stderr, "\nFAILED: %s\n", property);
    abort();
}

static void start_clock(void)
{
    const struct itimerval quarter = {{0, 250000}, {0, 250000}};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = tick;
    action.sa_flags = SA_RESTART;
    sigaction(SIGPROF, &action, NULL);
    setitimer(ITIMER_PROF, &quarter, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (executions == 0) {
        set_up();
        start_clock();
    }
    executions++;
    run(data, size);
    return 0;
}

#ifdef REPLAY

enum { MAX_SIZE = 1 << 16, MAX_RANDOM = 512, MAX_TEXT = 24 };

static int replay_file(const char *path)
{
    uint8_t *data = malloc(MAX_SIZE);
    FILE *file = fopen(path, "rb");
    size_t size;
    if (data == NULL || file == NULL) {
        perror(path);
        return 1;
    }
    size = fread(data, 1, MAX_SIZE, file);
    fclose(file);
    data = realloc(data, size ? size : 1); /* exactly as many bytes, so that a sanitizer sees a read after them */
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

static uint64_t next_random(uint64_t *state) /* xorshift64* */
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(2685821657736338717);
}

/* Every second input is made of the characters of addresses and prefixes, and is short. */
static void replay_random(uint64_t seed, unsigned long count)
{
    static const char letters[] = "00112579abf::::....//,%[]";
    uint8_t data[MAX_RANDOM];
    uint64_t state = seed * 2 + 1;
    while (count--) {
        const int text = (int)(count & 1);
        const size_t size = next_random(&state) % (text ? MAX_TEXT : MAX_RANDOM);
        size_t i;
        for (i = 0; i < size; i++) {
            const uint32_t drawn = (uint32_t)(next_random(&state) >> 32);
            data[i] = text && i > 0 ? (uint8_t)letters[drawn % (sizeof letters - 1)] : (uint8_t)drawn;
        }
        LLVMFuzzerTestOneInput(data, size);
    }
}

int main(int count, char **word)
{
    int i, failed = 0;
    if (count == 4 && strcmp(word[1], "--random") == 0)
        replay_random(strtoull(word[2], NULL, 10), strtoul(word[3], NULL, 10));
    else
        for (i = 1; i < count; i++)
            failed |= replay_file(word[i]);
    printf("%lu executions\n", executions);
    return failed;
}

#endif
