// For C and C++: ends the program with the line that fails.
#include <stdio.h>
#include <stdlib.h>

#define CHECK(what)                                                                                                            \
    do {                                                                                                                       \
        if (!(what)) {                                                                                                         \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what);                                                                 \
            exit(1);                                                                                                           \
        }                                                                                                                      \
    } while (0)
