// Multi-head attention over the texts of a flat batch: tiles in shared memory, no [L, L] matrix anywhere.
//
// The forward runs over the keys once with a running maximum and sum (Milakov and Gimelshein 2018, Dao et al. 2022) and keeps the
// log of each softmax's denominator; the backward recomputes the probabilities from it. One kernel sums the gradient of the
// queries over the keys, another those of keys and values over the queries: no atomics, and the same bits every time.
//
// q, k and v are rows of `stride` elements, with their biases. A tile of a list is (first token of the text, its length, first row
// of the tile within it). A block is one tile of one head; its threads are 16 rows by 8 columns of small squares. Everything is
// f32 here.

struct Tile {
    u32 start, length, first;
};

__device__ inline Tile tile_of(const u32 *tiles) {
    Tile tile = {tiles[blockIdx.x * 3], tiles[blockIdx.x * 3 + 1], tiles[blockIdx.x * 3 + 2]};
    return tile;
}

// The mask of a query's probabilities, as `Shape::mask` of the CPU.
__device__ inline RowMask query_mask(Dropout dropout, const u64 *identities, u64 token) {
    RowMask none = {0, 0};
    return dropout.threshold ? row_mask(dropout, mix(identities[token]) + blockIdx.y) : none;
}

#if !MMA // there are the same kernels on tensor cores

#define ROWS 16
#define COLUMNS 8
#define PADDED ((HEAD + 3) / 4 * 4)
#define PITCH (PADDED + 4) // 16-byte rows whose neighbours start in other banks
#define PARTS ((PADDED + 31) / 32)

// Fills `capacity` rows of a tile from row `first` on: `rows` rows of a head, then zeros.
__device__ inline void fill(float *tile, int capacity, const elem *x, u64 stride, u64 first, u32 rows) {
    for (int i = threadIdx.x; i < capacity * PADDED; i += THREADS) {
        int row = i / PADDED, column = i % PADDED;
        float value = 0.0f;
        if (row < rows && column < HEAD) value = load(x, (first + row) * stride + column);
        tile[row * PITCH + column] = value;
    }
}

// out[i][j] = a row (y M + i) times b row (x + COLUMNS j), over the head.
template <int M, int N> __device__ inline void products(const float *a, const float *b, float (&out)[M][N]) {
    int y = threadIdx.x / COLUMNS, x = threadIdx.x % COLUMNS;
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++) out[i][j] = 0.0f;
    for (int d = 0; d < PADDED; d += 4) {
        float4 left[M], right[N];
#pragma unroll
        for (int i = 0; i < M; i++) left[i] = *(const float4 *)(a + (y * M + i) * PITCH + d);
#pragma unroll
        for (int j = 0; j < N; j++) right[j] = *(const float4 *)(b + (x + COLUMNS * j) * PITCH + d);
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
                out[i][j] += left[i].x * right[j].x + left[i].y * right[j].y + left[i].z * right[j].z + left[i].w * right[j].w;
    }
}

// sums[i] += row (y M + i) of `weights`, times the rows of `values`; a thread has four neighbouring columns in 32.
template <int M>
__device__ inline void accumulate(float (&sums)[M][PARTS][4], const float *weights, int pitch, const float *values, int rows) {
    int y = threadIdx.x / COLUMNS, x = threadIdx.x % COLUMNS;
    for (int row = 0; row < rows; row++) {
        float weight[M];
#pragma unroll
        for (int i = 0; i < M; i++) weight[i] = weights[(y * M + i) * pitch + row];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            if (part * 32 + x * 4 >= PADDED) continue;
            float4 value = *(const float4 *)(values + row * PITCH + part * 32 + x * 4);
#pragma unroll
            for (int i = 0; i < M; i++) {
                sums[i][part][0] += weight[i] * value.x;
                sums[i][part][1] += weight[i] * value.y;
                sums[i][part][2] += weight[i] * value.z;
                sums[i][part][3] += weight[i] * value.w;
            }
        }
    }
}

