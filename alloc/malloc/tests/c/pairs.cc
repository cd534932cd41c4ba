// Each form of `new` with each form of `delete` that may free its object. Ends with "all is well", or at the first line that fails.
#include <malloc.h>
#include <new>

#include "check.h"

static const std::size_t size = 100;
static const std::align_val_t align{64};

static void *one() { return ::operator new(size); }
static void *one_quiet() { return ::operator new(size, std::nothrow); }
static void *many() { return ::operator new[](size); }
static void *many_quiet() { return ::operator new[](size, std::nothrow); }
static void *aligned_one() { return ::operator new(size, align); }
static void *aligned_one_quiet() { return ::operator new(size, align, std::nothrow); }
static void *aligned_many() { return ::operator new[](size, align); }
static void *aligned_many_quiet() { return ::operator new[](size, align, std::nothrow); }

static void end_one(void *object) { ::operator delete(object); }
static void end_one_sized(void *object) { ::operator delete(object, size); }
static void end_one_quiet(void *object) { ::operator delete(object, std::nothrow); }
static void end_many(void *object) { ::operator delete[](object); }
static void end_many_sized(void *object) { ::operator delete[](object, size); }
static void end_many_quiet(void *object) { ::operator delete[](object, std::nothrow); }
static void end_aligned_one(void *object) { ::operator delete(object, align); }
static void end_aligned_one_sized(void *object) { ::operator delete(object, size, align); }
static void end_aligned_one_quiet(void *object) { ::operator delete(object, align, std::nothrow); }
static void end_aligned_many(void *object) { ::operator delete[](object, align); }
static void end_aligned_many_sized(void *object) { ::operator delete[](object, size, align); }
static void end_aligned_many_quiet(void *object) { ::operator delete[](object, align, std::nothrow); }

struct Kind {
    void *(*makes[2])();
    void (*ends[3])(void *);
};

static const Kind kinds[] = {
    {{one, one_quiet}, {end_one, end_one_sized, end_one_quiet}},
    {{many, many_quiet}, {end_many, end_many_sized, end_many_quiet}},
    {{aligned_one, aligned_one_quiet}, {end_aligned_one, end_aligned_one_sized, end_aligned_one_quiet}},
    {{aligned_many, aligned_many_quiet}, {end_aligned_many, end_aligned_many_sized, end_aligned_many_quiet}},
};

int main() {
    for (const Kind &kind : kinds) {
        for (auto make : kind.makes) {
            for (auto end : kind.ends) {
                end(nullptr);
                std::size_t before = mallinfo2().uordblks;
                void *object = make();
                CHECK(object && mallinfo2().uordblks >= before + size);
                end(object);
                CHECK(mallinfo2().uordblks == before);
            }
        }
    }
    puts("all is well");
}
