/*
 * Streams a critique of a draft to the terminal, then prints the refinement.
 *
 *     cc critique.c $(pkg-config --cflags --libs critic) -o critique
 *     ./critique model.critic "What is 48 + 24?" "48 + 24 = 74" [max-tokens [kernel]]
 */
#include <critic.h>
#include <stdio.h>
#include <stdlib.h>

/* Hears the call: prints new text as it is written. */
static int32_t show(void *userdata, const critic_event *event) {
  critic_phase *shown = userdata;
  if (event->text.len == 0) {
    return 0;
  }
  if (event->phase != *shown) {
    *shown = event->phase;
    printf(event->phase == CRITIC_PHASE_CRITIQUE ? "--- critique\n" : "\n--- refinement\n");
  }
  fwrite(event->text.data, 1, event->text.len, stdout);
  /* Not 0 if standard output is gone: then the rest need not be written. */
  return fflush(stdout);
}

static int failed(const char *what, const critic_error *error) {
  fprintf(stderr, "%s: %s (%s)\n", what, error->message, critic_status_name(error->status));
  return 1;
}

int main(int argc, char **argv) {
  critic_model *model = NULL;
  critic_session *session = NULL;
  critic_result *result = NULL;
  critic_session_options options = critic_session_options_default();
  critic_request request = critic_request_default();
  critic_phase shown = 0;
  critic_error error;
  int code = 1;

  if (argc < 4) {
    fprintf(stderr, "usage: %s MODEL PROMPT RESPONSE [MAX-TOKENS [KERNEL]]\n", argv[0]);
    return 2;
  }
  request.prompt = critic_text_of(argv[2]);
  request.response = critic_text_of(argv[3]);
  request.max_tokens = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 256;
  options.kernel = critic_text_of(argc > 5 ? argv[5] : NULL);
  request.on_event = show;
  request.userdata = &shown;

  if (critic_model_open(argv[1], NULL, &model, &error) != CRITIC_OK) {
    failed("model", &error);
  } else if (critic_session_new(model, &options, &session, &error) != CRITIC_OK) {
    failed("session", &error);
  } else if (critic_refine(session, &request, &result, &error) != CRITIC_OK) {
    failed("refine", &error);
  } else {
    if (critic_result_verdict(result) == CRITIC_VERDICT_KEEP) {
      printf("\n--- nothing needs to change\n");
    } else {
      printf("\n--- %s the draft\n", critic_result_accepted(result) ? "preferred to" : "not preferred to");
    }
    code = 0;
  }
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
  return code;
}
