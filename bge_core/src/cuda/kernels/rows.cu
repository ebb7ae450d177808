// What happens to rows of numbers between the products: activation, choice of rows, pooling, and the gradient of a table.

#define GELU 0
#define GELU_TANH 1
#define RELU 2

// Φ(x) by the error function.
__device__ inline float normal_cdf(float x) { return 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }

__device__ inline float gelu_inner(float x) { return tanhf(0.7978845608f * (x + 0.044715f * x * x * x)); }

__device__ inline float activation(float x, u32 kind) {
    if (kind == GELU) return x * normal_cdf(x);
    if (kind == GELU_TANH) return 0.5f * x * (1.0f + gelu_inner(x));
    return x < 0.0f ? 0.0f : x;
}

__device__ inline float derivative(float x, u32 kind) {
    if (kind == GELU) return normal_cdf(x) + x * 0.3989422804f * exponential(-0.5f * x * x);
    if (kind == GELU_TANH) {
        float t = gelu_inner(x), slope = 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * slope;
    }
    return x > 0.0f ? 1.0f : 0.0f;
}

// `out = activation(x + bias)`, a block for each row; `x` stays as it is, for the backward.
KERNEL activation_forward(const elem *x, const float *bias, u32 columns, u32 kind, elem *out) {
    const u64 at = (u64)blockIdx.x * columns;
    for (u32 column = threadIdx.x; column < columns; column += THREADS)
        store(out, at + column, activation(load(x, at + column) + bias[column], kind));
}

// Adds a bias to each row of `x`, for products that do not: those of a library that cannot.
KERNEL add_bias(elem *x, u32 stride, const elem *bias, u32 columns) {
    const u64 at = (u64)blockIdx.x * stride;
    for (u32 column = threadIdx.x; column < columns; column += THREADS)
        store(x, at + column, load(x, at + column) + load(bias, column));
}

// Multiplies the gradient of the output by the derivative at `x + bias`, in place.
KERNEL activation_backward(const elem *x, const float *bias, u32 columns, u32 kind, elem *gradient) {
    const u64 at = (u64)blockIdx.x * columns;
    for (u32 column = threadIdx.x; column < columns; column += THREADS)
        store(gradient, at + column, load(gradient, at + column) * derivative(load(x, at + column) + bias[column], kind));
}

// The first row of each text.
KERNEL first_rows(const elem *x, const u32 *offsets, elem *out) {
    const u64 from = (u64)offsets[blockIdx.x] * WIDTH, to = (u64)blockIdx.x * WIDTH;
    for (u32 column = threadIdx.x; column < WIDTH; column += THREADS) out[to + column] = x[from + column];
}

// Its gradient: the first row of each text, zeros in the others.
KERNEL spread_first_rows(const elem *gradient, const u32 *offsets, elem *out) {
    const u32 first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
    for (u32 row = first; row < end; row++)
        for (u32 column = threadIdx.x; column < WIDTH; column += THREADS)
            out[(u64)row * WIDTH + column] = row == first ? gradient[(u64)blockIdx.x * WIDTH + column] : (elem)0;
}

#define CLS 0
#define MEAN 1

// One f32 vector for each text.
KERNEL pool_forward(const elem *x, const u32 *offsets, u32 method, float *out) {
    const u32 first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
    for (u32 column = threadIdx.x; column < WIDTH; column += THREADS) {
        float value = 0.0f;
        if (method == MEAN) {
            for (u32 row = first; row < end; row++) value += load(x, (u64)row * WIDTH + column);
            value *= 1.0f / (float)(end - first);
        } else
            value = load(x, (u64)(method == CLS ? first : end - 1) * WIDTH + column);
        out[(u64)blockIdx.x * WIDTH + column] = value;
    }
}

// The gradient of every hidden state from that of the vectors.
KERNEL pool_backward(const float *gradient, const u32 *offsets, u32 method, elem *out) {
    const u32 first = offsets[blockIdx.x], end = offsets[blockIdx.x + 1];
    for (u32 column = threadIdx.x; column < WIDTH; column += THREADS) {
        float value = gradient[(u64)blockIdx.x * WIDTH + column];
        if (method == MEAN) value *= 1.0f / (float)(end - first);
        for (u32 row = first; row < end; row++) {
            bool taken = method == MEAN || row == (method == CLS ? first : end - 1);
            store(out, (u64)row * WIDTH + column, taken ? value : 0.0f);
        }
    }
}

// Storage to f32, and back.
KERNEL widen(const elem *x, u64 count, float *out) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = load(x, i);
}

KERNEL narrow(const float *x, u64 count, elem *out) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) store(out, i, x[i]);
}

// 16 bits to f32, and back, whatever the storage type is: bf16 if `brain`, or else f16.
KERNEL widen_halves(const u16 *x, u64 count, u32 brain, float *out) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = brain ? brain_value(x[i]) : half_value(x[i]);
}

KERNEL narrow_halves(const float *x, u64 count, u32 brain, u16 *out) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = brain ? to_brain(x[i]) : to_half(x[i]);
}

// The gradient of a table, whose rows several tokens share. The host sorts the tokens by their row and cuts the list into pieces;
// a piece is (first place in `order`, end, target). A row with one piece is its target; that of several comes from their sums in
// `partials`, whose places are targets with the highest bit set. No atomics, and the same bits every time.
#define PARTIAL 0x80000000u

KERNEL table_pieces(const elem *gradient, const u32 *order, const u32 *pieces, float *table, float *partials) {
    const u32 first = pieces[blockIdx.x * 3], end = pieces[blockIdx.x * 3 + 1], target = pieces[blockIdx.x * 3 + 2];
    for (u32 column = threadIdx.x; column < WIDTH; column += THREADS) {
        float sum = 0.0f;
        for (u32 i = first; i < end; i++) sum += load(gradient, (u64)order[i] * WIDTH + column);
        if (target & PARTIAL)
            partials[(u64)(target ^ PARTIAL) * WIDTH + column] = sum;
        else
            table[(u64)target * WIDTH + column] += sum;
    }
}

// Adds the sums of a row's pieces to it; an entry of `rows` is (first partial, end, row).
KERNEL table_rows(const float *partials, const u32 *rows, float *table) {
    const u32 first = rows[blockIdx.x * 3], end = rows[blockIdx.x * 3 + 1], target = rows[blockIdx.x * 3 + 2];
    for (u32 column = threadIdx.x; column < WIDTH; column += THREADS) {
        float sum = 0.0f;
        for (u32 i = first; i < end; i++) sum += partials[(u64)i * WIDTH + column];
        table[(u64)target * WIDTH + column] += sum;
    }
}
