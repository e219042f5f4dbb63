/*
 * critic.h - critique a draft and refine it, on the device.
 *
 * This file is the contract: what is not here is not public. It is generated; the comments
 * are those of the source. The shortest program:
 *
 *     critic_model *model = NULL;
 *     critic_session *session = NULL;
 *     critic_result *result = NULL;
 *     critic_request request = critic_request_default();
 *     request.prompt = critic_text_of("What is 48 + 24?");
 *     request.response = critic_text_of("48 + 24 = 74");
 *     if (critic_model_open("model.critic", NULL, &model, NULL) == CRITIC_OK &&
 *         critic_session_new(model, NULL, &session, NULL) == CRITIC_OK &&
 *         critic_critique(session, &request, &result, NULL) == CRITIC_OK) {
 *       critic_text text = critic_result_critique(result);
 *       printf("%.*s\n", (int)text.len, text.data);
 *     }
 *     critic_result_free(result);
 *     critic_session_free(session);
 *     critic_model_free(model);
 *
 * C99 or C++11, and later ones.
 *
 * Rules that hold for every function
 *
 *   Status     What can fail returns critic_status. Outputs are written only on CRITIC_OK,
 *              and *error only otherwise. error may be NULL.
 *   Ownership  `critic_x **out` gives you an object: release it once with critic_x_free,
 *              which accepts NULL. All else that you get is borrowed, from the object it was
 *              got from; all that you give is needed until the call returns, unless its
 *              comment says longer.
 *   Text       UTF-8 with a length in bytes; need not end in NUL. Offsets are bytes.
 *   Threads    critic_model and critic_result: all threads at once. critic_session: one
 *              thread at a time, and any; a second one gets CRITIC_BUSY. Freeing an object
 *              ends its use: no other thread may be in a call with it. critic_session_cancel
 *              and critic_session_clear_cancel: any thread at any time.
 *   Callbacks  Run on the thread that made the call. They must return: no longjmp, and no
 *              exception (critic.hpp carries exceptions across).
 *   Structs    Those that begin with struct_size only ever grow at their end; zero means the
 *              default. Get them from critic_x_default(). A program that was built with an
 *              older header works with a newer library; one built with a newer header works
 *              with an older library while it uses no field that this does not know, which
 *              is CRITIC_INVALID_ARGUMENT. Fields called reserved are zero.
 *   Blocking   Only where a comment says so.
 *   Failures   No panic, exit, signal, or output reaches you, and no setting is kept for the
 *              whole process: no log level, no last error, no environment variable. (Rust's
 *              standard library keeps a few bytes, which leak checkers call reachable.)
 *   Versions   While the major version is 0 a new minor version may break programs; the
 *              library's name, libcritic.so.0, changes when it does.
 *
 * docs/embedding.md has the rest: building, shipping a model, memory, fork, dlclose.
 */
#ifndef CRITIC_H
#define CRITIC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Windows: define CRITIC_STATIC to link the static library. */
#if defined(_WIN32) && !defined(CRITIC_STATIC)
#define CRITIC_API __declspec(dllimport)
#else
#define CRITIC_API
#endif

#if defined(__GNUC__) || defined(__clang__)
#define CRITIC_MUST_USE __attribute__((warn_unused_result))
#define CRITIC_INLINE static inline __attribute__((unused))
#else
#define CRITIC_MUST_USE
#define CRITIC_INLINE static inline
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Version ------------------------------------------------------------------- */

/* Version of this header. */
#define CRITIC_VERSION_MAJOR 0

/* Grows when something is added. */
#define CRITIC_VERSION_MINOR 1

/* Grows when something is mended. */
#define CRITIC_VERSION_PATCH 0

/*
 * The version of the library that is loaded, as major << 24 | minor << 16 | patch << 8.
 * It may be newer than this header. Never fails; any thread.
 */
CRITIC_API uint32_t critic_version_number(void);

/* The same as text, for example "0.1.0". Static: do not free it. Never fails; any thread. */
CRITIC_API const char *critic_version(void);

/* ---- Status -------------------------------------------------------------------- */

/*
 * How a call went. Numbers are never reused; a later version may add some, so treat an
 * unknown one as a failure.
 */
