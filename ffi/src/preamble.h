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
