// A program that replaces the plain `new` and `delete` alone: all forms lead to its own. Ends with "all is well", or at the first
// line that fails.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "check.h"

static int made = 0, gone = 0;
static const std::size_t ahead = 16;

// What comes from here is no object of the heap, and must not be given to it.
void *operator new(std::size_t size) {
    char *object = static_cast<char *>(std::malloc(size + ahead));
    if (!object) throw std::bad_alloc();
    made++;
    return object + ahead;
}

void operator delete(void *object) noexcept {
    if (!object) return;
    gone++;
    std::free(static_cast<char *>(object) - ahead);
}

static void *volatile sink;
static void *kept(void *object) {
    sink = object;
    return sink;
}
static volatile std::size_t impossible = SIZE_MAX / 2;

int main() {
    ::operator delete(kept(::operator new(10)));
    CHECK(made == 1 && gone == 1);
    ::operator delete(kept(::operator new(10)), std::size_t(10));
    CHECK(made == 2 && gone == 2);
    ::operator delete(kept(::operator new(10, std::nothrow)), std::nothrow);
    CHECK(made == 3 && gone == 3);
    ::operator delete[](kept(::operator new[](10)));
    CHECK(made == 4 && gone == 4);
    ::operator delete[](kept(::operator new[](10)), std::size_t(10));
    CHECK(made == 5 && gone == 5);
    ::operator delete[](kept(::operator new[](10, std::nothrow)), std::nothrow);
    CHECK(made == 6 && gone == 6);
    CHECK(::operator new(impossible, std::nothrow) == nullptr && ::operator new[](impossible, std::nothrow) == nullptr);
    // Those with an alignment are others, and were not replaced.
    ::operator delete[](kept(::operator new[](10, std::align_val_t(64))), std::size_t(10), std::align_val_t(64));
    CHECK(made == 6 && gone == 6);
    std::puts("all is well");
}