typedef int32_t critic_status;
enum {
  /* Done. Outputs are written. */
  CRITIC_OK = 0,
  /* Stopped by critic_session_cancel or by a callback. The session works on. */
  CRITIC_CANCELLED = 1,
  /* An argument is NULL, out of range, not UTF-8, or unknown to this version. */
  CRITIC_INVALID_ARGUMENT = 2,
  /* The operating system refused a file. */
  CRITIC_IO = 3,
  /* The bytes are not a model file, or a damaged one. */
  CRITIC_CORRUPT_MODEL = 4,
  /* A model file that is whole, but asks for what this version cannot do. */
  CRITIC_UNSUPPORTED_MODEL = 5,
  /* The system has not enough memory. */
  CRITIC_OUT_OF_MEMORY = 6,
  /* The texts have more tokens than the session holds. The session works on. */
  CRITIC_CONTEXT_FULL = 7,
  /* The session is in use: by another thread, or by the call whose callback this is. */
  CRITIC_BUSY = 8,
  /* A defect of the library, or a session that met one. Free the session. */
  CRITIC_INTERNAL = 9,
  /* The host's actor or acceptance check failed. The session works on. */
  CRITIC_CALLBACK_FAILED = 10,
};

/*
 * What went wrong, in memory of the caller's: put it on the stack. Written only when a
 * call fails. Its size never changes.
 */
typedef struct critic_error {
  /* What the call returned. */
  critic_status status;
  /*
   * English, lower case, ends in NUL, cut at a character's end. Names the file or the
   * field at fault, or an unknown name as it was given; holds nothing else of texts.
   */
  char message[252];
} critic_error;

/*
 * The name of a status, for example "CRITIC_BUSY"; "unknown" where there is none. Static:
 * do not free it. Never fails; any thread.
 */
CRITIC_API const char *critic_status_name(int32_t status);

/* ---- Text ---------------------------------------------------------------------- */

/*
 * UTF-8 with a length in bytes. Need not end in NUL, and may contain it. All zero is the
 * empty text. What it points to belongs to whoever handed it out: texts that you give
 * need to live until the call returns, texts that you get say how long they live.
 */
typedef struct critic_text {
  /* The first byte; may be NULL where len is 0. */
  const char *data;
  /* Bytes. */
  size_t len;
} critic_text;

/* A string that ends in NUL, as a text. NULL is the empty text. */
CRITIC_INLINE critic_text critic_text_of(const char *string) {
  critic_text text;
  text.data = string;
  text.len = string == NULL ? 0 : strlen(string);
  return text;
}

/* ---- Results ------------------------------------------------------------------- */

/* Whether a draft needs a change. */
typedef int32_t critic_verdict;
enum {
  /* Nothing was criticised: the result of another function, or NULL. */
  CRITIC_VERDICT_NONE = 0,
  /* Something is wrong. */
  CRITIC_VERDICT_REVISE = 1,
  /* Nothing needs to change. */
  CRITIC_VERDICT_KEEP = 2,
};

/* How bad a finding is, or a line of the log. */
typedef int32_t critic_severity;
enum {
  /* A remark. */
  CRITIC_NOTE = 1,
  /* Probably wrong. */
  CRITIC_WARNING = 2,
  /* Wrong. */
  CRITIC_ERROR = 3,
};

/*
 * What a call came to. Owns its texts, which live as long as it does. Immutable: any number
 * of threads may read it at once. Outlives its session and its model.
 */
typedef struct critic_result critic_result;

/* One problem of the draft, at an exact place of it. Make it with critic_finding_default(). */
typedef struct critic_finding {
  /* sizeof(critic_finding). */
  size_t struct_size;
  /* Byte offset of its start in the draft. */
  uint64_t start;
  /* Byte offset of its end. */
  uint64_t end;
  /* How bad it is. */
  critic_severity severity;
  /* 1 if there is a replacement, which may be empty; else 0. */
  uint32_t has_replacement;
  /* The draft's text there. */
  critic_text quote;
  /* What is wrong. */
  critic_text message;
  /* What should stand there instead. */
  critic_text replacement;
} critic_finding;

/* One of several critiques. Make it with critic_candidate_default(). */
typedef struct critic_candidate {
  /* sizeof(critic_candidate). */
  size_t struct_size;
  /* The text. */
  critic_text critique;
  /* Its verdict. */
  critic_verdict verdict;
  /* 1 if there is a utility advantage, else 0. */
  uint32_t has_utility_advantage;
  /* Estimate of what the critique gains over leaving the draft as it is. */
  float utility_advantage;
  /* Zero. */
  uint32_t reserved;
} critic_candidate;

