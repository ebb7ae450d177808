// The scores of queries against all passages, a block of rows at a time. A query's own passages, `group_size` of them, do not
// count; the block's first row is query `first` of the batch.

#define NO_SCORE (-1e30f)

// Each row's log-sum-exp, and its highest score.
KERNEL others_forward(const float *scores, u32 columns, u32 group_size, u32 first, float *sums, float *maxima) {
    const float *row = scores + (u64)blockIdx.x * columns;
    const u32 own = (first + blockIdx.x) * group_size;
    float best = NO_SCORE, sum = 0.0f;
    for (u32 i = threadIdx.x; i < columns; i += THREADS)
        if (i - own >= group_size) best = fmaxf(best, row[i]); // a column before the own ones is a large number
    best = block_max(best);
    for (u32 i = threadIdx.x; i < columns; i += THREADS)
        if (i - own >= group_size) sum += exponential(row[i] - best);
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = best + logf(sum);
        maxima[blockIdx.x] = best;
    }
}

// The gradient of the scores from that of the log-sum-exps, in their place.
KERNEL others_backward(float *scores, u32 columns, u32 group_size, u32 first, const float *sums, const float *gradient) {
    float *row = scores + (u64)blockIdx.x * columns;
    const u32 own = (first + blockIdx.x) * group_size;
    for (u32 i = threadIdx.x; i < columns; i += THREADS)
        row[i] = i - own >= group_size ? exponential(row[i] - sums[blockIdx.x]) * gradient[blockIdx.x] : 0.0f;
}