template <int M> __device__ inline void clear(float (&sums)[M][PARTS][4]) {
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int lane = 0; lane < 4; lane++) sums[i][part][lane] = 0.0f;
}

// Writes one row of sums times `scale`.
__device__ inline void write_row(elem *out, u64 at, float (&sums)[PARTS][4], float scale) {
    int x = threadIdx.x % COLUMNS;
#pragma unroll
    for (int part = 0; part < PARTS; part++)
#pragma unroll
        for (int lane = 0; lane < 4; lane++) {
            int column = part * 32 + x * 4 + lane;
            if (column < HEAD) store(out, at + column, sums[part][lane] * scale);
        }
}

// Context `[T, WIDTH]` and log-denominators `[T, heads]`.
KERNEL attention_forward(const elem *q, const elem *k, const elem *v, u32 stride, const u32 *tiles, const u64 *identities,
                         u64 key, u32 threshold, float drop_scale, elem *context, float *log_sums) {
    const int M = FORWARD_ROWS / ROWS, N = FORWARD_KEYS / COLUMNS, WEIGHTS = FORWARD_KEYS + 4;
    __shared__ __align__(16) float queries[FORWARD_ROWS * PITCH];
    __shared__ __align__(16) float keys[FORWARD_KEYS * PITCH];
    __shared__ __align__(16) float values[FORWARD_KEYS * PITCH];
    __shared__ float weights[FORWARD_ROWS * WEIGHTS];
    const Dropout dropout = {key, threshold, drop_scale};
    const Tile tile = tile_of(tiles);
    const u32 rows = min((u32)FORWARD_ROWS, tile.length - tile.first);
    const u64 query = tile.start + tile.first, at = (u64)blockIdx.y * HEAD;
    const float scale = 1.0f / sqrtf((float)HEAD);
    const int y = threadIdx.x / COLUMNS, x = threadIdx.x % COLUMNS;
    fill(queries, FORWARD_ROWS, q + at, stride, query, rows);
    float peak[M], sum[M], sums[M][PARTS][4];
    RowMask masks[M];
    clear(sums);
#pragma unroll
    for (int i = 0; i < M; i++) {
        peak[i] = NEGATIVE_INFINITY;
        sum[i] = 0.0f;
        u32 row = min((u32)(y * M + i), rows - 1);
        masks[i] = query_mask(dropout, identities, query + row);
    }
    for (u32 start = 0; start < tile.length; start += FORWARD_KEYS) {
        u32 count = min((u32)FORWARD_KEYS, tile.length - start);
        __syncthreads(); // the last tile has been read
        fill(keys, FORWARD_KEYS, k + at, stride, tile.start + start, count);
        fill(values, FORWARD_KEYS, v + at, stride, tile.start + start, count);
        __syncthreads();
        float scores[M][N];
        products<M, N>(queries, keys, scores);
#pragma unroll
        for (int i = 0; i < M; i++) {
            float highest = peak[i];
#pragma unroll
            for (int j = 0; j < N; j++) {
                scores[i][j] = x + COLUMNS * j < count ? scores[i][j] * scale : NEGATIVE_INFINITY;
                highest = fmaxf(highest, scores[i][j]);
            }
            highest = lane_max(highest, COLUMNS);
            float correction = exponential(peak[i] - highest), part = 0.0f;
            peak[i] = highest;
#pragma unroll
            for (int j = 0; j < N; j++) {
                u32 column = x + COLUMNS * j;
                float p = exponential(scores[i][j] - highest);
                part += p;
                if (threshold) p *= factor(dropout, masks[i], start + column);
                weights[(y * M + i) * WEIGHTS + column] = p;
            }
            sum[i] = sum[i] * correction + lane_sum(part, COLUMNS);
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int lane = 0; lane < 4; lane++) sums[i][part][lane] *= correction;
        }
        __syncthreads();
        accumulate<M>(sums, weights, WEIGHTS, values, FORWARD_KEYS);
    }
