/* Prints critique, refinement and acceptance, each behind its length: improve MODEL PROMPT RESPONSE SEED */
#include "check.h"

static void print(critic_text text) {
  printf("%lu\n", (unsigned long)text.len);
  fwrite(text.data, 1, text.len, stdout);
}

int main(int argc, char **argv) {
  critic_model *model = NULL;
  critic_session *session = NULL;
  critic_result *result = NULL;
  critic_request request = critic_request_default();
  CHECK(argc == 5);
  request.prompt = critic_text_of(argv[2]);
  request.response = critic_text_of(argv[3]);
  request.seed = strtoul(argv[4], NULL, 10);
  request.temperature = 0.9f;
  request.max_tokens = 40;
  EXPECT(CRITIC_OK, critic_model_open(argv[1], NULL, &model, NULL));
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, NULL));
  EXPECT(CRITIC_OK, critic_improve(session, &request, &result, NULL));
  print(critic_result_critique(result));
  print(critic_result_refinement(result));
  printf("%d\n", critic_result_accepted(result));
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
  return 0;
}
