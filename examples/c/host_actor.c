/*
 * A local critic that serves another writer: the critique is this model's, the refinement comes
 * from the host's own function, and the host decides whether to take it.
 *
 * The actor here is a stand-in for a remote model: it shows the conversation that it is given
 * and answers in pieces, as a network would.
 *
 *     cc host_actor.c $(pkg-config --cflags --libs critic) -o host_actor
 *     ./host_actor model.critic [max-tokens [kernel]]
 */
#include <critic.h>
#include <stdio.h>
#include <stdlib.h>

/* Writes the refinement. */
static int32_t actor(void *userdata, const critic_message *messages, size_t count, critic_writer *writer) {
  static const char *const roles[] = {"", "system", "user", "assistant"};
  /* A character may be cut in two: the library puts it together again. */
  static const char *const pieces[] = {"48 + 24 = 72", ", since 8 + 4 = 12 carries one. \xe2\x9c", "\x93"};
  size_t i;
  (void)userdata;
  for (i = 0; i < count; i++) {
    printf("[%s] %.*s\n", roles[messages[i].role], (int)messages[i].content.len, messages[i].content.data);
  }
  for (i = 0; i < sizeof pieces / sizeof *pieces; i++) {
    if (critic_write(writer, critic_text_of(pieces[i])) != CRITIC_OK) {
      break; /* cancelled: what is returned does not matter */
    }
  }
  return 0;
}

/* Takes the refinement if it is right: here, a compiler or a test run would be asked. */
static int32_t accept(void *userdata, critic_text draft, critic_text refinement) {
  size_t i;
  (void)userdata;
  (void)draft;
  for (i = 0; i + 2 <= refinement.len; i++) {
    if (refinement.data[i] == '7' && refinement.data[i + 1] == '2') {
      return 1;
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  critic_model *model = NULL;
  critic_session *session = NULL;
  critic_result *result = NULL;
  critic_session_options options = critic_session_options_default();
  critic_request request = critic_request_default();
  critic_error error = {CRITIC_OK, ""};
  int code = 1;

  if (argc < 2) {
    fprintf(stderr, "usage: %s MODEL [MAX-TOKENS [KERNEL]]\n", argv[0]);
    return 2;
  }
  request.task = critic_text_of("math");
  request.prompt = critic_text_of("What is 48 + 24?");
  request.response = critic_text_of("48 + 24 = 74");
  /* A critique that is known already, so that the example always gets to the actor. */
  request.critique = critic_text_of("The sum is wrong: 8 + 4 is 12, so the last digit is 2.");
  request.max_tokens = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 256;
  options.kernel = critic_text_of(argc > 3 ? argv[3] : NULL);
  request.actor = actor;
  request.accept = accept;

  if (critic_model_open(argv[1], NULL, &model, &error) == CRITIC_OK &&
      critic_session_new(model, &options, &session, &error) == CRITIC_OK &&
      critic_refine(session, &request, &result, &error) == CRITIC_OK) {
    critic_text text = critic_result_text(result);
    printf("--- %s\n%.*s\n", critic_result_accepted(result) ? "accepted" : "refused", (int)text.len, text.data);
    code = 0;
  } else {
    fprintf(stderr, "%s (%s)\n", error.message, critic_status_name(error.status));
  }
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
  return code;
}