#pragma unroll
    for (int i = 0; i < M; i++) {
        u32 row = y * M + i;
        if (row >= rows) continue;
        write_row(context, (query + row) * WIDTH + at, sums[i], 1.0f / sum[i]);
        if (x == 0) log_sums[(query + row) * gridDim.y + blockIdx.y] = peak[i] + logf(sum[i]);
    }
}

// Gradient of the queries, in rows of `d_stride` elements; and of each query the product of context and its gradient, for the
// other kernel.
KERNEL attention_backward_queries(const elem *q, const elem *k, const elem *v, u32 stride, const u32 *tiles,
                                  const u64 *identities, u64 key, u32 threshold, float drop_scale, const elem *context,
                                  const elem *d_context, const float *log_sums, float *deltas, elem *dq, u32 d_stride) {
    const int M = BACKWARD_ROWS / ROWS, N = BACKWARD_ROWS / COLUMNS, WEIGHTS = BACKWARD_ROWS + 4;
    __shared__ __align__(16) float queries[BACKWARD_ROWS * PITCH];
    __shared__ __align__(16) float gradients[BACKWARD_ROWS * PITCH];
    __shared__ __align__(16) float keys[BACKWARD_ROWS * PITCH];
    __shared__ __align__(16) float values[BACKWARD_ROWS * PITCH];
    __shared__ float weights[BACKWARD_ROWS * WEIGHTS];
    const Dropout dropout = {key, threshold, drop_scale};
    const Tile tile = tile_of(tiles);
    const u32 rows = min((u32)BACKWARD_ROWS, tile.length - tile.first);
    const u64 query = tile.start + tile.first, at = (u64)blockIdx.y * HEAD;
    const float scale = 1.0f / sqrtf((float)HEAD);
    const int y = threadIdx.x / COLUMNS, x = threadIdx.x % COLUMNS;
    fill(queries, BACKWARD_ROWS, q + at, stride, query, rows);
    fill(gradients, BACKWARD_ROWS, d_context + at, WIDTH, query, rows);
    __syncthreads();
    float log_sum[M], delta[M], sums[M][PARTS][4];
    RowMask masks[M];
    clear(sums);
#pragma unroll
    for (int i = 0; i < M; i++) {
        u32 row = min((u32)(y * M + i), rows - 1);
        float product = 0.0f;
        for (int column = x; column < HEAD; column += COLUMNS)
            product += load(context, (query + row) * WIDTH + at + column) * gradients[row * PITCH + column];
        delta[i] = lane_sum(product, COLUMNS);
        u64 place = (query + row) * gridDim.y + blockIdx.y;
        log_sum[i] = log_sums[place];
        masks[i] = query_mask(dropout, identities, query + row);
        if (x == 0 && y * M + i < rows) deltas[place] = delta[i];
    }
    for (u32 start = 0; start < tile.length; start += BACKWARD_ROWS) {
        u32 count = min((u32)BACKWARD_ROWS, tile.length - start);
        __syncthreads();
        fill(keys, BACKWARD_ROWS, k + at, stride, tile.start + start, count);
        fill(values, BACKWARD_ROWS, v + at, stride, tile.start + start, count);
        __syncthreads();
        float scores[M][N], d_weights[M][N];
        products<M, N>(queries, keys, scores);
        products<M, N>(gradients, values, d_weights);
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                u32 column = x + COLUMNS * j;
                float p = column < count ? exponential(scores[i][j] * scale - log_sum[i]) : 0.0f;
                float kept = threshold ? factor(dropout, masks[i], start + column) : 1.0f;
                weights[(y * M + i) * WEIGHTS + column] = p * (d_weights[i][j] * kept - delta[i]) * scale;
            }
        __syncthreads();
        accumulate<M>(sums, weights, WEIGHTS, keys, BACKWARD_ROWS);
    }
#pragma unroll
    for (int i = 0; i < M; i++)
        if (y * M + i < rows) write_row(dq, (query + y * M + i) * d_stride + at, sums[i], 1.0f);
}

