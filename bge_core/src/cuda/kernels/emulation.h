// Runs the kernels as C++: every thread of a block is a fiber, and blocks run one after another.
//
// A warp runs to its next barrier before another one goes on, its lanes together from shuffle to shuffle; the order of warps and
// lanes turns round every time, so that a missing barrier shows. A barrier that some threads do not reach, or another one than
// their neighbours, is an error.

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>

#define EMULATED 1
#define __global__
#define __device__ static // what is inside must not be one for all libraries of a process
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(n)
#define __syncthreads() emulated_wait(1)
#define __uint_as_float emulated_cast<float, unsigned>
#define __float_as_uint emulated_cast<unsigned, float>

template <class To, class From> inline To emulated_cast(From x) {
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

inline float emulated_from_half(unsigned short bits) { return (float)emulated_cast<_Float16, unsigned short>(bits); }
inline unsigned short emulated_to_half(float x) { return emulated_cast<unsigned short, _Float16>((_Float16)x); }

template <class T> inline T min(T a, T b) { return b < a ? b : a; }

struct EmulatedIndex {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static EmulatedIndex threadIdx, blockIdx, gridDim;

enum { EMULATED_THREADS = 128, EMULATED_STACK = 1 << 16 };

struct EmulatedFiber {
    ucontext_t start;
    jmp_buf state;
    char *stack;
    bool started, done;
    int waits_for;
};

static EmulatedFiber emulated_fibers[EMULATED_THREADS];
static jmp_buf emulated_scheduler;
static float emulated_slots[EMULATED_THREADS];
static void (*emulated_kernel)(void **);
static void **emulated_arguments;

static void emulated_wait(int barrier) {
    EmulatedFiber &own = emulated_fibers[threadIdx.x];
    own.waits_for = barrier;
    if (!_setjmp(own.state)) _longjmp(emulated_scheduler, 1);
}

static float __shfl_xor_sync(unsigned, float x, int lane) {
    emulated_slots[threadIdx.x] = x;
    emulated_wait(2);
    float other = emulated_slots[threadIdx.x ^ (unsigned)lane];
    emulated_wait(3);
    return other;
}

// mma.m16n8k16 within each warp, by the PTX manual's places of the elements; `value` reads 16 bits.
template <class Value>
static void emulated_mma(float (&sums)[4], const unsigned (&a)[4], unsigned b_low, unsigned b_high, Value value) {
    static float fragments[EMULATED_THREADS][12]; // both halves of the registers of a, then of b
    const unsigned registers[6] = {a[0], a[1], a[2], a[3], b_low, b_high};
    for (unsigned i = 0; i < 12; i++) fragments[threadIdx.x][i] = value((unsigned short)(registers[i / 2] >> i % 2 * 16));
    emulated_wait(4);
    unsigned lane = threadIdx.x % 32, warp = threadIdx.x - lane;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++)
            sums[i] += fragments[warp + row % 8 * 4 + k % 8 / 2][(row / 8 + k / 8 * 2) * 2 + k % 2] *
                       fragments[warp + column * 4 + k % 8 / 2][8 + k / 8 * 2 + k % 2];
    }
    emulated_wait(5);
}

// A fiber is one thread of block after block: making one costs calls of the system.
static void emulated_body() {
    for (;;) {
        emulated_kernel(emulated_arguments);
        EmulatedFiber &own = emulated_fibers[threadIdx.x];
        own.done = true;
        if (!_setjmp(own.state)) _longjmp(emulated_scheduler, 1);
    }
}

static void emulated_resume(unsigned thread) {
    threadIdx.x = thread;
    if (_setjmp(emulated_scheduler)) return;
    EmulatedFiber &fiber = emulated_fibers[thread];
    if (fiber.started) _longjmp(fiber.state, 1);
    if (!fiber.stack) fiber.stack = (char *)malloc(EMULATED_STACK);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = EMULATED_STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, emulated_body, 0);
    fiber.started = true;
    setcontext(&fiber.start);
}

// Runs a warp to the next barrier of the block, or to the end.
static bool emulated_warp(unsigned first, unsigned turn) {
    for (;; turn++) {
        for (unsigned i = 0; i < 32; i++) emulated_resume(first + (turn % 2 ? 31 - i : i));
        const EmulatedFiber *lanes = emulated_fibers + first;
        for (unsigned i = 1; i < 32; i++)
            if (lanes[i].done != lanes[0].done || (!lanes[0].done && lanes[i].waits_for != lanes[0].waits_for)) return false;
        if (lanes[0].done || lanes[0].waits_for == 1) return true;
    }
}

static bool emulated_block(unsigned turn) {
    for (EmulatedFiber &fiber : emulated_fibers) fiber.done = false;
    const unsigned warps = EMULATED_THREADS / 32;
    for (;; turn++) {
        for (unsigned i = 0; i < warps; i++)
            if (!emulated_warp((turn % 2 ? warps - 1 - i : i) * 32, turn)) return false;
        for (const EmulatedFiber &fiber : emulated_fibers)
            if (fiber.done != emulated_fibers[0].done) return false;
        if (emulated_fibers[0].done) return true;
    }
}

template <auto F> struct EmulatedCall;
template <class... A, void (*F)(A...)> struct EmulatedCall<F> {
    static void run(void **arguments) { go(arguments, std::index_sequence_for<A...>{}); }
    template <size_t... I> static void go(void **arguments, std::index_sequence<I...>) { F(*(A *)arguments[I]...); }
    static constexpr int count = sizeof...(A);
    static constexpr int sizes[] = {(int)sizeof(A)...};
};

struct EmulatedEntry {
    const char *name;
    void (*run)(void **);
    const int *sizes;
    int count;
};
#define EMULATED_ENTRY(name) {#name, EmulatedCall<name>::run, EmulatedCall<name>::sizes, EmulatedCall<name>::count}
