// The same attention on tensor cores, for numbers of 16 bits and heads that are multiples of 16 up to 64.
//
// A warp has 16 rows of a tile: of queries, or of keys in the gradients of keys and values. It multiplies by `mma.m16n8k16`, whose sums
// are f32. Lane l has rows l / 4 and l / 4 + 8 and columns 2 (l % 4) and the next of every 8 columns: scores leave a product in
// the places from which the next product takes its left side, and never go to memory. What is multiplied is rounded to 16 bits:
// queries, keys and values, probabilities, and the gradients of scores.

#if MMA

#define STEPS (HEAD / 16)  // products along a head
#define SPANS (HEAD / 8)   // eights of columns of a head
#define MMA_PITCH (HEAD + 8)

__device__ inline u32 pack(float low, float high) {
    elem pair[2];
    store(pair, 0, low);
    store(pair, 1, high);
    return (u32)pair[0] | (u32)pair[1] << 16;
}

// sums += a b, each lane with its part of them.
__device__ inline void multiply(float (&sums)[4], const u32 (&a)[4], u32 b_low, u32 b_high) {
#ifdef EMULATED
    emulated_mma(sums, a, b_low, b_high, [](unsigned short x) { return load(&x, 0); });
#elif STORAGE == 1
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
#endif
}

// Fills `capacity` rows of 16-bit numbers from row `first` on: `rows` rows of a head, then zeros.
__device__ inline void fill_half(elem *tile, int capacity, const elem *x, u64 stride, u64 first, u32 rows) {
    for (int i = threadIdx.x; i < capacity * (HEAD / 2); i += THREADS) {
        int row = i / (HEAD / 2), column = i % (HEAD / 2) * 2;
        u32 pair = 0;
        if (row < rows) pair = *(const u32 *)(x + (first + row) * stride + column);
        *(u32 *)(tile + row * MMA_PITCH + column) = pair;
    }
}

// The left sides of products along the head: the warp's 16 rows of a tile in shared memory.
__device__ inline void take_rows(u32 (&a)[STEPS][4], const elem *tile) {
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4, column = lane % 4 * 2;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int part = 0; part < 4; part++)
            a[step][part] = *(const u32 *)(tile + (row + part % 2 * 8) * MMA_PITCH + step * 16 + column + part / 2 * 8);
}

// out[j] = the warp's rows times rows 8 j to 8 j + 7 of a tile, over the head.
template <int N> __device__ inline void scores_of(float (&out)[N][4], const u32 (&a)[STEPS][4], const elem *tile) {
    const int lane = threadIdx.x % 32, column = lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < N; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[j][i] = 0.0f;
        const elem *row = tile + (j * 8 + lane / 4) * MMA_PITCH + column;
#pragma unroll
        for (int step = 0; step < STEPS; step++)
            multiply(out[j], a[step], *(const u32 *)(row + step * 16), *(const u32 *)(row + step * 16 + 8));
    }
}

// sums += weights times the rows of a tile; `weights` lie as a product left them.
template <int N> __device__ inline void add_weighted(float (&sums)[SPANS][4], const float (&weights)[N][4], const elem *tile) {
    const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < N / 2; half++) {
        const float (&left)[4] = weights[half * 2], (&right)[4] = weights[half * 2 + 1];
        const u32 a[4] = {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]), pack(right[2], right[3])};
        const elem *rows = tile + (half * 16 + pair) * MMA_PITCH + group;
#pragma unroll
        for (int span = 0; span < SPANS; span++) {
            const elem *at = rows + span * 8;
            u32 low = (u32)at[0] | (u32)at[MMA_PITCH] << 16;
            u32 high = (u32)at[8 * MMA_PITCH] | (u32)at[9 * MMA_PITCH] << 16;
            multiply(sums[span], a, low, high);
        }
    }
}

// Writes the warp's rows `row` and `row + 8` of `rows`, each times its scale.
__device__ inline void write_rows(elem *out, u64 first, u64 stride, u32 rows, float (&sums)[SPANS][4], float low, float high) {
    const int lane = threadIdx.x % 32;
    const u32 row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int span = 0; span < SPANS; span++) {
        elem *at = out + (first + row) * stride + span * 8 + lane % 4 * 2;
        if (row < rows) *(u32 *)at = pack(sums[span][0] * low, sums[span][1] * low);
        if (row + 8 < rows) *(u32 *)(at + 8 * stride) = pack(sums[span][2] * high, sums[span][3] * high);
    }
}

