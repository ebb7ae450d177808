/* bge: fine-tune and serve BGE text-embedding models.
 *
 * Made by cbindgen from bge_capi/src; do not edit. `UPDATE=1 cargo test -p bge_capi --test header` writes it.
 *
 * INSTALL AND LINK
 *   `make install PREFIX=/usr/local` builds and installs libbge.a, libbge.so, bge.h, bge.hpp, a pkg-config file and a
 *   CMake package:
 *       cc program.c $(pkg-config --cflags --libs bge)              libbge.so, or libbge.a where there is no other
 *       cc program.c $(pkg-config --cflags --libs --static bge)     with what libbge.a itself needs
 *       find_package(bge REQUIRED) ... target_link_libraries(program bge::bge)    or bge::static
 *
 * OWNERSHIP
 *   A function with `out` hands over an object; bge_<type>_free frees it, and does nothing to NULL. `*out` and
 *   `*error` are written only where they have something to say: `out` on success, `error` on failure.
 *   A bge_str is borrowed: yours for the call, the library's for as long as the object it came from. It has a length
 *   and no NUL at its end. Numbers are written into buffers of yours.
 *
 * ERRORS
 *   Functions return a bge_status; BGE_STATUS_OK is 0. The last parameter, which may be NULL, takes a bge_error with
 *   message, path, line and field. Required pointers that are NULL, impossible lengths and texts that are not UTF-8
 *   are errors; that a pointer is true is your promise. A panic inside is caught: the call returns
 *   BGE_STATUS_PANIC, its handles answer BGE_STATUS_POISONED from then on, and the process lives.
 *
 * THREADS
 *   A handle that a function takes as a pointer to const may be used by any number of threads at once; one that it
 *   takes as a pointer to non-const by one thread at a time. Nobody may use a handle while it is freed. Callbacks run on
 *   the thread that made the call (bge_log_set's: on any), must not throw or longjmp, and stop the work by false. The
 *   library computes with as many threads as there are processors; the setting `threads` changes it once.
 *   After fork() a child must not use the library if the parent has.
 *
 * SETTINGS
 *   Everything is set by name, under the names of FlagEmbedding's flags, from text, from a file or one by one:
 *   bge_config_schema lists them. The library prints nothing; bge_log_set hears what it would say.
 *
 * A PROGRAM
 *   #include <bge.h>
 *   #include <stdio.h>
 *
 *   int main(void) {
 *       bge_error *error = NULL;
 *       bge_config *config = NULL;
 *       bge_embedder *embedder = NULL;
 *       float vector[1024];
 *       bge_str text = BGE_STR("what melts ice?");
 *       BGE_CHECK_ABI();
 *       if (bge_config_new(BGE_CONFIG_KIND_EMBED, &config, &error) == BGE_STATUS_OK &&
 *           bge_config_set(config, BGE_STR("embedder_name_or_path"), BGE_STR("tuned"), &error) == BGE_STATUS_OK &&
 *           bge_embedder_open(config, &embedder, &error) == BGE_STATUS_OK &&
 *           bge_embedder_encode(embedder, BGE_TEXT_ROLE_QUERY, &text, 1, vector, 1024, &error) == BGE_STATUS_OK)
 *           printf("%f ...\n", vector[0]);
 *       else
 *           fprintf(stderr, "%.*s\n", (int)bge_error_message(error).len, (const char *)bge_error_message(error).data);
 *       bge_embedder_free(embedder);
 *       bge_config_free(config);
 *       bge_error_free(error);
 *       return 0;
 *   }
 */


#ifndef BGE_H
#define BGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The version this header belongs to. */
#define BGE_VERSION "0.1.0"
#define BGE_VERSION_MAJOR 0
#define BGE_VERSION_MINOR 1
#define BGE_VERSION_PATCH 0

/* What a symbol needs to be seen: define BGE_SHARED on Windows to link with the shared library. */
#if defined(_WIN32) && defined(BGE_SHARED)
#define BGE_API __declspec(dllimport)
#else
#define BGE_API
#endif

/* Marks what a later version will do without. */
#if defined(__GNUC__)
#define BGE_DEPRECATED(instead) __attribute__((deprecated(instead)))
#else
#define BGE_DEPRECATED(instead)
#endif

