// The C++ operators. Ends with "all is well", or at the first line that fails.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <malloc.h>
#include <map>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

struct alignas(256) Wide {
    char bytes[300];
};

static volatile std::size_t impossible = SIZE_MAX / 2;
static int handled = 0;

static void give_up() {
    if (++handled == 3) std::set_new_handler(nullptr);
}

static void give_up_at_once() {
    handled++;
    throw std::bad_alloc();
}

int main() {
    std::size_t before = mallinfo2().uordblks;
    {
        std::map<std::string, std::vector<int>> map;
        for (int i = 0; i < 10000; i++) map[std::to_string(i % 997)].push_back(i);
        CHECK(map.size() == 997 && map["0"].size() == 11);
        CHECK(mallinfo2().uordblks - before > 997 * 40);
        std::thread([&] { map.clear(); }).join();
    }
    Wide *one = new Wide, *many = new Wide[5];
    CHECK(reinterpret_cast<std::uintptr_t>(one) % 256 == 0 && reinterpret_cast<std::uintptr_t>(many) % 256 == 0);
    delete one;
    delete[] many;
    Wide *quiet = new (std::nothrow) Wide;
    CHECK(quiet && reinterpret_cast<std::uintptr_t>(quiet) % 256 == 0);
    delete quiet;
    CHECK(::operator new(impossible, std::nothrow) == nullptr);
    CHECK(::operator new[](impossible, std::align_val_t(64), std::nothrow) == nullptr);

    bool thrown = false;
    try {
        ::operator delete(::operator new(impossible));
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown);
    std::set_new_handler(give_up);
    thrown = false;
    try {
        ::operator delete[](::operator new[](impossible));
    } catch (const std::bad_alloc &) {
        thrown = true;
    }
    CHECK(thrown && handled == 3);
    // Without throwing, all is the same, but that null is given.
    handled = 0;
    std::set_new_handler(give_up);
    CHECK(::operator new(impossible, std::nothrow) == nullptr && handled == 3);
    std::set_new_handler(give_up_at_once);
    CHECK(::operator new[](impossible, std::nothrow) == nullptr && handled == 4);
    CHECK(::operator new(impossible, std::align_val_t(64), std::nothrow) == nullptr && handled == 5);
    std::puts("all is well");
}
