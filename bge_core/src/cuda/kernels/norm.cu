// Normalisation of rows of WIDTH elements, with what comes before it: dropout and residual, or the sum of embeddings.
//
// A block is a row, and a thread has every THREADS-th column of it in registers.

#define OWN ((WIDTH + THREADS - 1) / THREADS)
#define SUM_ROWS 64 // rows that one block sums; fixed, so that the order of additions is

#define EACH(i, column)                                                                                                \
    _Pragma("unroll") for (int i = 0; i < OWN; i++)                                                                    \
        if (u32 column = threadIdx.x + i * THREADS; column < WIDTH)

// To zero mean and unit variance, in place; returns 1 / σ.
__device__ inline float normalize(float (&row)[OWN], float eps) {
    float sum = 0.0f;
    EACH(i, column) sum += row[i];
    float mean = block_sum(sum) / WIDTH, squares = 0.0f;
    EACH(i, column) {
        row[i] -= mean;
        squares += row[i] * row[i];
    }
    float inverse = 1.0f / sqrtf(block_sum(squares) / WIDTH + eps);
    EACH(i, column) row[i] *= inverse;
    return inverse;
}

// What the backward needs, if it is kept, and `unit * gamma + beta`.
__device__ inline void finish(const float (&row)[OWN], float inverse, const float *gamma, const float *beta, elem *unit,
                              float *inverse_std, u64 at) {
    if (inverse_std && threadIdx.x == 0) inverse_std[blockIdx.x] = inverse;
    if (unit) EACH(i, column) store(unit, at + column, row[i]);
}

// `layer_norm(residual + dropout(x + bias))`.
KERNEL residual_norm_forward(const elem *x, const float *bias, const elem *residual, const u64 *identities, u64 key,
                             u32 threshold, float drop_scale, const float *gamma, const float *beta, float eps, elem *unit,
                             float *inverse_std, elem *out) {
    const Dropout dropout = {key, threshold, drop_scale};
    const u64 at = (u64)blockIdx.x * WIDTH;
    RowMask mask = {0, 0};
    if (threshold) mask = row_mask(dropout, identities[blockIdx.x]);
    float row[OWN];
    EACH(i, column) {
        float value = load(x, at + column) + bias[column];
        if (threshold) value *= factor(dropout, mask, column);
        row[i] = value + load(residual, at + column);
    }
    float inverse = normalize(row, eps);
    finish(row, inverse, gamma, beta, unit, inverse_std, at);
    EACH(i, column) store(out, at + column, row[i] * gamma[column] + beta[column]);
}

// `dropout(layer_norm(word + type + position))`; the tables are f32.
KERNEL embedding_forward(const float *words, const float *types, const float *positions, const u32 *word_rows,
                         const u32 *type_rows, const u32 *position_rows, const u64 *identities, u64 key, u32 threshold,
                         float drop_scale, const float *gamma, const float *beta, float eps, elem *unit, float *inverse_std,
                         elem *out) {
    const Dropout dropout = {key, threshold, drop_scale};
    const u64 at = (u64)blockIdx.x * WIDTH;
    const float *word = words + (u64)word_rows[blockIdx.x] * WIDTH, *type = types + (u64)type_rows[blockIdx.x] * WIDTH;
    const float *position = positions + (u64)position_rows[blockIdx.x] * WIDTH;
    RowMask mask = {0, 0};
    if (threshold) mask = row_mask(dropout, identities[blockIdx.x]);
    float row[OWN];
    EACH(i, column) row[i] = word[column] + type[column] + position[column];
    float inverse = normalize(row, eps);
    finish(row, inverse, gamma, beta, unit, inverse_std, at);
    EACH(i, column) {
        float value = row[i] * gamma[column] + beta[column];
        if (threshold) value *= factor(dropout, mask, column);
        store(out, at + column, value);
    }
}

// `dx = (g - mean(g) - unit * mean(g * unit)) / σ` with `g = dy * gamma`; and behind a dropout, `masked` is dx times its mask.
KERNEL norm_backward(const elem *dy, const elem *unit, const float *inverse_std, const float *gamma, const u64 *identities,
                     u64 key, u32 threshold, float drop_scale, elem *dx, elem *masked) {
    const Dropout dropout = {key, threshold, drop_scale};
    const u64 at = (u64)blockIdx.x * WIDTH;
    float g[OWN], u[OWN], sum = 0.0f, product = 0.0f;
    EACH(i, column) {
        g[i] = load(dy, at + column) * gamma[column];
        u[i] = load(unit, at + column);
        sum += g[i];
        product += g[i] * u[i];
    }
    float mean = block_sum(sum) / WIDTH, projection = block_sum(product) / WIDTH, inverse = inverse_std[blockIdx.x];
    RowMask mask = {0, 0};
    if (threshold) mask = row_mask(dropout, identities[blockIdx.x]);
    EACH(i, column) {
        float value = (g[i] - mean - u[i] * projection) * inverse;
        store(dx, at + column, value);
        if (threshold) store(masked, at + column, value * factor(dropout, mask, column));
    }
}

// Each row times its mask.
KERNEL dropout_rows(const elem *x, const u64 *identities, u64 key, u32 threshold, float drop_scale, elem *out) {
    const Dropout dropout = {key, threshold, drop_scale};
    const u64 at = (u64)blockIdx.x * WIDTH;
    const RowMask mask = row_mask(dropout, identities[blockIdx.x]);
    EACH(i, column) store(out, at + column, load(x, at + column) * factor(dropout, mask, column));
}

// Sums over SUM_ROWS rows each: of `dy * unit` into the even rows of `partials [2 * chunks, WIDTH]`, of `dy` into the odd ones.
KERNEL norm_partials(const elem *dy, const elem *unit, u32 rows, float *partials) {
    const u32 first = blockIdx.x * SUM_ROWS, end = min(first + SUM_ROWS, rows);
    for (u32 column = threadIdx.x; column < WIDTH; column += THREADS) {
        float gamma = 0.0f, beta = 0.0f;
        for (u32 row = first; row < end; row++) {
            float gradient = load(dy, (u64)row * WIDTH + column);
            gamma += gradient * load(unit, (u64)row * WIDTH + column);
            beta += gradient;
        }
        partials[(u64)blockIdx.x * 2 * WIDTH + column] = gamma;
        partials[((u64)blockIdx.x * 2 + 1) * WIDTH + column] = beta;
    }
}

// Sums over SUM_ROWS rows of `x [rows, columns]` each: `partials [chunks, columns]`. The gradient of a bias.
KERNEL column_partials(const elem *x, u32 stride, u32 rows, u32 columns, float *partials) {
    const u32 column = blockIdx.y * THREADS + threadIdx.x;
    const u32 first = blockIdx.x * SUM_ROWS, end = min(first + SUM_ROWS, rows);
    if (column >= columns) return;
    float sum = 0.0f;
    for (u32 row = first; row < end; row++) sum += load(x, (u64)row * stride + column);
    partials[(u64)blockIdx.x * columns + column] = sum;
}

// Adds the rows of `partials`, each `stride` floats after the last, to `out [columns]`.
KERNEL add_partials(const float *partials, u32 count, u32 stride, u32 columns, float *out) {
    const u32 column = blockIdx.x * THREADS + threadIdx.x;
    if (column >= columns) return;
    float sum = 0.0f;
    for (u32 i = 0; i < count; i++) sum += partials[(u64)i * stride + column];
    out[column] += sum;
}