/* What one round of critic_improve did. Make it with critic_round_default(). */
typedef struct critic_round {
  /* sizeof(critic_round). */
  size_t struct_size;
  /* The critique. */
  critic_text critique;
  /* The refinement; data is NULL where the critique found nothing to change. */
  critic_text refinement;
  /* 1 if it replaced the draft, else 0. */
  uint32_t accepted;
  /* Zero. */
  uint32_t reserved;
} critic_round;

/* Where the time of a call went. Make it with critic_timings_default(). */
typedef struct critic_timings {
  /* sizeof(critic_timings). */
  size_t struct_size;
  /* Tokens of prompts, reused ones included. */
  uint64_t prompt_tokens;
  /* Those of them that the session had kept from before. */
  uint64_t reused_tokens;
  /* Tokens that were written. */
  uint64_t generated_tokens;
  /* Milliseconds of reading prompts. */
  double prefill_ms;
  /* Milliseconds of writing. */
  double decode_ms;
} critic_timings;

/*
 * Whether the draft needs a change: what the (first round's) critique says. Of a NULL result
 * CRITIC_VERDICT_NONE. This and all that follows: any thread; never blocks, never fails
 * unless it says so.
 */
CRITIC_API critic_verdict critic_result_verdict(const critic_result *result);

/*
 * The text to go on with: of critic_generate what was written; of critic_refine and
 * critic_improve the last accepted refinement, or else the draft; of others empty. Lives
 * as long as the result, as do all texts below. Of a NULL result empty.
 */
CRITIC_API critic_text critic_result_text(const critic_result *result);

/*
 * The critique; of critic_improve that of the first round, which is about the draft that was
 * given. Empty where there is none.
 */
CRITIC_API critic_text critic_result_critique(const critic_result *result);

/*
 * The refinement, accepted or not; of critic_improve the last one that was accepted, or else
 * the last. Its data is NULL where none was written.
 */
CRITIC_API critic_text critic_result_refinement(const critic_result *result);

/* 1 if a refinement was accepted, else 0. */
CRITIC_API int32_t critic_result_accepted(const critic_result *result);

/*
 * 0 if the limit of tokens or of the context cut off a text of the result: the critique, the
 * last refinement, or what was generated. Such a refinement is never accepted. Else 1.
 */
CRITIC_API int32_t critic_result_complete(const critic_result *result);

/*
 * Writes to out what the critique is estimated to gain over leaving the draft as it is, and
 * returns 1; returns 0, and writes nothing, where there is no estimate: it needs a model with
 * an adapter that was trained for it. out may be NULL.
 */
CRITIC_API int32_t critic_result_utility_advantage(const critic_result *result, float *out);

/*
 * How many findings there are: 0 unless the critique was structured (CRITIC_STRUCTURED) and found
 * something.
 */
CRITIC_API size_t critic_result_finding_count(const critic_result *result);

/* Writes one finding to out. CRITIC_INVALID_ARGUMENT where there is none of this index. */
CRITIC_API critic_status critic_result_finding(const critic_result *result, size_t index,
    critic_finding *out);

/* How many critiques the critique was chosen from, itself included; 0 where it was given. */
CRITIC_API size_t critic_result_candidate_count(const critic_result *result);

/* Writes one candidate to out. CRITIC_INVALID_ARGUMENT where there is none of this index. */
CRITIC_API critic_status critic_result_candidate(const critic_result *result, size_t index,
    critic_candidate *out);

/* How many rounds critic_improve took; 0 for other functions. */
CRITIC_API size_t critic_result_round_count(const critic_result *result);

/* Writes one round to out. CRITIC_INVALID_ARGUMENT where there is none of this index. */
CRITIC_API critic_status critic_result_round(const critic_result *result, size_t index,
    critic_round *out);

/*
 * The tokens of critic_tokenize and critic_score, or those that critic_generate wrote; count
 * gets how many. NULL, and 0, where there are none. Live as long as the result.
 */
CRITIC_API const uint32_t *critic_result_tokens(const critic_result *result, size_t *count);

/*
 * Of critic_score: the natural log-probability of each token but the first, given all before
 * it; count gets how many. NULL, and 0, where there are none. Live as long as the result.
 */
CRITIC_API const double *critic_result_logprobs(const critic_result *result, size_t *count);

/* Writes where the time went to out. CRITIC_INVALID_ARGUMENT. */
CRITIC_API critic_status critic_result_timings(const critic_result *result,
    critic_timings *out);

