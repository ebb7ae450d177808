// One step of AdamW over all weights at once, and the length of the whole gradient.
//
// Weights, gradients and moments are flat; every parameter starts at a multiple of CHUNK, so that a block belongs to one
// parameter, whose numbers it finds through `chunk_parameters`.

#define CHUNK 1024

// Adds floats to others.
KERNEL add_floats(const float *x, u64 count, float *sums) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) sums[i] += x[i];
}

// Puts floats in another place.
KERNEL copy_floats(const float *x, u64 count, float *out) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) out[i] = x[i];
}

// Sums of squares of the chunks whose parameter takes part, in f64.
KERNEL squares(const float *gradient, const u32 *chunk_parameters, const u32 *live, double *sums) {
    double sum = 0.0;
    if (live[chunk_parameters[blockIdx.x]]) {
        const float *x = gradient + (u64)blockIdx.x * CHUNK;
        for (u32 i = threadIdx.x; i < CHUNK; i += THREADS) sum += (double)x[i] * (double)x[i];
    }
    sum = block_sum_wide(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Sums of CHUNK numbers each.
KERNEL sum_squares(const double *sums, u32 count, double *out) {
    double sum = 0.0;
    for (u32 i = threadIdx.x; i < CHUNK; i += THREADS) {
        u32 at = blockIdx.x * CHUNK + i;
        if (at < count) sum += sums[at];
    }
    sum = block_sum_wide(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// What is different between parameters.
struct Scalars {
    float keep;            // what weight decay leaves
    float root_correction; // root of the second moment's bias correction
    float step;            // minus the learning rate over the first moment's bias correction
    float live;            // 0: left as it is
};

// The arithmetic of `torch.optim.AdamW`, as `optim::adamw` has it. `half` holds copies in the storage type of the weights from
// `half_first` on, if there are any.
KERNEL adamw(float *weights, const float *gradient, float *first, float *second, elem *half, u64 half_first,
             u64 half_end, const u32 *chunk_parameters, const Scalars *scalars, float scale, float beta1, float take1,
             float beta2, float take2, float epsilon) {
    const Scalars own = scalars[chunk_parameters[blockIdx.x]];
    if (own.live == 0.0f) return;
    for (u32 i = threadIdx.x; i < CHUNK; i += THREADS) {
        const u64 at = (u64)blockIdx.x * CHUNK + i;
        float g = gradient[at] * scale, m = first[at], v = second[at];
        m = take1 < 0.5f ? m + take1 * (g - m) : g - (g - m) * beta1;
        v = v * beta2 + take2 * g * g;
        float w = weights[at] * own.keep + own.step * m / (sqrtf(v) / own.root_correction + epsilon);
        first[at] = m;
        second[at] = v;
        weights[at] = w;
        if (half && at >= half_first && at < half_end) store(half, at - half_first, w);
    }
}