/* Fails to link with a library of another interface. */
#define BGE_CHECK_ABI() bge_abi_1()


// The number of this interface. It changes when a program must be compiled anew; functions are added without.
#define BGE_ABI_VERSION 1

// The outcome of a call. Numbers are appended, never reused.
enum bge_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  BGE_STATUS_OK = 0,
  // A pointer that must not be NULL is; the error's field names it.
  BGE_STATUS_NULL_POINTER = 1,
  // An argument of a call is out of its range.
  BGE_STATUS_INVALID_ARGUMENT = 2,
  // A flag or key that bge does not know.
  BGE_STATUS_UNKNOWN_FLAG = 3,
  // Settings that contradict each other or cannot be read.
  BGE_STATUS_INVALID_CONFIG = 4,
  // Training or evaluation data with errors.
  BGE_STATUS_INVALID_DATA = 5,
  // A file, folder or model that is not there.
  BGE_STATUS_NOT_FOUND = 6,
  // The operating system refused to read or write.
  BGE_STATUS_IO = 7,
  // A model folder or checkpoint that is damaged or of a wrong shape.
  BGE_STATUS_MODEL_FORMAT = 8,
  // A tokenizer that cannot be loaded or used.
  BGE_STATUS_TOKENIZER = 9,
  // A device that is not there or failed.
  BGE_STATUS_DEVICE = 10,
  // Memory ran out.
  BGE_STATUS_OUT_OF_MEMORY = 11,
  // A rank failed or did not answer.
  BGE_STATUS_DISTRIBUTED = 12,
  // A loss, gradient or weight became NaN or infinite.
  BGE_STATUS_NOT_FINITE = 13,
  // Stopped because the caller asked for it.
  BGE_STATUS_CANCELLED = 14,
  // Known, but not available in this build or for this model.
  BGE_STATUS_UNSUPPORTED = 15,
  // An earlier call on this handle panicked; free it.
  BGE_STATUS_POISONED = 16,
  // bge panicked, which is a bug in it; the handles of the call are poisoned.
  BGE_STATUS_PANIC = 17,
  // A bug in bge.
  BGE_STATUS_INTERNAL = 18,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum bge_status bge_status;
#else
typedef uint32_t bge_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Which command settings are for. Their names are the flags that `bge COMMAND --help` lists.
enum bge_config_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // bge_trainer_new and bge_validate: an embedder.
  BGE_CONFIG_KIND_FINETUNE = 1,
  // The same for a reranker.
  BGE_CONFIG_KIND_FINETUNE_RERANKER = 2,
  // bge_embedder_open.
  BGE_CONFIG_KIND_EMBED = 3,
  // bge_reranker_open.
  BGE_CONFIG_KIND_RERANK = 4,
  // bge_mine.
  BGE_CONFIG_KIND_MINE = 5,
  // bge_score.
  BGE_CONFIG_KIND_SCORE = 6,
  // bge_evaluate.
  BGE_CONFIG_KIND_EVALUATE = 7,
  // bge_merge.
  BGE_CONFIG_KIND_MERGE = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum bge_config_kind bge_config_kind;
#else
typedef uint32_t bge_config_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// A form of settings as text.
enum bge_format
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // To read: JSON if the text begins with a brace, else TOML.
  BGE_FORMAT_FILE = 0,
  // Shell flags: `--name value ...`.
  BGE_FORMAT_FLAGS = 1,
  // A command line of FlagEmbedding's, launcher and all. Training only; to write, one that FlagEmbedding takes.
  BGE_FORMAT_COMMAND_LINE = 2,
  // To write: TOML.
  BGE_FORMAT_TOML = 3,
  // To write: one flat JSON object.
  BGE_FORMAT_JSON = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum bge_format bge_format;
#else
typedef uint32_t bge_format;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What texts are, which decides instruction and length.
enum bge_text_role
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Plain texts: no instruction.
  BGE_TEXT_ROLE_NONE = 0,
  // Queries.
  BGE_TEXT_ROLE_QUERY = 1,
  // Passages.
  BGE_TEXT_ROLE_PASSAGE = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum bge_text_role bge_text_role;
