
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
