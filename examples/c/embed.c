/* Prints the vectors of queries, one line a text, each number as the eight digits of its bits: embed MODEL TEXT... */
#include <bge.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    bge_error *error = NULL;
    bge_config *config = NULL;
    bge_embedder *embedder = NULL;
    bge_str *texts = NULL;
    float *rows = NULL;
    const size_t count = argc > 2 ? (size_t)argc - 2 : 0;
    size_t dim = 0, i;
    int failed = 1;

    BGE_CHECK_ABI();
    if (count == 0) {
        fprintf(stderr, "usage: embed MODEL TEXT...\n");
        return 2;
    }
    if (bge_config_new(BGE_CONFIG_KIND_EMBED, &config, &error) == BGE_STATUS_OK &&
        bge_config_set(config, BGE_STR("embedder_name_or_path"), BGE_STR(argv[1]), &error) == BGE_STATUS_OK &&
        bge_embedder_open(config, &embedder, &error) == BGE_STATUS_OK) {
        dim = bge_embedder_dim(embedder);
        texts = malloc(count * sizeof *texts);
        rows = malloc(count * dim * sizeof *rows);
    }
    if (texts != NULL && rows != NULL) {
        for (i = 0; i < count; i++)
            texts[i] = BGE_STR(argv[i + 2]);
        if (bge_embedder_encode(embedder, BGE_TEXT_ROLE_QUERY, texts, count, rows, count * dim, &error) ==
            BGE_STATUS_OK) {
            for (i = 0; i < count * dim; i++) {
                uint32_t bits;
                memcpy(&bits, &rows[i], sizeof bits);
                printf("%08lx%c", (unsigned long)bits, (i + 1) % dim == 0 ? '\n' : ' ');
            }
            failed = 0;
        }
    }
    if (failed)
        fprintf(stderr, "%.*s\n", (int)bge_error_message(error).len, (const char *)bge_error_message(error).data);
    free(rows);
    free(texts);
    bge_embedder_free(embedder);
    bge_config_free(config);
    bge_error_free(error);
    return failed;
}