#else
typedef uint32_t bge_text_role;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// What an event is about.
enum bge_event_kind
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Something worth knowing; json is a finding (code, severity, message, ...).
  BGE_EVENT_KIND_NOTE = 1,
  // A stage or a run begins.
  BGE_EVENT_KIND_BEGIN = 2,
  // So much of it is done.
  BGE_EVENT_KIND_PROGRESS = 3,
  // An optimizer step is done; json has global_step, max_steps, epoch, loss, accuracy, grad_norm, learning_rate, tokens, secs.
  BGE_EVENT_KIND_STEP = 4,
  // An entry of the training log; json is the entry.
  BGE_EVENT_KIND_LOG = 5,
  // The model was evaluated; json has the metrics.
  BGE_EVENT_KIND_EVALUATED = 6,
  // A checkpoint or a model was written; json has its path.
  BGE_EVENT_KIND_SAVED = 7,
  // A stage is complete; json has its summary, and whether it was skipped as current.
  BGE_EVENT_KIND_DONE = 8,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum bge_event_kind bge_event_kind;
#else
typedef uint32_t bge_event_kind;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// How much a message matters.
enum bge_log_level
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Something failed.
  BGE_LOG_LEVEL_ERROR = 1,
  // Something is worth a look.
  BGE_LOG_LEVEL_WARNING = 2,
  // Good to know.
  BGE_LOG_LEVEL_INFO = 3,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum bge_log_level bge_log_level;
#else
typedef uint32_t bge_log_level;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Settings of one command. One thread at a time may change them; while none does, all may read.
typedef struct bge_config bge_config;

// A loaded embedder. Any number of threads may encode with it at once.
typedef struct bge_embedder bge_embedder;

// What went wrong. Never changes, so that any thread may read it; freed with bge_error_free.
typedef struct bge_error bge_error;

// A loaded cross-encoder. Any number of threads may score with it at once.
typedef struct bge_reranker bge_reranker;

// A text that the caller owns; freed with bge_text_free.
typedef struct bge_text bge_text;

// A prepared run. Any thread may stop it while one runs it.
typedef struct bge_trainer bge_trainer;

// A validation of bytes under way; one thread at a time.
typedef struct bge_validator bge_validator;

// A borrowed text: UTF-8, of a length, without a NUL at its end. An empty one may have data of NULL.
typedef struct bge_str {
  // The first byte.
  const uint8_t *data;
  // How many bytes.
  size_t len;
} bge_str;

// Hears a message, which is borrowed for the call. Comes from whichever thread has something to say, from several at once
// too. May call the library, which may then have something to say again; must not throw or jump out.
typedef void (*bge_log_fn)(void *user_data, uint32_t level, struct bge_str message);

// Frees what a callback was given. NULL where there is nothing to free.
typedef void (*bge_destroy_fn)(void *user_data);

// Something that happened. Borrowed for the call. Fields are appended, and struct_size says how many there are.
typedef struct bge_event {
  // The size of this struct in the library that made it.
  size_t struct_size;
  // A bge_event_kind.
  uint32_t kind;
  // Always 0.
  uint32_t reserved;
  // How much is done, in units of the stage.
  uint64_t done;
  // Of how much; 0 where it is not known.
  uint64_t total;
  // The name of the stage, such as `encoding queries` or `train`.
  struct bge_str stage;
  // Details as a JSON object.
  struct bge_str json;
} bge_event;

// Hears events, on the thread that made the call. Answers true to go on and false to stop; must not throw or jump out,
// nor free the handle of the call.
typedef bool (*bge_event_fn)(void *user_data, const struct bge_event *event);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The status of an error; BGE_STATUS_OK for NULL.
//
// Since: 0.1
BGE_API bge_status bge_error_status(const struct bge_error *error);

// The whole message: place, field, what is wrong and the way out. Borrowed from the error; empty for NULL.
//
// Since: 0.1
BGE_API struct bge_str bge_error_message(const struct bge_error *error);

// The file or folder it is about, or an empty text. Borrowed from the error.
//
// Since: 0.1
BGE_API struct bge_str bge_error_path(const struct bge_error *error);

