/* Eight threads with a session each on one model, and one that cancels at random: no error, and
   the same text as alone. threads MODEL ROUNDS */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { THREADS = 8, PROMPTS = 4 };

static const char *const prompts[PROMPTS] = {"Name a fruit.", "Say hello.", "What is 2 + 2?", "Where is Paris?"};
static critic_model *model;
static critic_result *alone[PROMPTS];
static int rounds;
static atomic_int over, done, stopped;

/* A thread's session: the lock is what keeps a canceller from one that is being freed. */
static struct slot {
  pthread_mutex_t lock;
  critic_session *session;
} slots[THREADS];

static unsigned next(unsigned *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

static critic_request request_for(int prompt) {
  critic_request request = critic_request_default();
  request.prompt = critic_text_of(prompts[prompt]);
  request.max_tokens = 6;
  request.temperature = 0.7f;
  request.seed = (uint64_t)prompt;
  return request;
}

static critic_session *new_session(void) {
  critic_session *session = NULL;
  critic_session_options options = critic_session_options_default();
  options.threads = 1;
  EXPECT(CRITIC_OK, critic_session_new(model, &options, &session, NULL));
  return session;
}

static void *work(void *argument) {
  struct slot *slot = argument;
  unsigned state = (unsigned)(slot - slots) + 1;
  int i;
  for (i = 0; i < rounds; i++) {
    int prompt = (int)(next(&state) % PROMPTS);
    critic_request request = request_for(prompt);
    critic_result *result = NULL;
    critic_status status = critic_generate(slot->session, &request, &result, NULL);
    if (status == CRITIC_OK) {
      critic_text text = critic_result_text(result), expected = critic_result_text(alone[prompt]);
      CHECK(text.len == expected.len && memcmp(text.data, expected.data, text.len) == 0);
      critic_result_free(result);
      done++;
    } else {
      CHECK(status == CRITIC_CANCELLED);
      stopped++;
    }
    if (next(&state) % 3 == 0) {
      critic_session *old;
      pthread_mutex_lock(&slot->lock);
      old = slot->session;
      slot->session = NULL;
      pthread_mutex_unlock(&slot->lock);
      critic_session_free(old);
      old = new_session();
      pthread_mutex_lock(&slot->lock);
      slot->session = old;
      pthread_mutex_unlock(&slot->lock);
    }
  }
  return NULL;
}

static void *cancel(void *unused) {
  unsigned state = 99;
  (void)unused;
  while (!over) {
    struct timespec pause = {0, (long)(next(&state) % 50) * 1000 * 1000};
    struct slot *slot = &slots[next(&state) % THREADS];
    pthread_mutex_lock(&slot->lock);
    critic_session_cancel(slot->session);
    pthread_mutex_unlock(&slot->lock);
    nanosleep(&pause, NULL);
  }
  return NULL;
}

int main(int argc, char **argv) {
  pthread_t threads[THREADS], canceller;
  critic_session *session;
  int i;
  CHECK(argc == 3);
  rounds = atoi(argv[2]);
  EXPECT(CRITIC_OK, critic_model_open(argv[1], NULL, &model, NULL));
  session = new_session();
  for (i = 0; i < PROMPTS; i++) {
    critic_request request = request_for(i);
    EXPECT(CRITIC_OK, critic_generate(session, &request, &alone[i], NULL));
  }
  critic_session_free(session);
  for (i = 0; i < THREADS; i++) {
    pthread_mutex_init(&slots[i].lock, NULL);
    slots[i].session = new_session();
  }
  for (i = 0; i < THREADS; i++) {
    CHECK(pthread_create(&threads[i], NULL, work, &slots[i]) == 0);
  }
  CHECK(pthread_create(&canceller, NULL, cancel, NULL) == 0);
  for (i = 0; i < THREADS; i++) {
    CHECK(pthread_join(threads[i], NULL) == 0);
  }
  over = 1;
  CHECK(pthread_join(canceller, NULL) == 0);
  /* The model goes first: sessions hold what they need. */
  critic_model_free(model);
  for (i = 0; i < THREADS; i++) {
    critic_session_free(slots[i].session);
    pthread_mutex_destroy(&slots[i].lock);
  }
  for (i = 0; i < PROMPTS; i++) {
    critic_result_free(alone[i]);
  }
  printf("%d calls done, %d cancelled\n", done, stopped);
  CHECK(done > 0);
  return 0;
}
