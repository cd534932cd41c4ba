// Every function of the C interface, by what the standards say of it. Ends with "all is well", or at the first line that fails.
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

// The compiler knows what these functions do, and would leave calls out.
static void *volatile sink;
static void *kept(void *object) {
    sink = object;
    return sink;
}
static volatile size_t huge = SIZE_MAX;
static const size_t page = 4096;

static int aligned(void *object, size_t align) { return (uintptr_t)object % align == 0; }

static void zero_bytes(void) {
    void *a = kept(malloc(0)), *b = kept(malloc(0));
    CHECK(a && b && a != b && malloc_usable_size(a) > 0);
    free(a);
    free(b);
    a = kept(calloc(0, 8));
    CHECK(a);
    CHECK(kept(realloc(a, 0)) == NULL);
    a = kept(realloc(NULL, 0));
    CHECK(a);
    free(a);
    free(kept(NULL));
    CHECK(malloc_usable_size(kept(NULL)) == 0);
}

static void no_memory(void) {
    errno = 0;
    CHECK(!kept(malloc(huge)) && errno == ENOMEM);
    errno = 0;
    CHECK(!kept(malloc(huge / 2 + 1)) && errno == ENOMEM);
    errno = 0;
    CHECK(!kept(calloc(huge / 2, 3)) && errno == ENOMEM);
    void *object = kept(malloc(10));
    memcpy(object, "stays here", 10);
    errno = 0;
    CHECK(!kept(realloc(object, huge / 2)) && errno == ENOMEM);
    errno = 0;
    CHECK(!kept(reallocarray(object, huge, 2)) && errno == ENOMEM);
    CHECK(memcmp(object, "stays here", 10) == 0);
    free(object);
    errno = 0;
    CHECK(!kept(aligned_alloc(64, huge - 5)) && errno == ENOMEM);
    errno = 0;
    CHECK(!kept(pvalloc(huge)) && errno == ENOMEM);
    errno = 5;
    CHECK(posix_memalign((void **)&sink, 64, huge) == ENOMEM && errno == 5);
}

static void contents(void) {
    for (size_t size = 1; size < 300000; size = size * 5 / 4 + 1) {
        unsigned char *object = kept(malloc(size));
        CHECK(aligned(object, 16) && malloc_usable_size(object) >= size);
        memset(object, 7, malloc_usable_size(object));
        object = kept(realloc(object, 2 * size));
        for (size_t i = 0; i < size; i++) CHECK(object[i] == 7);
        memset(object, 7, 2 * size);
        object = kept(reallocarray(object, size / 3 + 1, 1));
        for (size_t i = 0; i < size / 3 + 1; i++) CHECK(object[i] == 7);
        free(object);
        object = kept(calloc(size, 3));
        for (size_t i = 0; i < 3 * size; i++) CHECK(object[i] == 0);
        free(object);
    }
}

static void alignments(void) {
    for (size_t align = 8; align <= 1 << 20; align *= 2) {
        for (size_t size = 1; size < 100000; size = size * 7 + 3) {
            void *object = NULL;
            CHECK(posix_memalign(&object, align, size) == 0 && aligned(object, align));
            memset(object, 1, size);
            free(object);
            object = kept(aligned_alloc(align, size));
            CHECK(aligned(object, align) && malloc_usable_size(object) >= size);
            memset(object, 1, size);
            free(object);
            object = kept(memalign(align - 3, size));
            CHECK(aligned(object, align));
            object = kept(realloc(object, size * 2));
            free(object);
        }
    }
    void *object = kept(valloc(10));
    CHECK(aligned(object, page));
    free(object);
    object = kept(pvalloc(page + 1));
    CHECK(aligned(object, page) && malloc_usable_size(object) >= 2 * page);
    free(object);
    volatile size_t odd = 48;
    CHECK(posix_memalign((void **)&sink, odd, 8) == EINVAL);
    CHECK(posix_memalign((void **)&sink, 4, 8) == EINVAL);
    errno = 0;
    CHECK(!kept(aligned_alloc(odd, 96)) && errno == EINVAL);
}