// Gradients of keys and values; runs after `attention_backward_queries`.
KERNEL attention_backward_keys(const elem *q, const elem *k, const elem *v, u32 stride, const u32 *tiles,
                               const u64 *identities, u64 key, u32 threshold, float drop_scale, const elem *d_context,
                               const float *log_sums, const float *deltas, elem *dk, elem *dv, u32 d_stride) {
    const int M = BACKWARD_ROWS / ROWS, N = BACKWARD_ROWS / COLUMNS, WEIGHTS = BACKWARD_ROWS + 4;
    __shared__ __align__(16) float queries[BACKWARD_ROWS * PITCH];
    __shared__ __align__(16) float gradients[BACKWARD_ROWS * PITCH];
    __shared__ __align__(16) float keys[BACKWARD_ROWS * PITCH];
    __shared__ __align__(16) float values[BACKWARD_ROWS * PITCH];
    __shared__ float weights[BACKWARD_ROWS * WEIGHTS];
    __shared__ float log_sum[BACKWARD_ROWS], delta[BACKWARD_ROWS];
    __shared__ RowMask masks[BACKWARD_ROWS];
    const Dropout dropout = {key, threshold, drop_scale};
    const Tile tile = tile_of(tiles);
    const u32 rows = min((u32)BACKWARD_ROWS, tile.length - tile.first);
    const u64 first = tile.start + tile.first, at = (u64)blockIdx.y * HEAD;
    const float scale = 1.0f / sqrtf((float)HEAD);
    const int y = threadIdx.x / COLUMNS, x = threadIdx.x % COLUMNS;
    fill(keys, BACKWARD_ROWS, k + at, stride, first, rows);
    fill(values, BACKWARD_ROWS, v + at, stride, first, rows);
    float to_keys[M][PARTS][4], to_values[M][PARTS][4];
    clear(to_keys);
    clear(to_values);
    for (u32 start = 0; start < tile.length; start += BACKWARD_ROWS) {
        u32 count = min((u32)BACKWARD_ROWS, tile.length - start);
        u64 query = tile.start + start;
        __syncthreads();
        fill(queries, BACKWARD_ROWS, q + at, stride, query, count);
        fill(gradients, BACKWARD_ROWS, d_context + at, WIDTH, query, count);
        if (threadIdx.x < BACKWARD_ROWS) {
            u64 token = query + min((u32)threadIdx.x, count - 1), place = token * gridDim.y + blockIdx.y;
            log_sum[threadIdx.x] = log_sums[place];
            delta[threadIdx.x] = deltas[place];
            masks[threadIdx.x] = query_mask(dropout, identities, token);
        }
        __syncthreads();
        float scores[M][N], d_weights[M][N];
        products<M, N>(keys, queries, scores);
        products<M, N>(values, gradients, d_weights);
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < N; j++) {
                u32 column = x + COLUMNS * j;
                float p = column < count ? exponential(scores[i][j] * scale - log_sum[column]) : 0.0f;
                float kept = threshold ? factor(dropout, masks[column], tile.first + y * M + i) : 1.0f;
                weights[(y * M + i) * WEIGHTS + column] = p * kept;
                scores[i][j] = p * (d_weights[i][j] * kept - delta[column]) * scale;
            }
        __syncthreads();
        accumulate<M>(to_values, weights, WEIGHTS, gradients, BACKWARD_ROWS);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < M; i++)
#pragma unroll
            for (int j = 0; j < N; j++) weights[(y * M + i) * WEIGHTS + x + COLUMNS * j] = scores[i][j];
        __syncthreads();
        accumulate<M>(to_keys, weights, WEIGHTS, queries, BACKWARD_ROWS);
    }
#pragma unroll
    for (int i = 0; i < M; i++) {
        if (y * M + i >= rows) continue;
        u64 place = (first + y * M + i) * d_stride + at;
        write_row(dk, place, to_keys[i], 1.0f);
        write_row(dv, place, to_values[i], 1.0f);
    }
}

#endif
