// Frees start no thread: the C library frees under locks that making a thread needs. The next allocations start it. Ends with
// "all is well", or at the first line that fails.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "check.h"

static int threads(void) {
    struct stat tasks; // Reading the directory would allocate.
    CHECK(stat("/proc/self/task", &tasks) == 0);
    return (int)tasks.st_nlink - 2;
}

static void *objects[40000];

static void fill(size_t size, int n) {
    for (int i = 0; i < n; i++) memset(objects[i] = malloc(size), 1, size);
}

static void empty(int n) {
    for (int i = 0; i < n; i++) free(objects[i]);
}

int main(void) {
    fill(1000, 40000);
    empty(40000);
    CHECK(threads() == 1);
    fill(1000, 40000);
    CHECK(threads() == 2);
    empty(40000);
    puts("all is well");
    return 0;
}
