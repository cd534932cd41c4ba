// A library with an allocator of its own and all C++ operators, as tcmalloc and jemalloc are: it ends the program that frees an
// object of another heap with it.
#include <cstddef>
#include <cstdint>
#include <new>

#include "check.h"

alignas(4096) static char heap[1 << 20];
static std::size_t used = 0;

static void *make(std::size_t size, std::size_t align = 16) {
    std::size_t start = (used + align - 1) & ~(align - 1);
    if (size > sizeof heap - start) return nullptr;
    used = start + size + 1;
    return heap + start;
}

static void *make_or_throw(std::size_t size, std::size_t align = 16) {
    void *object = make(size, align);
    if (!object) throw std::bad_alloc();
    return object;
}

static void end(void *object) {
    std::uintptr_t at = reinterpret_cast<std::uintptr_t>(object), start = reinterpret_cast<std::uintptr_t>(heap);
    CHECK(!object || (at >= start && at - start < sizeof heap));
}

using Align = std::align_val_t;
using Nothrow = const std::nothrow_t &;
using Size = std::size_t;

void *operator new(Size size) { return make_or_throw(size); }
void *operator new[](Size size) { return make_or_throw(size); }
void *operator new(Size size, Align align) { return make_or_throw(size, Size(align)); }
void *operator new[](Size size, Align align) { return make_or_throw(size, Size(align)); }
void *operator new(Size size, Nothrow) noexcept { return make(size); }
void *operator new[](Size size, Nothrow) noexcept { return make(size); }
void *operator new(Size size, Align align, Nothrow) noexcept { return make(size, Size(align)); }
void *operator new[](Size size, Align align, Nothrow) noexcept { return make(size, Size(align)); }

void operator delete(void *object) noexcept { end(object); }
void operator delete[](void *object) noexcept { end(object); }
void operator delete(void *object, Size) noexcept { end(object); }
void operator delete[](void *object, Size) noexcept { end(object); }
void operator delete(void *object, Nothrow) noexcept { end(object); }
void operator delete[](void *object, Nothrow) noexcept { end(object); }
void operator delete(void *object, Align) noexcept { end(object); }
void operator delete[](void *object, Align) noexcept { end(object); }
void operator delete(void *object, Size, Align) noexcept { end(object); }
void operator delete[](void *object, Size, Align) noexcept { end(object); }
void operator delete(void *object, Align, Nothrow) noexcept { end(object); }
void operator delete[](void *object, Align, Nothrow) noexcept { end(object); }
