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