// The line in it, counted from 1; 0 where there is none.
//
// Since: 0.1
BGE_API uint64_t bge_error_line(const struct bge_error *error);

// The setting, tensor or parameter it is about, or an empty text. Borrowed from the error.
//
// Since: 0.1
BGE_API struct bge_str bge_error_field(const struct bge_error *error);

// Everything that is wrong with settings, as a JSON array of findings (code, severity, path, line, field, message);
// the message is only about the first. `[]` for other errors. Borrowed from the error.
//
// Since: 0.1
BGE_API
struct bge_str bge_error_issues(const struct bge_error *error);

// Frees an error. NULL is fine.
//
// Since: 0.1
BGE_API void bge_error_free(struct bge_error *error);

// The text itself, borrowed from its owner; empty for NULL.
//
// Since: 0.1
BGE_API struct bge_str bge_text_view(const struct bge_text *text);

// Frees a text. NULL is fine.
//
// Since: 0.1
BGE_API void bge_text_free(struct bge_text *text);

// The version of the library, such as `0.1.0`. Never freed.
//
// Since: 0.1
BGE_API struct bge_str bge_version(void);

// The BGE_ABI_VERSION that the library was built with.
//
// Since: 0.1
BGE_API uint32_t bge_abi_version(void);

// Does nothing but exist: a program that refers to it does not link with a library of another interface. BGE_CHECK_ABI()
// calls it, and so do bge.hpp and the Go package.
//
// Since: 0.1
BGE_API
void bge_abi_1(void);

// Sets who hears what the library would like to say, in place of whoever heard before; NULL for nobody, as at the start.
// Messages up to `level` (a bge_log_level) are heard. `destroy` is called with `user_data` once it has been replaced and no
// thread is in the callback any more, or at once where there is no callback; until then `user_data` must stay.
// May be called at any time from any thread, from the callback too.
//
// Since: 0.1
BGE_API
void bge_log_set(bge_log_fn on_message,
                 void *user_data,
                 uint32_t level,
                 bge_destroy_fn destroy);

// Makes settings with their defaults. `kind` is a bge_config_kind.
//
// Since: 0.1
BGE_API bge_status bge_config_new(uint32_t kind, struct bge_config **out, struct bge_error **error);

// Makes settings from text. `kind` is a bge_config_kind, `format` a bge_format. An unknown name is an error with the
// nearest one; bge_error_issues lists everything that is wrong.
//
// Since: 0.1
BGE_API
bge_status bge_config_parse(uint32_t kind,
                            uint32_t format,
                            struct bge_str text,
                            struct bge_config **out,
                            struct bge_error **error);

// Makes settings from a TOML or JSON file. `kind` is a bge_config_kind.
//
// Since: 0.1
BGE_API
bge_status bge_config_parse_file(uint32_t kind,
                                 struct bge_str path,
                                 struct bge_config **out,
                                 struct bge_error **error);

// Sets one setting by name; the value is read as on a command line, and a list may be a JSON array.
//
// Since: 0.1
BGE_API
bge_status bge_config_set(struct bge_config *config,
                          struct bge_str name,
                          struct bge_str value,
                          struct bge_error **error);

// The value of a setting as JSON: a text has quotes, what is not set is `null`.
//
// Since: 0.1
BGE_API
bge_status bge_config_get(const struct bge_config *config,
                          struct bge_str name,
                          struct bge_text **out,
                          struct bge_error **error);

// Checks settings against each other, without looking at a disk: `{"ok": true, "issues": [...]}`. Bad settings are an
// answer here, not an error.
//
// Since: 0.1
BGE_API
bge_status bge_config_check(const struct bge_config *config,
                            struct bge_text **out,
                            struct bge_error **error);

// Writes settings as text. `format` is a bge_format: flags, TOML, JSON, or for training a command line.
//
// Since: 0.1
BGE_API
bge_status bge_config_render(const struct bge_config *config,
                             uint32_t format,
                             struct bge_text **out,
                             struct bge_error **error);

// Every setting of this kind as JSON Schema, with type, default and help.
//
// Since: 0.1
BGE_API
bge_status bge_config_schema(const struct bge_config *config,
                             struct bge_text **out,
                             struct bge_error **error);