__device__ inline void clear(float (&sums)[SPANS][4]) {
#pragma unroll
    for (int span = 0; span < SPANS; span++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[span][i] = 0.0f;
}

KERNEL attention_forward(const elem *q, const elem *k, const elem *v, u32 stride, const u32 *tiles, const u64 *identities,
                         u64 key, u32 threshold, float drop_scale, elem *context, float *log_sums) {
    const int N = FORWARD_KEYS / 8;
    __shared__ __align__(16) elem rows_half[FORWARD_ROWS * MMA_PITCH];
    __shared__ __align__(16) elem keys[FORWARD_KEYS * MMA_PITCH];
    __shared__ __align__(16) elem values[FORWARD_KEYS * MMA_PITCH];
    const Dropout dropout = {key, threshold, drop_scale};
    const Tile tile = tile_of(tiles);
    const u32 rows = min((u32)FORWARD_ROWS, tile.length - tile.first);
    const u64 query = tile.start + tile.first, at = (u64)blockIdx.y * HEAD;
    const float scale = 1.0f / sqrtf((float)HEAD);
    const int lane = threadIdx.x % 32;
    const u32 own = threadIdx.x / 32 * 16 + lane / 4;
    fill_half(rows_half, FORWARD_ROWS, q + at, stride, query, rows);
    __syncthreads();
    u32 queries[STEPS][4];
    take_rows(queries, rows_half);
    float peak[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY}, sum[2] = {0.0f, 0.0f}, sums[SPANS][4];
    clear(sums);
    RowMask masks[2];
#pragma unroll
    for (int i = 0; i < 2; i++) masks[i] = query_mask(dropout, identities, query + min(own + i * 8, rows - 1));
    for (u32 start = 0; start < tile.length; start += FORWARD_KEYS) {
        u32 count = min((u32)FORWARD_KEYS, tile.length - start);
        __syncthreads(); // the last tile has been read
        fill_half(keys, FORWARD_KEYS, k + at, stride, tile.start + start, count);
        fill_half(values, FORWARD_KEYS, v + at, stride, tile.start + start, count);
        __syncthreads();
        float scores[N][4];
        scores_of<N>(scores, queries, keys);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float highest = peak[i];
#pragma unroll
            for (int j = 0; j < N * 2; j++) {
                float &score = scores[j / 2][i * 2 + j % 2];
                score = j / 2 * 8 + lane % 4 * 2 + j % 2 < count ? score * scale : NEGATIVE_INFINITY;
                highest = fmaxf(highest, score);
            }
            highest = lane_max(highest, 4);
            float correction = exponential(peak[i] - highest), part = 0.0f;
            peak[i] = highest;
#pragma unroll
            for (int j = 0; j < N * 2; j++) {
                float &score = scores[j / 2][i * 2 + j % 2];
                float p = exponential(score - highest);
                part += p;
                if (threshold) p *= factor(dropout, masks[i], start + j / 2 * 8 + lane % 4 * 2 + j % 2);
                score = p;
            }
            sum[i] = sum[i] * correction + lane_sum(part, 4);
#pragma unroll
            for (int span = 0; span < SPANS; span++) {
                sums[span][i * 2] *= correction;
                sums[span][i * 2 + 1] *= correction;
            }
        }
        add_weighted<N>(sums, scores, values);
    }
    write_rows(context + at, query, WIDTH, rows, sums, 1.0f / sum[0], 1.0f / sum[1]);
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (lane % 4 == 0 && own + i * 8 < rows)
            log_sums[(query + own + i * 8) * gridDim.y + blockIdx.y] = peak[i] + logf(sum[i]);
}

KERNEL attention_backward_queries(const elem *q, const elem *k, const elem *v, u32 stride, const u32 *tiles,
                                  const u64 *identities, u64 key, u32 threshold, float drop_scale, const elem *context,
                                  const elem *d_context, const float *log_sums, float *deltas, elem *dq, u32 d_stride) {
    const int N = BACKWARD_COLUMNS / 8;
    __shared__ __align__(16) elem rows_half[BACKWARD_ROWS * MMA_PITCH];
    __shared__ __align__(16) elem keys[BACKWARD_COLUMNS * MMA_PITCH];
    __shared__ __align__(16) elem values[BACKWARD_COLUMNS * MMA_PITCH];
    const Dropout dropout = {key, threshold, drop_scale};
    const Tile tile = tile_of(tiles);
    const u32 rows = min((u32)BACKWARD_ROWS, tile.length - tile.first);
    const u64 query = tile.start + tile.first, at = (u64)blockIdx.y * HEAD;
    const float scale = 1.0f / sqrtf((float)HEAD);
    const int lane = threadIdx.x % 32;
    const u32 own = threadIdx.x / 32 * 16 + lane / 4;
    u32 queries[STEPS][4], gradients[STEPS][4];
    fill_half(rows_half, BACKWARD_ROWS, q + at, stride, query, rows);
    __syncthreads();
    take_rows(queries, rows_half);
    __syncthreads();
    fill_half(rows_half, BACKWARD_ROWS, d_context + at, WIDTH, query, rows);
    __syncthreads();
    take_rows(gradients, rows_half);
    float log_sum[2], delta[2], sums[SPANS][4];
    RowMask masks[2];
    clear(sums);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        u32 row = min(own + i * 8, rows - 1);
        float product = 0.0f;
        for (int column = lane % 4; column < HEAD; column += 4)
            product += load(context, (query + row) * WIDTH + at + column) * load(rows_half, row * MMA_PITCH + column);
        delta[i] = lane_sum(product, 4);
        u64 place = (query + row) * gridDim.y + blockIdx.y;
        log_sum[i] = log_sums[place];
        masks[i] = query_mask(dropout, identities, query + row);
        if (lane % 4 == 0 && own + i * 8 < rows) deltas[place] = delta[i];
    }
    for (u32 start = 0; start < tile.length; start += BACKWARD_COLUMNS) {
        u32 count = min((u32)BACKWARD_COLUMNS, tile.length - start);
        __syncthreads();
        fill_half(keys, BACKWARD_COLUMNS, k + at, stride, tile.start + start, count);
        fill_half(values, BACKWARD_COLUMNS, v + at, stride, tile.start + start, count);
        __syncthreads();
        float scores[N][4], d_weights[N][4];
        scores_of<N>(scores, queries, keys);
        scores_of<N>(d_weights, gradients, values);
#pragma unroll
        for (int j = 0; j < N * 4; j++) {
            const int i = j % 4 / 2;
            u32 column = j / 4 * 8 + lane % 4 * 2 + j % 2;
            float p = column < count ? exponential(scores[j / 4][j % 4] * scale - log_sum[i]) : 0.0f;
            float kept = threshold ? factor(dropout, masks[i], start + column) : 1.0f;
            scores[j / 4][j % 4] = p * (d_weights[j / 4][j % 4] * kept - delta[i]) * scale;
        }
        add_weighted<N>(sums, scores, keys);
    }
    write_rows(dq + at, query, d_stride, rows, sums, 1.0f, 1.0f);
}