static void errno_is_kept(void) {
    void *large = kept(malloc(64 << 20)), *small = kept(malloc(20));
    errno = EILSEQ;
    free(large);
    free(small);
    CHECK(errno == EILSEQ);
}

// A figure that rises by what is allocated shows whose malloc this is.
static void figures(void) {
    enum { N = 1000 };
    static void *objects[N];
    free(kept(malloc(64 << 20))); // Starts the scavenger, if what was freed before has made work for it: it has some memory, too.
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < N; i++) objects[i] = kept(malloc(1000));
    void *large = kept(malloc(10 << 20));
    struct mallinfo2 now = mallinfo2();
    CHECK(now.uordblks - before.uordblks >= N * 1000 + (10 << 20));
    CHECK(now.hblks == before.hblks + 1 && now.hblkhd - before.hblkhd >= 10 << 20);
    for (int i = 0; i < N; i++) free(objects[i]);
    free(large);
    struct mallinfo2 after = mallinfo2();
    CHECK(after.uordblks == before.uordblks && after.hblks == before.hblks);
    CHECK((size_t)mallinfo().uordblks == mallinfo2().uordblks);
    // The report goes to standard error, which is a pipe meanwhile.
    int ends[2], standard_error = dup(2);
    static char report[65536];
    CHECK(pipe(ends) == 0 && dup2(ends[1], 2) == 2);
    malloc_stats();
    CHECK(dup2(standard_error, 2) == 2);
    CHECK(read(ends[0], report, sizeof report - 1) > 500 && strstr(report, "small objects: spans") && strstr(report, "in use"));
}

static size_t resident(void) {
    size_t size = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%zu %zu", &size, &resident) == 2);
    fclose(file);
    return resident * page;
}

static void trim(void) {
    enum { N = 20000 };
    static void *objects[N];
    for (int i = 0; i < N; i++) memset(objects[i] = kept(malloc(1000)), 1, 1000);
    for (int i = 0; i < N; i++) free(objects[i]);
    size_t before = resident();
    CHECK(malloc_trim(0) == 1);
    CHECK(resident() + (size_t)N * 1000 / 2 < before);
}

// Threads that come and go, and free what others allocated.
static void *thread(void *from) {
    void **objects = from;
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 500; i++) {
            free(objects[i]);
            objects[i] = malloc((size_t)i * (round % 3 + 1) + 1);
            memset(objects[i], round, (size_t)i + 1);
        }
    return objects;
}

static void threads(void) {
    enum { N = 4 };
    static void *objects[N][500];
    for (int round = 0; round < 20; round++) {
        pthread_t id[N];
        for (int t = 0; t < N; t++) CHECK(pthread_create(&id[t], NULL, thread, objects[(t + round) % N]) == 0);
        for (int t = 0; t < N; t++) CHECK(pthread_join(id[t], NULL) == 0);
    }
    for (int t = 0; t < N; t++)
        for (int i = 0; i < 500; i++) free(objects[t][i]);
}

static int volatile stop;
static void *busy(void *unused) {
    while (!stop) free(kept(malloc(40000)));
    return unused;
}

// The child of a process whose other thread is at work in the allocator.
static void forks(void) {
    pthread_t id;
    CHECK(pthread_create(&id, NULL, busy, NULL) == 0);
    for (int i = 0; i < 50; i++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(30);
            void *objects[200];
            for (int j = 0; j < 200; j++) objects[j] = malloc((size_t)j * 500);
            for (int j = 0; j < 200; j++) free(objects[j]);
            _exit(0);
        }
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    stop = 1;
    CHECK(pthread_join(id, NULL) == 0);
}

static void at_exit(void) { free(kept(malloc(100))); }

int main(void) {
    CHECK(atexit(at_exit) == 0);
    zero_bytes();
    no_memory();
    contents();
    alignments();
    errno_is_kept();
    figures();
    trim();
    threads();
    forks();
    puts("all is well");
    return 0;
}