// Frees settings. NULL is fine. What was made from them lives on.
//
// Since: 0.1
BGE_API void bge_config_free(struct bge_config *config);

// Validates the files of the setting train_data and gives the report as JSON; where eval_dataset is set, it is compared with.
// With model_name_or_path, tokens are counted too. `config` is of kind FINETUNE or FINETUNE_RERANKER. Bad data is
// an answer here, not an error: the report's verdict is "errors".
//
// Since: 0.1
BGE_API
bge_status bge_validate(const struct bge_config *config,
                        bge_event_fn on_event,
                        void *user_data,
                        struct bge_text **out,
                        struct bge_error **error);

// Begins a validation of bytes that come in pieces, as one file of the name `name`.
//
// Since: 0.1
BGE_API
bge_status bge_validator_new(const struct bge_config *config,
                             struct bge_str name,
                             struct bge_validator **out,
                             struct bge_error **error);

// Takes the next piece, cut anywhere.
//
// Since: 0.1
BGE_API
bge_status bge_validator_push(struct bge_validator *validator,
                              const uint8_t *bytes,
                              size_t len,
                              struct bge_error **error);

// Ends the validation and gives the report as JSON.
//
// Since: 0.1
BGE_API
bge_status bge_validator_finish(struct bge_validator *validator,
                                struct bge_text **out,
                                struct bge_error **error);

// Frees a validator, finished or not. NULL is fine.
//
// Since: 0.1
BGE_API void bge_validator_free(struct bge_validator *validator);

// Opens the model that settings of kind BGE_CONFIG_KIND_EMBED name (embedder_name_or_path).
//
// Since: 0.1
BGE_API
bge_status bge_embedder_open(const struct bge_config *config,
                             struct bge_embedder **out,
                             struct bge_error **error);

// Makes an embedder join the requests of several threads: up to `max_batch` texts are encoded together, and the first
// request of an idle embedder waits up to `max_wait_us` microseconds, a second at most, for others. Vectors do not
// change by it. Call it before other threads use the embedder; calling it again changes the limits.
//
// Since: 0.1
BGE_API
bge_status bge_embedder_coalesce(struct bge_embedder *embedder,
                                 size_t max_batch,
                                 uint32_t max_wait_us,
                                 struct bge_error **error);

// Numbers in a vector; 0 for NULL.
//
// Since: 0.1
BGE_API size_t bge_embedder_dim(const struct bge_embedder *embedder);

// What was assumed where neither the settings nor the folder said it, as a JSON array of findings.
//
// Since: 0.1
BGE_API
bge_status bge_embedder_notes(const struct bge_embedder *embedder,
                              struct bge_text **out,
                              struct bge_error **error);

// Writes the vectors of `count` texts, one row of bge_embedder_dim() numbers after the other, to `out`, which has room
// for `out_len` numbers. `role` is a bge_text_role. A text's vector does not depend on the texts around it.
//
// Since: 0.1
BGE_API
bge_status bge_embedder_encode(const struct bge_embedder *embedder,
                               uint32_t role,
                               const struct bge_str *texts,
                               size_t count,
                               float *out,
                               size_t out_len,
                               struct bge_error **error);

// Frees an embedder that no call is using. NULL is fine.
//
// Since: 0.1
BGE_API void bge_embedder_free(struct bge_embedder *embedder);

// Opens the model that settings of kind BGE_CONFIG_KIND_RERANK name (reranker_name_or_path).
//
// Since: 0.1
BGE_API
bge_status bge_reranker_open(const struct bge_config *config,
                             struct bge_reranker **out,
                             struct bge_error **error);

// Writes the scores of `count` pairs to `out`, which has room for `out_len` numbers: logits, or with the setting
// `normalize` their sigmoid. The first query goes with the first passage, and so on.
//
// Since: 0.1
BGE_API
bge_status bge_reranker_score(const struct bge_reranker *reranker,
                              const struct bge_str *queries,
                              const struct bge_str *passages,
                              size_t count,
                              float *out,
                              size_t out_len,
                              struct bge_error **error);

