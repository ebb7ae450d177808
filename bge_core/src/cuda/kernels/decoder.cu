// What decoders have that encoders lack: RMS normalisation and rotary positions. No model of this library calls it yet.

// `x / rms(x) * gamma` (Zhang and Sennrich 2019), and the inverse of the root mean square of each row.
KERNEL rms_norm_forward(const elem *x, const float *gamma, float eps, float *inverse_rms, elem *out) {
    const u64 at = (u64)blockIdx.x * WIDTH;
    float row[OWN], sum = 0.0f;
    EACH(i, column) {
        row[i] = load(x, at + column);
        sum += row[i] * row[i];
    }
    float inverse = 1.0f / sqrtf(block_sum(sum) / WIDTH + eps);
    if (threadIdx.x == 0) inverse_rms[blockIdx.x] = inverse;
    EACH(i, column) store(out, at + column, row[i] * inverse * gamma[column]);
}

// Its gradient; and `unit`, the normalised rows, for `norm_partials`.
KERNEL rms_norm_backward(const elem *dy, const elem *x, const float *inverse_rms, const float *gamma, elem *dx, elem *unit) {
    const u64 at = (u64)blockIdx.x * WIDTH;
    const float inverse = inverse_rms[blockIdx.x];
    float g[OWN], u[OWN], product = 0.0f;
    EACH(i, column) {
        g[i] = load(dy, at + column) * gamma[column];
        u[i] = load(x, at + column) * inverse;
        product += g[i] * u[i];
    }
    float projection = block_sum(product) / WIDTH;
    EACH(i, column) {
        store(dx, at + column, (g[i] - u[i] * projection) * inverse);
        store(unit, at + column, u[i]);
    }
}

// Turns each pair (i, i + HEAD / 2) of a head by its position's angle (Su et al. 2021), in place; `direction` is 1, or -1 for the
// gradient. A block is a token, `angles [positions, HEAD / 2]`.
KERNEL rotate(elem *x, u32 stride, u32 heads, const u32 *positions, const float *angles, float direction) {
    const float *turn = angles + (u64)positions[blockIdx.x] * (HEAD / 2);
    for (u32 i = threadIdx.x; i < heads * (HEAD / 2); i += THREADS) {
        u32 head = i / (HEAD / 2), pair = i % (HEAD / 2);
        u64 low = (u64)blockIdx.x * stride + head * HEAD + pair, high = low + HEAD / 2;
        float cosine = cosf(turn[pair]), sine = direction * sinf(turn[pair]);
        float a = load(x, low), b = load(x, high);
        store(x, low, a * cosine - b * sine);
        store(x, high, b * cosine + a * sine);
    }
}
