// A program that replaces `new[]` and `delete[]` with an alignment and without: the other forms for arrays lead to its own, and
// those for one object do not. Ends with "all is well", or at the first line that fails.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "check.h"

static int made = 0, gone = 0;
static const std::size_t ahead = 64;

// What comes from here is no object of the heap, and must not be given to it.
static void *make(std::size_t size) {
    char *object = size < SIZE_MAX / 4 ? static_cast<char *>(std::aligned_alloc(64, size + ahead)) : nullptr;
    if (!object) throw std::bad_alloc();
    made++;
    return object + ahead;
}

static void end(void *object) {
    if (!object) return;
    gone++;
    std::free(static_cast<char *>(object) - ahead);
}

static const std::align_val_t align{64};

void *operator new[](std::size_t size) { return make(size); }
void *operator new[](std::size_t size, std::align_val_t asked) {
    CHECK(asked == align);
    return make(size);
}
void operator delete[](void *object) noexcept { end(object); }
void operator delete[](void *object, std::align_val_t asked) noexcept {
    CHECK(asked == align);
    end(object);
}

static void *volatile sink;
static void *kept(void *object) {
    sink = object;
    return sink;
}
static volatile std::size_t impossible = SIZE_MAX / 2;

int main() {
    ::operator delete[](kept(::operator new[](10)), std::size_t(10));
    CHECK(made == 1 && gone == 1);
    ::operator delete[](kept(::operator new[](10, std::nothrow)), std::nothrow);
    CHECK(made == 2 && gone == 2);
    ::operator delete[](kept(::operator new[](10, align)), std::size_t(10), align);
    CHECK(made == 3 && gone == 3);
    ::operator delete[](kept(::operator new[](10, align, std::nothrow)), align, std::nothrow);
    CHECK(made == 4 && gone == 4);
    CHECK(::operator new[](impossible, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, align, std::nothrow) == nullptr);

    ::operator delete(kept(::operator new(10)), std::size_t(10));
    ::operator delete(kept(::operator new(10, std::nothrow)), std::nothrow);
    ::operator delete(kept(::operator new(10, align)), std::size_t(10), align);
    ::operator delete(kept(::operator new(10, align, std::nothrow)), align, std::nothrow);
    CHECK(made == 4 && gone == 4);
    std::puts("all is well");
}
