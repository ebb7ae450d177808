
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

// What `cublasLtMatmul` does: all matrices are by columns, and element (row, column) of one lies at `column * stride + row`. A bias
// is added to the sums before they are rounded; `sums` are those of the second factor over the terms.
extern "C" void emulated_product(const u64 *size, const u64 *places, const u64 *strides, const u64 *transposed, u64 wide,
                                 u64 exact, u64 add, u64 bias, u64 sums) {
    auto factor = [&](u64 matrix, u64 at) {
        return exact ? ((const float *)places[matrix])[at] : load((const elem *)places[matrix], at);
    };
    auto second = [&](u64 k, u64 column) {
        return factor(1, transposed[1] ? k * strides[1] + column : column * strides[1] + k);
    };
    auto read = [&](u64 place, u64 at) { return wide ? ((const float *)place)[at] : load((const elem *)place, at); };
    auto write = [&](u64 place, u64 at, float value) {
        if (wide)
            ((float *)place)[at] = value;
        else
            store((elem *)place, at, value);
    };
    for (u64 column = 0; sums && column < size[1]; column++) {
        float sum = 0.0f;
        for (u64 k = 0; k < size[2]; k++) sum += second(k, column);
        write(sums, column, sum);
    }
    for (u64 column = 0; column < size[1]; column++)
        for (u64 row = 0; row < size[0]; row++) {
            float sum = 0.0f;
            for (u64 k = 0; k < size[2]; k++)
                sum += factor(0, transposed[0] ? row * strides[0] + k : k * strides[0] + row) * second(k, column);
            u64 at = column * strides[2] + row;
            if (add) sum = read(places[2], at) + sum;
            if (bias) sum += read(bias, row);
            write(places[2], at, sum);
        }
}
