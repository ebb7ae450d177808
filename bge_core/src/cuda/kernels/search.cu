// The scores of a search that reach their query's threshold: counted, then taken, so that no score is lost to a full buffer.
//
// `scores` has a row for each query. A block looks through a part of such a row: `length` scores, or what is left.

struct Part {
    const float *scores; // of its query
    u32 query, first, end;
};

__device__ inline Part part_of(const float *scores, u32 part, u32 columns, u32 length) {
    const u32 parts = (columns + length - 1) / length, query = part / parts, first = part % parts * length;
    Part found = {scores + (u64)query * columns, query, first, min(first + length, columns)};
    return found;
}

__device__ inline u32 reached(Part part, float threshold) {
    u32 count = 0;
    for (u32 column = part.first + threadIdx.x; column < part.end; column += THREADS)
        count += part.scores[column] >= threshold;
    return count;
}

// How many scores of each part reach the threshold.
KERNEL count_reached(const float *scores, const float *thresholds, u32 columns, u32 length, u32 *counts) {
    const Part part = part_of(scores, blockIdx.x, columns, length);
    const float count = block_sum((float)reached(part, thresholds[part.query])); // exact: a part is shorter than 2^24
    if (threadIdx.x == 0) counts[blockIdx.x] = (u32)count;
}

// Which they are, of the parts from `from` on: pairs of column and score. `starts` says how many come before each part, of all.
KERNEL take_reached(const float *scores, const float *thresholds, u32 columns, u32 length, const u32 *starts, u32 from, u32 *out) {
    __shared__ u32 counts[THREADS];
    const u32 number = from + blockIdx.x;
    if (starts[number + 1] == starts[number]) return;
    const Part part = part_of(scores, number, columns, length);
    const float threshold = thresholds[part.query];
    counts[threadIdx.x] = reached(part, threshold);
    __syncthreads();
    u32 place = starts[number] - starts[from];
    for (u32 thread = 0; thread < threadIdx.x; thread++) place += counts[thread];
    for (u32 column = part.first + threadIdx.x; column < part.end; column += THREADS) {
        const float score = part.scores[column];
        if (!(score >= threshold)) continue;
        out[(u64)place * 2] = column;
        out[(u64)place * 2 + 1] = __float_as_uint(score);
        place++;
    }
}
