
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
