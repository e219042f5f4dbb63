/* Critiques what is typed, while it is typed: a line editor in a terminal, with the findings below
 * it. Each key cancels the critique of the text as it was and starts one of the text as it is.
 *
 *     cc live.c $(pkg-config --cflags --libs critic) -pthread -o live
 *     ./live model.critic "Write a sentence about cats." [--max-tokens N]
 *
 * Enter ends it, Backspace deletes. What is not a terminal is read as if it were typed, and the
 * last critique is printed at its end.
 *
 * One thread reads keys and draws; the other one owns the session. They share the text under a
 * lock, and the rule of critic_session_cancel does the rest: whoever takes new text clears a
 * cancellation that was not meant for it, under the same lock under which it is decided whom to
 * cancel. */
#define _XOPEN_SOURCE 700
#include <critic.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

enum { MOST = 2000 };

static struct {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  char text[MOST]; /* what is typed */
  size_t len;
  unsigned version;  /* of the text */
  unsigned answered; /* the version that the findings are about */
  unsigned cancelled;
  int working, done, terminal;
  char findings[8 * MOST];
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static critic_session *session;
static const char *prompt;
static uint32_t max_tokens = 160;

/* Control characters of a draft or a model must not reach the terminal. */
static void put(critic_text text) {
  for (size_t i = 0; i < text.len; i++) {
    unsigned char c = (unsigned char)text.data[i];
    putchar(c < 0x20 || c == 0x7f ? ' ' : c);
  }
}

/* Draws all of it; under the lock. */
static void draw(const char *status) {
  if (!shared.terminal) return;
  printf("\x1b[H\x1b[J%s\n\n> ", prompt);
  put((critic_text){shared.text, shared.len});
  printf("\x1b[s\n\n\x1b[2m%s; %u cancelled\x1b[0m\n%s\x1b[u", status, shared.cancelled, shared.findings);
  fflush(stdout);
}

/* Streams: shows that the model writes, and how far it is. */
static int32_t on_event(void *userdata, const critic_event *event) {
  size_t *written = userdata;
  if (event->text.len > 0) {
    char status[80];
    snprintf(status, sizeof status, "writing, %zu bytes", *written += event->text.len);
    pthread_mutex_lock(&shared.lock);
    draw(status);
    pthread_mutex_unlock(&shared.lock);
  }
  return 0;
}

static void *work(void *unused) {
  (void)unused;
  pthread_mutex_lock(&shared.lock);
  for (;;) {
    while (shared.answered == shared.version && !shared.done) pthread_cond_wait(&shared.changed, &shared.lock);
    if (shared.answered == shared.version) break;
    unsigned version = shared.version;
    char draft[MOST];
    size_t len = shared.len, written = 0;
    memcpy(draft, shared.text, len);
    critic_session_clear_cancel(session);
    shared.working = 1;
    draw("reading");
    pthread_mutex_unlock(&shared.lock);

    critic_request request = critic_request_default();
    request.prompt = critic_text_of(prompt);
    request.response = (critic_text){draft, len};
    request.max_tokens = max_tokens;
    request.flags = CRITIC_STRUCTURED;
    request.on_event = on_event;
    request.userdata = &written;
    critic_result *result = NULL;
    critic_error error;
    critic_status status = len == 0 ? CRITIC_OK : critic_critique(session, &request, &result, &error);

    pthread_mutex_lock(&shared.lock);
    shared.working = 0;
    if (status == CRITIC_CANCELLED) {
      shared.cancelled++;
      continue; /* with the text as it is now */
    }
    shared.findings[0] = 0;
    size_t end = 0;
    if (status != CRITIC_OK) {
      snprintf(shared.findings, sizeof shared.findings, "%s\n", error.message);
    }
    for (size_t i = 0; i < critic_result_finding_count(result); i++) {
      critic_finding finding = critic_finding_default();
      if (critic_result_finding(result, i, &finding) != CRITIC_OK) continue;
      int more = snprintf(shared.findings + end, sizeof shared.findings - end, "%llu-%llu \"%.*s\": %.*s\n",
                          (unsigned long long)finding.start, (unsigned long long)finding.end, (int)finding.quote.len,
                          finding.quote.data, (int)finding.message.len, finding.message.data);
      if (more > 0 && end + (size_t)more < sizeof shared.findings) end += (size_t)more;
    }
    critic_result_free(result);
    shared.answered = version;
    draw(end ? "findings" : "fine as it is");
  }
  pthread_mutex_unlock(&shared.lock);
  return NULL;
}

/* Takes a key. Whoever is at work on the old text is told to stop. */
static void typed(unsigned char key) {
  pthread_mutex_lock(&shared.lock);
  if (key == 0x7f || key == '\b') {
    /* A character may have several bytes. */
    while (shared.len > 0 && (shared.text[--shared.len] & 0xc0) == 0x80) {}
  } else if (shared.len < MOST) {
    shared.text[shared.len++] = (char)key;
  }
  shared.version++;
  if (shared.working) critic_session_cancel(session);
  draw("…");
  pthread_cond_signal(&shared.changed);
  pthread_mutex_unlock(&shared.lock);
}

int main(int argc, char **argv) {
  if (argc < 3) {
    fprintf(stderr, "usage: %s MODEL PROMPT [--max-tokens N]\n", argv[0]);
    return 2;
  }
  prompt = argv[2];
  if (argc > 4 && !strcmp(argv[3], "--max-tokens")) max_tokens = (uint32_t)strtoul(argv[4], NULL, 10);
  critic_model *model;
  critic_error error;
  if (critic_model_open(argv[1], NULL, &model, &error) != CRITIC_OK ||
      critic_session_new(model, NULL, &session, &error) != CRITIC_OK) {
    fprintf(stderr, "%s\n", error.message);
    return 1;
  }
  struct termios saved;
  shared.terminal = isatty(0) && isatty(1) && tcgetattr(0, &saved) == 0;
  if (shared.terminal) {
    struct termios raw = saved;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(0, TCSANOW, &raw);
    pthread_mutex_lock(&shared.lock);
    draw("type");
    pthread_mutex_unlock(&shared.lock);
  }
  pthread_t worker;
  pthread_create(&worker, NULL, work, NULL);
  unsigned char key;
  while (read(0, &key, 1) == 1 && key != '\n' && key != '\r' && key != 4) {
    if (key >= 0x20) typed(key);
  }
  pthread_mutex_lock(&shared.lock);
  shared.done = 1;
  pthread_cond_signal(&shared.changed);
  pthread_mutex_unlock(&shared.lock);
  /* The last text is still critiqued. */
  pthread_join(worker, NULL);
  if (shared.terminal) {
    tcsetattr(0, TCSANOW, &saved);
    printf("\n\n");
  } else {
    put((critic_text){shared.text, shared.len});
    printf("\n%s%u cancelled\n", shared.findings, shared.cancelled);
  }
  critic_session_free(session);
  critic_model_free(model);
  return 0;
}
