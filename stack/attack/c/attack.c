/* C as Baton's stacks may meet it: large frames without probes, alloca, long jumps, vector registers in use. */

#include <alloca.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Frames of one size, touched at the lowest byte first. */
#define LARGE_FRAME(name, bytes)                                                                                               \
    __attribute__((noinline)) static size_t name(size_t depth) {                                                              \
        volatile unsigned char array[bytes];                                                                                   \
        array[0] = (unsigned char)depth;                                                                                       \
        array[bytes - 1] = (unsigned char)~depth;                                                                              \
        size_t below = depth == 0 ? 0 : name(depth - 1);                                                                       \
        return below + (array[0] == (unsigned char)depth && array[bytes - 1] == (unsigned char)~depth);                        \
    }

LARGE_FRAME(frames_of_20k, 20000)
LARGE_FRAME(frames_of_100k, 100000)
LARGE_FRAME(frames_of_300k, 300000)

/* How many frames held what was written into them. */
size_t attack_large_frames(size_t kilobytes, size_t depth) {
    return kilobytes <= 20 ? frames_of_20k(depth) : kilobytes <= 100 ? frames_of_100k(depth) : frames_of_300k(depth);
}

/* Takes ever more stack in one frame; gives the number of blocks that kept what they held. */
size_t attack_alloca(size_t blocks, size_t bytes) {
    unsigned char *first = NULL;
    for (size_t i = 0; i < blocks; i++) {
        unsigned char *block = alloca(bytes + sizeof(first));
        memcpy(block, &first, sizeof(first));
        block[sizeof(first)] = (unsigned char)i;
        first = block;
    }
    size_t kept = 0;
    for (size_t i = blocks; i-- > 0; kept++) {
        if (first == NULL || first[sizeof(first)] != (unsigned char)i) {
            break;
        }
        memcpy(&first, first, sizeof(first));
    }
    return kept;
}

static __attribute__((noinline)) void jump_from(jmp_buf *back, size_t depth) {
    volatile unsigned char array[3000];
    array[0] = 1;
    if (depth == 0) {
        longjmp(*back, 42);
    }
    jump_from(back, depth - 1);
    array[1] = array[0];
}

/* Jumps out of many frames at once. */
int attack_longjmp(size_t depth) {
    jmp_buf back;
    int how = setjmp(back);
    if (how == 0) {
        jump_from(&back, depth);
    }
    return how;
}

#if defined(__x86_64__)
/* Fills the vector registers, touches the stack so far below that it traps, and looks at the registers again. */
__attribute__((target("avx512f"), noinline)) static int with_avx512(size_t below) {
    uint64_t in[16][8] __attribute__((aligned(64))), out[16][8] __attribute__((aligned(64)));
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 8; j++) {
            in[i][j] = 0x9e3779b97f4a7c15u * (uint64_t)(i * 8 + j + 1);
        }
    }
    __asm__ volatile(
        "vmovdqa64 0*64(%0), %%zmm16\n\t" "vmovdqa64 1*64(%0), %%zmm17\n\t" "vmovdqa64 2*64(%0), %%zmm18\n\t"
        "vmovdqa64 3*64(%0), %%zmm0\n\t"  "vmovdqa64 4*64(%0), %%zmm1\n\t"  "vmovdqa64 5*64(%0), %%zmm31\n\t"
        "mov %%rsp, %%r11\n\t" "sub %2, %%rsp\n\t" "movq $1, (%%rsp)\n\t" "mov %%r11, %%rsp\n\t"
        "vmovdqa64 %%zmm16, 0*64(%1)\n\t" "vmovdqa64 %%zmm17, 1*64(%1)\n\t" "vmovdqa64 %%zmm18, 2*64(%1)\n\t"
        "vmovdqa64 %%zmm0, 3*64(%1)\n\t"  "vmovdqa64 %%zmm1, 4*64(%1)\n\t"  "vmovdqa64 %%zmm31, 5*64(%1)\n\t"
        : : "r"(in), "r"(out), "r"(below)
        : "r11", "memory", "xmm0", "xmm1", "xmm16", "xmm17", "xmm18", "xmm31");
    return memcmp(in, out, 6 * 64) == 0;
}

__attribute__((target("avx"), noinline)) static int with_avx(size_t below) {
    uint64_t in[4][4] __attribute__((aligned(32))), out[4][4] __attribute__((aligned(32)));
    for (int i = 0; i < 16; i++) {
        in[i / 4][i % 4] = 0x9e3779b97f4a7c15u * (uint64_t)(i + 1);
    }
    __asm__ volatile(
        "vmovdqa 0*32(%0), %%ymm0\n\t" "vmovdqa 1*32(%0), %%ymm7\n\t" "vmovdqa 2*32(%0), %%ymm8\n\t" "vmovdqa 3*32(%0), %%ymm15\n\t"
        "mov %%rsp, %%r11\n\t" "sub %2, %%rsp\n\t" "movq $1, (%%rsp)\n\t" "mov %%r11, %%rsp\n\t"
        "vmovdqa %%ymm0, 0*32(%1)\n\t" "vmovdqa %%ymm7, 1*32(%1)\n\t" "vmovdqa %%ymm8, 2*32(%1)\n\t" "vmovdqa %%ymm15, 3*32(%1)\n\t"
        : : "r"(in), "r"(out), "r"(below)
        : "r11", "memory", "xmm0", "xmm7", "xmm8", "xmm15");
    return memcmp(in, out, sizeof(in)) == 0;
}

/* 512 or 256: the bits of the registers that held; 0 if they did not; -1 if this processor has neither. */
int attack_vectors(size_t below) {
    if (__builtin_cpu_supports("avx512f")) {
        return with_avx512(below) ? 512 : 0;
    }
    if (__builtin_cpu_supports("avx")) {
        return with_avx(below) ? 256 : 0;
    }
    return -1;
}
#else
int attack_vectors(size_t below) {
    (void)below;
    return -1;
}
#endif
