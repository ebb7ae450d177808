/* Fine-tunes: finetune "--model_name_or_path MODEL --train_data FILE --output_dir FOLDER ..." [STOP_AFTER]. */
#include <bge.h>
#include <stdio.h>
#include <stdlib.h>

/* Hears what happens on the thread that called bge_trainer_run; false ends the run with a checkpoint. */
static bool on_event(void *user_data, const bge_event *event) {
    const unsigned long stop_after = *(const unsigned long *)user_data;
    if (event->kind == BGE_EVENT_KIND_STEP) {
        printf("%.*s\n", (int)event->json.len, (const char *)event->json.data);
        return event->done < stop_after;
    }
    return true;
}

int main(int argc, char **argv) {
    bge_error *error = NULL;
    bge_config *config = NULL;
    bge_trainer *trainer = NULL;
    bge_text *report = NULL;
    unsigned long stop_after = argc > 2 ? strtoul(argv[2], NULL, 10) : (unsigned long)-1;
    int failed = 0;

    BGE_CHECK_ABI();
    if (argc < 2) {
        fprintf(stderr, "usage: finetune FLAGS [STOP_AFTER]\n");
        return 2;
    }
    if (bge_config_parse(BGE_CONFIG_KIND_FINETUNE, BGE_FORMAT_FLAGS, BGE_STR(argv[1]), &config, &error) ==
            BGE_STATUS_OK &&
        bge_trainer_new(config, &trainer, &error) == BGE_STATUS_OK &&
        bge_trainer_run(trainer, on_event, &stop_after, &report, &error) == BGE_STATUS_OK) {
        printf("%.*s\n", (int)bge_text_view(report).len, (const char *)bge_text_view(report).data);
    } else {
        fprintf(stderr, "%.*s\n", (int)bge_error_message(error).len, (const char *)bge_error_message(error).data);
        failed = 1;
    }
    bge_text_free(report);
    bge_trainer_free(trainer);
    bge_config_free(config);
    bge_error_free(error);
    return failed;
}
