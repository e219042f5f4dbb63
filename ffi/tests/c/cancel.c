/* Cancels from a second thread while the prompt is read, while text is written, and between the
   two; prints how long each took to return. cancel MODEL */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { PREFILL, BETWEEN, DECODE };

static critic_session *session;
static int when;
static atomic_int ready, cancelled;
static uint64_t done, total;
static struct timespec asked;

static double milliseconds_since(struct timespec start) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)(now.tv_sec - start.tv_sec) * 1e3 + (double)(now.tv_nsec - start.tv_nsec) / 1e6;
}

static int32_t on_event(void *userdata, const critic_event *event) {
  int reading = event->total_tokens > 0, read = reading && event->done_tokens == event->total_tokens;
  (void)userdata;
  if (reading) {
    done = event->done_tokens;
    total = event->total_tokens;
  }
  if (when == PREFILL && reading && event->done_tokens > 0) {
    ready = 1;
  } else if (when == DECODE && event->text.len > 0) {
    ready = 1;
  } else if (when == BETWEEN && read) {
    ready = 1;
    while (!cancelled) {
    }
  }
  return 0;
}

static void *canceller(void *unused) {
  struct timespec pause = {0, 20 * 1000 * 1000};
  (void)unused;
  while (!ready) {
    nanosleep(&pause, NULL);
  }
  if (when != BETWEEN) {
    nanosleep(&pause, NULL); /* into the middle of a batch */
  }
  clock_gettime(CLOCK_MONOTONIC, &asked);
  critic_session_cancel(session);
  cancelled = 1;
  return NULL;
}

int main(int argc, char **argv) {
  static const char *const names[] = {"prefill", "between", "decode"};
  critic_model *model;
  critic_result *result = NULL;
  critic_request request = critic_request_default(), check = critic_request_default();
  critic_text expected;
  char *words = malloc(4000 * 6 + 1);
  critic_result *before;
  int i;
  CHECK(argc == 2 && words != NULL);
  words[0] = 0;
  for (i = 0; i < 4000; i++) {
    memcpy(words + 6 * i, " apple", 7);
  }
  EXPECT(CRITIC_OK, critic_model_open(argv[1], NULL, &model, NULL));
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, NULL));
  check.prompt = critic_text_of("Name a fruit.");
  check.max_tokens = 8;
  EXPECT(CRITIC_OK, critic_generate(session, &check, &before, NULL));
  expected = critic_result_text(before);
  request.prompt = critic_text_of("Is this a good poem?");
  request.on_event = on_event;
  for (when = PREFILL; when <= DECODE; when++) {
    pthread_t thread;
    double milliseconds;
    /* Only the first has to be long. */
    words[when == PREFILL ? 4000 * 6 : 60] = 0;
    request.response = critic_text_of(words);
    ready = 0;
    cancelled = 0;
    CHECK(pthread_create(&thread, NULL, canceller, NULL) == 0);
    EXPECT(CRITIC_CANCELLED, critic_critique(session, &request, &result, NULL));
    milliseconds = milliseconds_since(asked);
    CHECK(pthread_join(thread, NULL) == 0 && result == NULL);
    printf("%s: %.1f ms, with %llu of %llu prompt tokens read\n", names[when], milliseconds, (unsigned long long)done,
           (unsigned long long)total);
    CHECK(when != PREFILL || (total > 4000 && done < total));
    EXPECT(CRITIC_OK, critic_generate(session, &check, &result, NULL));
    CHECK(critic_result_text(result).len == expected.len);
    CHECK(memcmp(critic_result_text(result).data, expected.data, expected.len) == 0);
    critic_result_free(result);
    result = NULL;
  }
  critic_result_free(before);
  critic_session_free(session);
  critic_model_free(model);
  free(words);
  return 0;
}
