/* Calls every function of bge.h wrongly: hostile.rs writes the calls, one parameter wrong at a time, from the header.
 * hostile MODEL RERANKER TRAIN_DATA FOLDER SETTINGS */
#include <bge.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROOM = 64 };

/* What a call has to answer, beside statuses: anything a sound library may answer, or that and not OK. */
enum { ANY = 1000, REFUSED = 1001 };

static char **arguments;
static int failures, calls;

static bge_config *config, *other;
static bge_embedder *embedder;
static bge_reranker *reranker;
static bge_trainer *trainer;
static bge_validator *validator;
static bge_error *error;
static float numbers[ROOM + 1];

static const bge_str texts[3] = {{(const uint8_t *)"a", 1}, {(const uint8_t *)"b", 1}, {NULL, 0}};
static const bge_str no_bytes[2] = {{(const uint8_t *)"a", 1}, {NULL, 1}};
static const bge_str no_end[2] = {{(const uint8_t *)"a", 1}, {(const uint8_t *)"b", SIZE_MAX}};
static const bge_str no_utf8[2] = {{(const uint8_t *)"a", 1}, {(const uint8_t *)"\xff", 1}};

static bge_str raw(const char *data, size_t len) {
    bge_str made;
    made.data = (const uint8_t *)data;
    made.len = len;
    return made;
}

static bool go_on(void *user_data, const bge_event *event) {
    (void)user_data;
    return event->struct_size == sizeof *event;
}

static bool stop(void *user_data, const bge_event *event) {
    (void)user_data;
    (void)event;
    return false;
}

static void must(bge_status status) {
    if (status != BGE_STATUS_OK) {
        fprintf(stderr, "cannot begin: %.*s\n", (int)bge_error_message(error).len,
                (const char *)bge_error_message(error).data);
        exit(2);
    }
}

static void set(bge_config *of, const char *name, const char *value) {
    must(bge_config_set(of, bge_str_c(name), bge_str_c(value), &error));
}

/* Settings that do what the kind is for, as far as the functions here need them. */
static bge_config *settings(bge_config_kind kind) {
    bge_config *made = NULL;
    must(bge_config_new(kind, &made, &error));
    if (kind == BGE_CONFIG_KIND_EMBED)
        set(made, "embedder_name_or_path", arguments[1]);
    if (kind == BGE_CONFIG_KIND_RERANK)
        set(made, "reranker_name_or_path", arguments[2]);
    if (kind == BGE_CONFIG_KIND_FINETUNE) {
        set(made, "model_name_or_path", arguments[1]);
        set(made, "train_data", arguments[3]);
        set(made, "output_dir", arguments[4]);
        set(made, "train_group_size", "2");
        set(made, "overwrite_output_dir", "True");
        set(made, "max_steps", "1");
    }
    return made;
}

static void begin(bge_config_kind kind, bge_config_kind wrong) {
    config = settings(kind);
    other = settings(wrong);
}

static void end(void) {
    bge_embedder_free(embedder), embedder = NULL;
    bge_reranker_free(reranker), reranker = NULL;
    bge_trainer_free(trainer), trainer = NULL;
    bge_validator_free(validator), validator = NULL;
    bge_config_free(config), config = NULL;
    bge_config_free(other), other = NULL;
}

/* Judges one call. `field` is what the error has to name, or NULL; `wrote` is what the call left in `out`. */
static void judge(const char *call, bge_status got, bge_status want, const char *field, bool asked, const void *wrote) {
    const bge_str named = bge_error_field(error);
    bool good = got != BGE_STATUS_PANIC && got != BGE_STATUS_POISONED && got != BGE_STATUS_INTERNAL;
    calls++;
    good = good && (want == ANY || (want == REFUSED ? got != BGE_STATUS_OK : got == want));
    if (got == BGE_STATUS_OK)
        good = good && error == NULL;
    else
        good = good && wrote == NULL && (!asked || bge_error_status(error) == got);
    if (asked && field != NULL)
        good = good && named.len == strlen(field) && memcmp(named.data, field, named.len) == 0;
    if (!good) {
        failures++;
        fprintf(stderr, "%s\n    gave %u instead of %u; %.*s\n", call, (unsigned)got, (unsigned)want,
                (int)bge_error_message(error).len, (const char *)bge_error_message(error).data);
    }
    bge_error_free(error), error = NULL;
}

/* A text that may be read to its end. */
static void readable(const char *call, bge_str text) {
    size_t i, sum = 0;
    calls++;
    for (i = 0; i < text.len; i++)
        sum += text.data[i] != 0;
    if (sum != text.len) {
        failures++;
        fprintf(stderr, "%s gave a text with zeros\n", call);
    }
}

#include "hostile_calls.h"

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: hostile MODEL RERANKER TRAIN_DATA FOLDER SETTINGS\n");
        return 2;
    }
    arguments = argv;
    hostile_calls();
    printf("%d\n", calls);
    return failures != 0;
}