KERNEL attention_backward_keys(const elem *q, const elem *k, const elem *v, u32 stride, const u32 *tiles,
                               const u64 *identities, u64 key, u32 threshold, float drop_scale, const elem *d_context,
                               const float *log_sums, const float *deltas, elem *dk, elem *dv, u32 d_stride) {
    const int N = BACKWARD_COLUMNS / 8;
    __shared__ __align__(16) elem rows_half[BACKWARD_ROWS * MMA_PITCH];
    __shared__ __align__(16) elem queries[BACKWARD_COLUMNS * MMA_PITCH];
    __shared__ __align__(16) elem gradients[BACKWARD_COLUMNS * MMA_PITCH];
    __shared__ float log_sum[BACKWARD_COLUMNS], delta[BACKWARD_COLUMNS];
    __shared__ RowMask masks[BACKWARD_COLUMNS];
    const Dropout dropout = {key, threshold, drop_scale};
    const Tile tile = tile_of(tiles);
    const u32 rows = min((u32)BACKWARD_ROWS, tile.length - tile.first);
    const u64 first = tile.start + tile.first, at = (u64)blockIdx.y * HEAD;
    const float scale = 1.0f / sqrtf((float)HEAD);
    const int lane = threadIdx.x % 32;
    const u32 own = threadIdx.x / 32 * 16 + lane / 4;
    u32 keys[STEPS][4], values[STEPS][4];
    fill_half(rows_half, BACKWARD_ROWS, k + at, stride, first, rows);
    __syncthreads();
    take_rows(keys, rows_half);
    __syncthreads();
    fill_half(rows_half, BACKWARD_ROWS, v + at, stride, first, rows);
    __syncthreads();
    take_rows(values, rows_half);
    float to_keys[SPANS][4], to_values[SPANS][4];
    clear(to_keys);
    clear(to_values);
    for (u32 start = 0; start < tile.length; start += BACKWARD_COLUMNS) {
        u32 count = min((u32)BACKWARD_COLUMNS, tile.length - start);
        u64 query = tile.start + start;
        __syncthreads();
        fill_half(queries, BACKWARD_COLUMNS, q + at, stride, query, count);
        fill_half(gradients, BACKWARD_COLUMNS, d_context + at, WIDTH, query, count);
        if (threadIdx.x < BACKWARD_COLUMNS) {
            u64 token = query + min((u32)threadIdx.x, count - 1), place = token * gridDim.y + blockIdx.y;
            log_sum[threadIdx.x] = log_sums[place];
            delta[threadIdx.x] = deltas[place];
            masks[threadIdx.x] = query_mask(dropout, identities, token);
        }
        __syncthreads();
        float scores[N][4], d_weights[N][4];
        scores_of<N>(scores, keys, queries);
        scores_of<N>(d_weights, values, gradients);
#pragma unroll
        for (int j = 0; j < N * 4; j++) {
            u32 column = j / 4 * 8 + lane % 4 * 2 + j % 2, row = own + j % 4 / 2 * 8;
            float p = column < count ? exponential(scores[j / 4][j % 4] * scale - log_sum[column]) : 0.0f;
            float kept = threshold ? factor(dropout, masks[column], tile.first + row) : 1.0f;
            scores[j / 4][j % 4] = p * (d_weights[j / 4][j % 4] * kept - delta[column]) * scale;
            d_weights[j / 4][j % 4] = p * kept;
        }
        add_weighted<N>(to_values, d_weights, gradients);
        add_weighted<N>(to_keys, scores, queries);
    }
    write_rows(dk + at, first, d_stride, rows, to_keys, 1.0f, 1.0f);
    write_rows(dv + at, first, d_stride, rows, to_values, 1.0f, 1.0f);
}

#endif