// Frees a reranker that no call is using. NULL is fine.
//
// Since: 0.1
BGE_API void bge_reranker_free(struct bge_reranker *reranker);

// Opens model, tokenizer and data of settings of kind FINETUNE or FINETUNE_RERANKER, and checks that they fit together.
// Nothing is written yet.
//
// Since: 0.1
BGE_API
bge_status bge_trainer_new(const struct bge_config *config,
                           struct bge_trainer **out,
                           struct bge_error **error);

// Trains to the end, or until `on_event` (NULL if nobody listens) answers false or bge_trainer_stop is called, and gives
// the report as JSON (`out` may be NULL). A stopped run writes a checkpoint, is no error, and says `"stopped": true`.
//
// Since: 0.1
BGE_API
bge_status bge_trainer_run(const struct bge_trainer *trainer,
                           bge_event_fn on_event,
                           void *user_data,
                           struct bge_text **out,
                           struct bge_error **error);

// Asks a run to end after its present step, with a checkpoint. From any thread, before or during the run; NULL is fine.
//
// Since: 0.1
BGE_API
void bge_trainer_stop(const struct bge_trainer *trainer);

// Frees a trainer that is not running. NULL is fine.
//
// Since: 0.1
BGE_API void bge_trainer_free(struct bge_trainer *trainer);

// Mines hard negatives as settings of kind BGE_CONFIG_KIND_MINE say, and gives the report as JSON (`out` may be NULL).
// Stopped by `on_event`, it fails with BGE_STATUS_CANCELLED, and the same call goes on where it was.
//
// Since: 0.1
BGE_API
bge_status bge_mine(const struct bge_config *config,
                    bge_event_fn on_event,
                    void *user_data,
                    struct bge_text **out,
                    struct bge_error **error);

// Adds a teacher's scores to training rows as settings of kind BGE_CONFIG_KIND_SCORE say, and gives the report as JSON
// (`out` may be NULL). Stopped by `on_event`, it fails with BGE_STATUS_CANCELLED, and the same call goes on where it
// was.
//
// Since: 0.1
BGE_API
bge_status bge_score(const struct bge_config *config,
                     bge_event_fn on_event,
                     void *user_data,
                     struct bge_text **out,
                     struct bge_error **error);

// Measures retrieval as settings of kind BGE_CONFIG_KIND_EVALUATE say, and gives the report as JSON (`out` may be NULL);
// the settings report and output_file write it to files too. It cannot be stopped: the answer of `on_event` has no
// effect.
//
// Since: 0.1
BGE_API
bge_status bge_evaluate(const struct bge_config *config,
                        bge_event_fn on_event,
                        void *user_data,
                        struct bge_text **out,
                        struct bge_error **error);

// Merges models as settings of kind BGE_CONFIG_KIND_MERGE say, and gives the report as JSON (`out` may be NULL). It
// cannot be stopped: the answer of `on_event` has no effect.
//
// Since: 0.1
BGE_API
bge_status bge_merge(const struct bge_config *config,
                     bge_event_fn on_event,
                     void *user_data,
                     struct bge_text **out,
                     struct bge_error **error);

// Runs the stages of a pipeline file's text (TOML or JSON): validate, mine, score, train, merge, evaluate. What is
// current is skipped. Gives the report as JSON (`out` may be NULL). Where `on_event` answers false, the stage ends as it
// would alone, and the call fails with BGE_STATUS_CANCELLED; the same call goes on where it was.
//
// Since: 0.1
BGE_API
bge_status bge_pipeline(struct bge_str text,
                        bge_event_fn on_event,
                        void *user_data,
                        struct bge_text **out,
                        struct bge_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BGE_H */


/* These stand behind the end of the header's own guard. */
#ifndef BGE_STR

/* A bge_str of a text that ends with NUL; empty for NULL. */
static inline bge_str bge_str_c(const char *text) {
    bge_str borrowed;
    borrowed.data = (const uint8_t *)text;
    borrowed.len = text == NULL ? 0 : strlen(text);
    return borrowed;
}

/* A bge_str of a string literal, or of any text that ends with NUL. */
#define BGE_STR(text) bge_str_c(text)

#endif
