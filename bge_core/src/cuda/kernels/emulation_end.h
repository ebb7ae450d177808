
// What the host calls. `EMULATED_ENTRIES` is the list of all kernels.

static const EmulatedEntry emulated_entries[] = {EMULATED_ENTRIES};

// 0, or what is wrong: 1 no such kernel, 2 other arguments, 3 a barrier that not all threads reach.
extern "C" int emulated_launch(const char *name, unsigned x, unsigned y, void **arguments, const int *sizes, int count) {
    for (const EmulatedEntry &entry : emulated_entries) {
        if (strcmp(entry.name, name)) continue;
        if (entry.count != count || memcmp(entry.sizes, sizes, count * sizeof(int))) return 2;
        emulated_kernel = entry.run;
        emulated_arguments = arguments;
        gridDim = {x, y, 1};
        for (unsigned row = 0; row < y; row++)
            for (unsigned column = 0; column < x; column++) {
                blockIdx = {column, row, 0};
                if (emulated_block(row + column)) continue;
                // Fibers that stand at a barrier begin anew.
                for (EmulatedFiber &fiber : emulated_fibers) fiber.started = false;
                return 3;
            }
        return 0;
    }
    return 1;
}

extern "C" void emulated_copy(u64 to, u64 from, u64 bytes) { memcpy((void *)to, (const void *)from, bytes); }
extern "C" void emulated_zero(u64 at, u64 bytes) { memset((void *)at, 0, bytes); }

// What `cublasGemmEx` does: all matrices are by columns, and element (row, column) of one lies at `column * stride + row`.
extern "C" void emulated_product(const u64 *size, const u64 *places, const u64 *strides, const u64 *transposed, u64 wide,
                                 u64 exact, u64 add) {
    auto factor = [&](u64 matrix, u64 at) {
        return exact ? ((const float *)places[matrix])[at] : load((const elem *)places[matrix], at);
    };
    for (u64 column = 0; column < size[1]; column++)
        for (u64 row = 0; row < size[0]; row++) {
            float sum = 0.0f;
            for (u64 k = 0; k < size[2]; k++)
                sum += factor(0, transposed[0] ? row * strides[0] + k : k * strides[0] + row) *
                       factor(1, transposed[1] ? k * strides[1] + column : column * strides[1] + k);
            u64 at = column * strides[2] + row;
            if (wide) {
                float *out = (float *)places[2];
                out[at] = add ? out[at] + sum : sum;
            } else {
                elem *out = (elem *)places[2];
                store(out, at, add ? load(out, at) + sum : sum);
            }
        }
}
