// Storage types, keyed dropout and sums over a block: what every kernel shares.
//
// Compiled once for each model with STORAGE (0 f32, 1 bf16, 2 f16), WIDTH (of the hidden states), HEAD (of an attention
// head) and the tile sizes as macros. Numbers are stored as `elem` and computed in f32. Blocks have THREADS threads; every
// barrier and every shuffle is met by all of them.

typedef unsigned int u32;
typedef unsigned long long u64;

#define THREADS 128
#define WARPS (THREADS / 32)
#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

typedef unsigned short u16;

// bf16 is the upper half of an f32; rounding to the nearest, ties to even.
__device__ inline float brain_value(u16 brain) { return __uint_as_float((u32)brain << 16); }
__device__ inline u16 to_brain(float x) {
    u32 bits = __float_as_uint(x);
    return x != x ? 0x7fc0 : (u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#ifdef EMULATED
#define half_value emulated_from_half
#define to_half emulated_to_half
#else
__device__ inline float half_value(u16 half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}
__device__ inline u16 to_half(float x) {
    u16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return half;
}
#endif

#if STORAGE == 0
typedef float elem;
__device__ inline float load(const elem *p, u64 i) { return p[i]; }
__device__ inline void store(elem *p, u64 i, float x) { p[i] = x; }
#elif STORAGE == 1
typedef u16 elem;
__device__ inline float load(const elem *p, u64 i) { return brain_value(p[i]); }
__device__ inline void store(elem *p, u64 i, float x) { p[i] = to_brain(x); }
#else
typedef u16 elem;
__device__ inline float load(const elem *p, u64 i) { return half_value(p[i]); }
__device__ inline void store(elem *p, u64 i, float x) { p[i] = to_half(x); }
#endif

// The finaliser of SplitMix64, as `random::mix`.
__device__ inline u64 mix(u64 z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// The dropout of one place in the network in one step, as `nn::ops::dropout`; a threshold of 0 is none.
struct Dropout {
    u64 key;
    u32 threshold;
    float scale;
};

struct RowMask {
    u32 first, second;
};

__device__ inline RowMask row_mask(Dropout dropout, u64 row) {
    u64 bits = mix(dropout.key ^ mix(row));
    RowMask mask = {(u32)bits, (u32)(bits >> 32)};
    return mask;
}

__device__ inline float factor(Dropout dropout, RowMask mask, u32 column) {
    u32 x = (column * 0x9e3779b9u) ^ mask.first;
    x ^= x >> 16;
    x = (x * 0x7feb352du) ^ mask.second;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x < dropout.threshold ? 0.0f : dropout.scale;
}

// Sum over the lanes that differ in the bits below `lanes`, on each of them.
__device__ inline float lane_sum(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline float lane_max(float x, int lanes) {
    for (int step = lanes / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Sum over the block, on every thread, in an order that never changes.
__device__ inline float block_sum(float x) {
    __shared__ float slots[WARPS];
    x = lane_sum(x, 32);
    __syncthreads(); // an earlier sum has been read
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) sum += slots[warp];
    return sum;
}

// The largest over the block, on every thread.
__device__ inline float block_max(float x) {
    __shared__ float slots[WARPS];
    x = lane_max(x, 32);
    __syncthreads(); // an earlier one has been read
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = x;
    __syncthreads();
    float most = slots[0];
    for (int warp = 1; warp < WARPS; warp++) most = fmaxf(most, slots[warp]);
    return most;
}

// The same as the sum, in f64.
__device__ inline double block_sum_wide(double x) {
    __shared__ double slots[THREADS];
    __syncthreads();
    slots[threadIdx.x] = x;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) slots[threadIdx.x] += slots[threadIdx.x + half];
    }
    __syncthreads();
    return slots[0];
}

__device__ inline float exponential(float x) { return exp2f(x * 1.44269504088896341f); }