/* Releases a result, and zeroes its texts. NULL does nothing. Any thread, once. */
CRITIC_API void critic_result_free(critic_result *result);

/* All zero, with its size. */
CRITIC_INLINE critic_finding critic_finding_default(void) {
  critic_finding value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* All zero, with its size. */
CRITIC_INLINE critic_candidate critic_candidate_default(void) {
  critic_candidate value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* All zero, with its size. */
CRITIC_INLINE critic_round critic_round_default(void) {
  critic_round value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* All zero, with its size. */
CRITIC_INLINE critic_timings critic_timings_default(void) {
  critic_timings value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* ---- Models -------------------------------------------------------------------- */

/* Where borrowed bytes should begin: on a multiple of this address. */
#define CRITIC_ALIGNMENT 64

/* How a model's bytes are held: critic_model_options.memory. */
typedef uint32_t critic_memory;
enum {
  /*
   * A file is mapped: nothing is copied, and processes share its pages. Bytes that are in
   * memory already are copied.
   */
  CRITIC_MEMORY_DEFAULT = 0,
  /*
   * Copied into private memory, which takes as much memory as the file is long. Immune to
   * a file that is cut short, or replaced in place, while it is in use: where that happens
   * to a mapped file, the system ends the process with SIGBUS.
   */
  CRITIC_MEMORY_COPY = 1,
  /*
   * For critic_model_open_memory, and the default elsewhere: nothing is copied. The bytes stay yours; they must neither
   * move nor change until the model and all its sessions are freed. Should begin on a
   * multiple of CRITIC_ALIGNMENT: where they do not, they are copied after all, and
   * critic_model_info.private_bytes tells.
   */
  CRITIC_MEMORY_BORROW = 2,
};

/* A model that is open. Immutable: any number of threads may use it at once. */
typedef struct critic_model critic_model;

/*
 * Receives what the library has to say, line by line, without a line's end. The text lives
 * until it returns. It runs on the thread that makes the call, never on any other, but two
 * threads may call it at once. Without it the library says nothing anywhere.
 */
typedef void (*critic_log_fn)(void *userdata, critic_severity severity, critic_text line);

/* How to open a model. Make it with critic_model_options_default(). */
typedef struct critic_model_options {
  /* sizeof(critic_model_options). */
  size_t struct_size;
  /* A critic_memory. */
  uint32_t memory;
  /* Zero. */
  uint32_t reserved;
  /* NULL: no log. */
  critic_log_fn log;
  /* Handed to log. Must live as long as the model. */
  void *log_userdata;
  /*
   * The adapter file that makes a critic of the model, as a path like the model's own; NULL:
   * the adapter in the model's file, if any.
   */
  const char *adapter_path;
  /*
   * The bytes of such a file instead, copied or, with CRITIC_MEMORY_BORROW, yours as the
   * model's are.
   */
  critic_text adapter;
} critic_model_options;

/* What a model is. Make it with critic_model_info_default(). */
typedef struct critic_model_info {
  /* sizeof(critic_model_info). */
  size_t struct_size;
  /* Length of the model file. */
  uint64_t file_bytes;
  /* Private memory that its bytes take: 0 where the file is mapped or borrowed. */
  uint64_t private_bytes;
  /* Tokens that the model was made for: the largest context of a session. */
  uint32_t context_tokens;
  /* Different tokens that it knows. */
  uint32_t vocabulary;
  /* The version of the file format. */
  uint32_t format_version;
  /* 1 if the model has an adapter, else 0. */
  uint32_t has_adapter;
  /* What its maker calls it. This and the texts below live as long as the model. */
  critic_text name;
  /* The architecture, for example "llama". */
  critic_text family;
  /* Licence of the weights; empty where unknown. */
  critic_text licence;
  /*
   * The fastest kernel of this machine, which a session uses unless it names another:
   * "scalar", "avx2", "avx512" or "neon". Static.
   */
  critic_text kernel;
} critic_model_info;

/*
 * Opens the model file at a path.
 *
 * path     Ends in NUL; on Windows it is UTF-8. A .critic file: other formats are
 *          converted with the command line, `critic convert`.
 * options  NULL means the defaults.
 * out      Gets a model of your own: release it with critic_model_free.
 *
 * Takes milliseconds whatever the size, because the file is mapped; the first use of its
 * weights reads them from the disk. With CRITIC_MEMORY_COPY it reads the whole file.
 * CRITIC_IO, CRITIC_CORRUPT_MODEL (also a file that is no model), CRITIC_UNSUPPORTED_MODEL
 * (also a GGUF file), CRITIC_INVALID_ARGUMENT, CRITIC_OUT_OF_MEMORY. Any thread.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_model_open(const char *path,
    const critic_model_options *options, critic_model **out, critic_error *error);

/*
 * Opens a model that is in memory, for example one that is linked into the program.
 *
 * data     The bytes of a .critic file, len of them. Copied, unless options.memory is
 *          CRITIC_MEMORY_BORROW.
 *
 * All else is as with critic_model_open.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_model_open_memory(const void *data, size_t len,
    const critic_model_options *options, critic_model **out, critic_error *error);

/*
 * Opens a model from a file descriptor, for hosts in a sandbox. The descriptor stays yours
 * and may be closed afterwards. The file is mapped from its beginning; with
 * CRITIC_MEMORY_COPY it is read from the descriptor's position on.
 *
 * All else is as with critic_model_open. On Windows CRITIC_IO.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_model_open_fd(int32_t fd,
    const critic_model_options *options, critic_model **out, critic_error *error);

/*
 * Describes a model into info. CRITIC_INVALID_ARGUMENT where model or info is NULL, or
 * info->struct_size is not a size. Any thread; never blocks.
 */
CRITIC_API critic_status critic_model_describe(const critic_model *model,
    critic_model_info *info);

/*
 * The tokens of a text, as the model's own tokenizer sees them, with a
 * beginning-of-sequence token where the model asks for one: critic_result_tokens.
 *
 * flags    0, or CRITIC_PARSE_CONTROL.
 *
 * CRITIC_INVALID_ARGUMENT. Any thread; takes time in proportion to the text.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_tokenize(const critic_model *model,
    critic_text text, uint32_t flags, critic_result **out, critic_error *error);

/*
 * Releases a model. Sessions made from it work on; memory that it borrowed must outlive
 * them too. NULL does nothing. Any thread, once, and after all calls that were given the
 * model have returned.
 */
CRITIC_API void critic_model_free(critic_model *model);

/* All zero, with its size. */
CRITIC_INLINE critic_model_options critic_model_options_default(void) {
  critic_model_options value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* All zero, with its size. */
CRITIC_INLINE critic_model_info critic_model_info_default(void) {
  critic_model_info value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* ---- Sessions ------------------------------------------------------------------ */

/* What a session does with a model's adapter: critic_session_options.adapter. */
typedef uint32_t critic_adapter;
enum {
  /* Uses it if there is one. */
  CRITIC_ADAPTER_DEFAULT = 0,
  /* The base weights alone. */
  CRITIC_ADAPTER_OFF = 1,
  /* Uses it; refuses a model without one, with CRITIC_UNSUPPORTED_MODEL. */
  CRITIC_ADAPTER_ON = 2,
};

/*
 * Threads, scratch memory and a KV cache, for one thread at a time: any thread, but a
 * second one that calls meanwhile gets CRITIC_BUSY, as does a callback that calls its own
 * session. Only critic_session_cancel may be called at any time.
 *
 * A session remembers what it evaluated. A call whose texts begin like those of the call
 * before pays only for what comes after the first difference: so keep one session for one
 * document, and hand it each edited draft. There is nothing to switch on.
 */
typedef struct critic_session critic_session;

/* How a session computes. Make it with critic_session_options_default(). */
typedef struct critic_session_options {
  /* sizeof(critic_session_options). */
  size_t struct_size;
  /* Most tokens held at once; 0 is the model's own limit. Memory is taken as it is used. */
  uint32_t context_tokens;
  /*
   * Threads, the caller's included; 0 is one for each core, and more than that are not made.
   * The text is the same for every number.
   */
  uint32_t threads;
  /*
   * "scalar", "avx2", "avx512" or "neon"; empty is the fastest. Valgrind, for instance,
   * knows no AVX-512. The text is the same for each.
   */
  critic_text kernel;
  /* A critic_adapter. */
  uint32_t adapter;
  /* Zero. */
  uint32_t reserved;
  /*
   * A folder in which what was evaluated of long prompts is left, and mapped by later sessions
   * of the same model whose prompts begin alike; empty: nothing is read or written. The files say
   * what the texts say, and are made for their owner alone. That one cannot be read or written is
   * no error. Nobody may truncate them while a session lives.
   */
  critic_text prefix_cache;
  /* Most bytes in that folder, the ones that were used last; 0 is 1 GiB. */
  uint64_t prefix_cache_bytes;
} critic_session_options;

/* What a session is doing with memory and threads. Make it with critic_session_info_default(). */
typedef struct critic_session_info {
  /* sizeof(critic_session_info). */
  size_t struct_size;
  /* Bytes of KV cache that it holds now. */
  uint64_t cache_bytes;
  /* Most tokens that it holds at once. */
  uint32_t context_tokens;
  /* Tokens that are evaluated and kept, for the next call to begin from. */
  uint32_t cached_tokens;
  /* Threads that compute, the caller's included. */
  uint32_t threads;
  /* Zero. */
  uint32_t reserved;
  /* The kernel that was chosen. Static. */
  critic_text kernel;
} critic_session_info;

/*
 * Bytes of KV cache that a session with these options holds when its context is full; 0
 * where an argument is not valid. Beside it a session takes some megabytes of scratch
 * memory. options may be NULL. Any thread; never blocks.
 */
CRITIC_API uint64_t critic_session_bytes(const critic_model *model,
    const critic_session_options *options);

/*
 * Makes a session: starts its threads and takes its scratch memory.
 *
 * model    May be freed before the session is.
 * options  NULL means the defaults.
 * out      Gets a session of your own: release it with critic_session_free.
 *
 * CRITIC_INVALID_ARGUMENT (a context longer than the model's, a kernel that this machine
 * lacks), CRITIC_UNSUPPORTED_MODEL, CRITIC_OUT_OF_MEMORY. Any thread. Takes milliseconds.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_session_new(const critic_model *model,
    const critic_session_options *options, critic_session **out, critic_error *error);

/*
 * Describes a session into info. CRITIC_INVALID_ARGUMENT, CRITIC_BUSY, CRITIC_INTERNAL.
 * Never blocks.
 */
CRITIC_API critic_status critic_session_describe(const critic_session *session,
    critic_session_info *info);

/*
 * Stops the call that is running, or, where none is, the next one: it returns
 * CRITIC_CANCELLED after at most one layer of one batch of tokens, a few milliseconds,
 * and the session works on. One cancellation stops one call, even one whose arguments are wrong, however often it was asked
 * for. While the host's own actor or acceptance check runs, the call ends when that returns.
 *
 * Any thread, at any time until the session is freed; also from callbacks and from signal
 * handlers. Never blocks. NULL does nothing.
 */
CRITIC_API void critic_session_cancel(const critic_session *session);

/*
 * Takes back a cancellation that has met no call: for a host that cancelled work which was
 * over already, and now has work that it wants. Any thread; never blocks. NULL does nothing.
 */
CRITIC_API void critic_session_clear_cancel(const critic_session *session);

/*
 * Forgets what was evaluated, zeroes it, and takes back a cancellation. CRITIC_BUSY,
 * CRITIC_INTERNAL, CRITIC_INVALID_ARGUMENT. Never blocks.
 */
CRITIC_API critic_status critic_session_reset(critic_session *session);

/*
 * Releases a session, ends its threads, and zeroes its memory: all that is left of the texts
 * that it read and wrote. NULL does nothing. Any thread, once, and not while another thread
 * is in a call with it. From one of its own callbacks it cancels the call, and the session
 * is gone when that returns.
 */
CRITIC_API void critic_session_free(critic_session *session);

/* All zero, with its size. */
CRITIC_INLINE critic_session_options critic_session_options_default(void) {
  critic_session_options value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* All zero, with its size. */
CRITIC_INLINE critic_session_info critic_session_info_default(void) {
  critic_session_info value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* ---- Events -------------------------------------------------------------------- */

/* What a call is doing: critic_event.phase. */
typedef int32_t critic_phase;
enum {
  /* The task and the draft are read. */
  CRITIC_PHASE_READ = 1,
  /* The critique is written. */
  CRITIC_PHASE_CRITIQUE = 2,
  /* The refinement is written. */
  CRITIC_PHASE_REFINE = 3,
  /* Draft and refinement are compared. */
  CRITIC_PHASE_JUDGE = 4,
  /* Another text is written: critic_generate. */
  CRITIC_PHASE_GENERATE = 5,
};

/* Something that happened during a call. Lives, with its text, until the callback returns. */
typedef struct critic_event {
  /* sizeof(critic_event) in the library: a later one may append fields. */
  size_t struct_size;
  /* In which part of the call. */
  critic_phase phase;
  /* In which round, from 0. */
  uint32_t round;
  /* While a prompt is read: tokens that are done, those that were kept included. Else 0. */
  uint64_t done_tokens;
  /* Of how many. Else 0. */
  uint64_t total_tokens;
  /*
   * While a text is written: what is new, in whole characters. Of several candidates it is
   * the first, which need not be the one that is chosen.
   */
  critic_text text;
} critic_event;

/*
 * Hears events, on the thread that made the call, and never after it has returned. It may
 * call anything but the session that it is called from (that is CRITIC_BUSY), and may cancel
 * that one. Returns 0 to go on; any other value ends the call with CRITIC_CANCELLED.
 */
typedef int32_t (*critic_event_fn)(void *userdata, const critic_event *event);

/* ---- Requests ------------------------------------------------------------------ */

/*
 * Names of control tokens in the text count as such: for trusted text only.
 * For critic_tokenize, critic_score and critic_generate with CRITIC_RAW_PROMPT.
 */
#define CRITIC_PARSE_CONTROL 1

/* critic_generate continues the prompt itself, not a chat in which it was said. */
#define CRITIC_RAW_PROMPT 2

/*
 * The critique is a list of findings, each at an exact place of the draft, whatever the model
 * says: critic_result_finding. For critic_critique, critic_refine and critic_improve.
 */
#define CRITIC_STRUCTURED 4

/*
 * The refinement is the draft with the findings' replacements, which costs no decoding. With
 * CRITIC_STRUCTURED.
 */
#define CRITIC_APPLY 8

/* Who says a message. */
typedef int32_t critic_role;
enum {
  /* Instructions for the whole conversation. */
  CRITIC_ROLE_SYSTEM = 1,
  /* The person. */
  CRITIC_ROLE_USER = 2,
  /* The model. */
  CRITIC_ROLE_ASSISTANT = 3,
};

/* Takes the text of a host's own actor, piece by piece: critic_write. */
typedef struct critic_writer critic_writer;

/* One message of a conversation. Its size never changes. */
typedef struct critic_message {
  /* Who says it. */
  critic_role role;
  /* What is said. */
  critic_text content;
} critic_message;

/*
 * The host's own actor: writes the refinement in place of this model, for example by asking a
 * remote one, so that a local critic serves a model of any size. It is given the whole
 * conversation, which ends with the instruction to refine, and hands its answer to
 * critic_write. Messages and writer live until it returns. It runs on the thread that made
 * the call and may take as long as it likes. Returns 0, or any other value to end the call
 * with CRITIC_CALLBACK_FAILED.
 */
typedef int32_t (*critic_actor_fn)(void *userdata, const critic_message *messages, size_t count,
    critic_writer *writer);

/*
 * The host's own acceptance check, in place of the model's judgement: a compiler, a test run,
 * a person. The texts live until it returns. It runs on the thread that made the call.
 * Returns 1 to take the refinement, 0 to keep the draft, and any other value to end the call
 * with CRITIC_CALLBACK_FAILED.
 */
typedef int32_t (*critic_accept_fn)(void *userdata, critic_text draft, critic_text refinement);

/*
 * What is asked. Make it with critic_request_default(), and set what is wanted: zero is the
 * default everywhere. All that it points to must live until the call returns.
 */
typedef struct critic_request {
  /* sizeof(critic_request). */
  size_t struct_size;
  /*
   * Category: "dialog", "summarization", "qa", "math", "code", "general", or another that the
   * model was made for. Empty is "general".
   */
  critic_text task;
  /* What was asked. */
  critic_text prompt;
  /* The draft: the answer that is criticised. */
  critic_text response;
  /* For critic_refine: a critique to begin from. Empty: one is written first. */
  critic_text critique;
  /* Most tokens of each text that is written; 0 is as many as the context holds. */
  uint32_t max_tokens;
  /* Critiques to write and choose from, at most 64; 0 means 1. They are written side by side. */
  uint32_t candidates;
  /* Rounds of critic_improve, at most 64; 0 means 1. */
  uint32_t rounds;
  /* Tokens to choose from; 0 means all. */
  uint32_t top_k;
  /* 0 is greedy, 1 the model's own distribution. Several candidates take 0.8 where it is 0. */
  float temperature;
  /* Chooses from the likeliest tokens that together reach this probability; 0 means 1: all. */
  float top_p;
  /* Chooses from tokens at least this share as likely as the likeliest; 0 means all. */
  float min_p;
  /* Makes the last 64 tokens less likely; 0 means 1: no penalty. */
  float repetition_penalty;
  /* The same seed gives the same text, on every machine. */
  uint64_t seed;
  /* For critic_generate: texts that end the generation, and are no part of it. */
  const critic_text *stops;
  /* How many there are. */
  size_t stop_count;
  /*
   * CRITIC_PARSE_CONTROL and CRITIC_RAW_PROMPT, for critic_generate; CRITIC_STRUCTURED and
   * CRITIC_APPLY, for critiques; else 0.
   */
  uint32_t flags;
  /* Zero. */
  uint32_t reserved;
  /* NULL: nothing is streamed. */
  critic_event_fn on_event;
  /* NULL: the model writes refinements itself. */
  critic_actor_fn actor;
  /* NULL: the model judges refinements itself. */
  critic_accept_fn accept;
  /* Handed to all three. */
  void *userdata;
} critic_request;

/*
 * Adds text to what a host's own actor writes, and streams it to on_event. The text may be
 * cut anywhere, also inside a character, as it comes from a network; bytes that are not
 * UTF-8 become U+FFFD. Copied.
 *
 * CRITIC_CANCELLED: the call is over, and the actor should return, with any value.
 * CRITIC_INVALID_ARGUMENT. Only inside the actor, and on the thread that it was called on.
 */
CRITIC_API critic_status critic_write(critic_writer *writer, critic_text text);

/* All zero, with its size. */
CRITIC_INLINE critic_request critic_request_default(void) {
  critic_request value;
  memset(&value, 0, sizeof value);
  value.struct_size = sizeof value;
  return value;
}

/* ---- Work ---------------------------------------------------------------------- */

/*
 * Says what is wrong with request->response, as an answer to request->prompt.
 *
 * out      Gets a result of your own: release it with critic_result_free.
 *
 * An empty prompt or response is a text like any other. With CRITIC_STRUCTURED also
 * CRITIC_UNSUPPORTED_MODEL, for a vocabulary in which not every text can be written.
 *
 * This and the functions below block until the work is done: seconds to minutes. They stream
 * to request->on_event, and critic_session_cancel ends them.
 * CRITIC_CANCELLED, CRITIC_CONTEXT_FULL, CRITIC_INVALID_ARGUMENT (also a task that the model
 * does not know), CRITIC_BUSY, CRITIC_OUT_OF_MEMORY, CRITIC_INTERNAL: after the last one the
 * session is good for critic_session_free alone, after all others it works on.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_critique(critic_session *session,
    const critic_request *request, critic_result **out, critic_error *error);

/*
 * Writes a better draft from request->critique, or, where that is empty, from one that it
 * writes first; and decides whether to take it: by request->accept, or else by the critique's
 * utility advantage, or else by the model's own judgement. A critique that finds nothing to
 * change, or whose utility advantage is too low, gives the draft back, and no refinement.
 *
 * CRITIC_CALLBACK_FAILED: request->actor or request->accept failed. All else is as with
 * critic_critique.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_refine(critic_session *session,
    const critic_request *request, critic_result **out, critic_error *error);

/*
 * Critiques and refines, request->rounds times, until the critique finds nothing to change, or
 * has too low a utility advantage, or a refinement is refused. Each round's draft is the last
 * accepted refinement.
 *
 * All is as with critic_refine; request->critique is not looked at.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_improve(critic_session *session,
    const critic_request *request, critic_result **out, critic_error *error);

/*
 * Answers request->prompt as the model does without a critic, or, with CRITIC_RAW_PROMPT,
 * continues it: critic_result_text. Looks at no other text of the request but its stops.
 *
 * All is as with critic_critique.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_generate(critic_session *session,
    const critic_request *request, critic_result **out, critic_error *error);

/*
 * How likely the model finds a text: critic_result_tokens and critic_result_logprobs.
 *
 * flags    0, or CRITIC_PARSE_CONTROL.
 *
 * All else is as with critic_critique; nothing is streamed.
 */
CRITIC_API CRITIC_MUST_USE critic_status critic_score(critic_session *session, critic_text text,
    uint32_t flags, critic_result **out, critic_error *error);

#ifdef __cplusplus
}
#endif

#endif /* CRITIC_H */
