/* What the C tests share. */
#include <critic.h>
#include <stdio.h>
#include <stdlib.h>

/* Ends the test with the place where an expectation failed. */
#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) {                                                    \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                             \
    }                                                                      \
  } while (0)

/* Compares the status of a call with the one that is documented. */
#define EXPECT(expected, call)                                                           \
  do {                                                                                   \
    critic_status status_ = (call);                                                      \
    if (status_ != (expected)) {                                                         \
      fprintf(stderr, "%s:%d: %s gives %s, not %s\n", __FILE__, __LINE__, #call,         \
              critic_status_name(status_), critic_status_name(expected));                \
      exit(1);                                                                           \
    }                                                                                    \
  } while (0)
