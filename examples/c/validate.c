/* Checks training data: validate FILE_OR_FOLDER [GROUP_SIZE]. Prints the report as JSON. */
#include <bge.h>
#include <stdio.h>

int main(int argc, char **argv) {
    bge_error *error = NULL;
    bge_config *config = NULL;
    bge_text *report = NULL;
    int failed = 0;

    BGE_CHECK_ABI();
    if (argc < 2) {
        fprintf(stderr, "usage: validate FILE_OR_FOLDER [GROUP_SIZE]\n");
        return 2;
    }
    /* Settings have the names of FlagEmbedding's flags. Bad data is an answer: the verdict in the report. */
    if (bge_config_new(BGE_CONFIG_KIND_FINETUNE, &config, &error) == BGE_STATUS_OK &&
        bge_config_set(config, BGE_STR("train_data"), BGE_STR(argv[1]), &error) == BGE_STATUS_OK &&
        bge_config_set(config, BGE_STR("train_group_size"), BGE_STR(argc > 2 ? argv[2] : "8"), &error) ==
            BGE_STATUS_OK &&
        bge_validate(config, NULL, NULL, &report, &error) == BGE_STATUS_OK) {
        printf("%.*s\n", (int)bge_text_view(report).len, (const char *)bge_text_view(report).data);
    } else {
        fprintf(stderr, "%.*s\n", (int)bge_error_message(error).len, (const char *)bge_error_message(error).data);
        failed = 1;
    }
    bge_text_free(report);
    bge_config_free(config);
    bge_error_free(error);
    return failed;
}
