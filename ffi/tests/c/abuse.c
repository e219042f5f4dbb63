/* Wrong use gets the documented status each time, and changes no output. abuse MODEL NOT-A-MODEL */
#include "check.h"
#include <fcntl.h>
#include <stdalign.h>
#include <unistd.h>

static critic_session *own_session;
static const critic_request *own_request;
static int answer, calls;

/* Uses the session that it is called from, then answers. */
static int32_t on_event(void *userdata, const critic_event *event) {
  critic_result *result = NULL;
  critic_session_info info = critic_session_info_default();
  (void)userdata;
  CHECK(event->struct_size == sizeof(critic_event));
  EXPECT(CRITIC_BUSY, critic_critique(own_session, own_request, &result, NULL));
  EXPECT(CRITIC_BUSY, critic_score(own_session, critic_text_of("x"), 0, &result, NULL));
  EXPECT(CRITIC_BUSY, critic_session_reset(own_session));
  EXPECT(CRITIC_BUSY, critic_session_describe(own_session, &info));
  CHECK(result == NULL);
  calls++;
  return answer;
}

static int32_t actor(void *userdata, const critic_message *messages, size_t count, critic_writer *writer) {
  critic_text bad = {NULL, 1}, broken = {"\xff", 1};
  (void)userdata;
  CHECK(count >= 5 && messages[count - 1].role == CRITIC_ROLE_USER);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_write(writer, bad));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_write(NULL, broken));
  EXPECT(CRITIC_OK, critic_write(writer, broken));
  return answer;
}

static int32_t cancelled_actor(void *userdata, const critic_message *messages, size_t count, critic_writer *writer) {
  (void)userdata, (void)messages, (void)count;
  critic_session_cancel(own_session);
  EXPECT(CRITIC_CANCELLED, critic_write(writer, critic_text_of("late")));
  return 0;
}

static int32_t accept(void *userdata, critic_text draft, critic_text refinement) {
  (void)userdata;
  CHECK(draft.len == 6 && refinement.len == 3);
  return answer;
}

static int32_t freeing(void *userdata, const critic_event *event) {
  (void)event;
  if (*(critic_session **)userdata != NULL) {
    critic_session_free(*(critic_session **)userdata);
    *(critic_session **)userdata = NULL;
  }
  return 0;
}

static void log_line(void *userdata, critic_severity severity, critic_text line) {
  CHECK(severity == CRITIC_NOTE && line.len > 0);
  ++*(int *)userdata;
}

static void opening(const char *path, const char *other) {
  critic_model *model = NULL;
  critic_error error = {CRITIC_OK, "untouched"};
  struct {
    critic_model_options options;
    uint64_t tail[2];
  } longer;
  critic_model_options options = critic_model_options_default();
  critic_model_info info = critic_model_info_default();
  int lines = 0, fd;
  long size;
  FILE *file;
  char *bytes;

  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(NULL, NULL, &model, &error));
  CHECK(error.status == CRITIC_INVALID_ARGUMENT && strstr(error.message, "path") != NULL);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, NULL, NULL, &error));
  EXPECT(CRITIC_IO, critic_model_open("/nowhere/at all", NULL, &model, &error));
  CHECK(strstr(error.message, "/nowhere/at all") != NULL);
  EXPECT(CRITIC_IO, critic_model_open("/", NULL, &model, NULL));
  EXPECT(CRITIC_CORRUPT_MODEL, critic_model_open(other, NULL, &model, &error));
  options.memory = CRITIC_MEMORY_COPY;
  EXPECT(CRITIC_CORRUPT_MODEL, critic_model_open(other, &options, &model, &error));
  EXPECT(CRITIC_CORRUPT_MODEL, critic_model_open("/dev/null", &options, &model, &error));
  options.memory = 77;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &options, &model, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open_fd(-1, NULL, &model, &error));
  EXPECT(CRITIC_IO, critic_model_open_fd(12345, NULL, &model, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open_memory(NULL, 1, NULL, &model, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open_memory("x", SIZE_MAX, NULL, &model, &error));
  EXPECT(CRITIC_CORRUPT_MODEL, critic_model_open_memory("", 0, NULL, &model, &error));
  EXPECT(CRITIC_CORRUPT_MODEL, critic_model_open_memory("not a model", 11, NULL, &model, &error));
  CHECK(model == NULL);

  /* Sizes: none, garbage, an older program's, a newer one's. */
  options = critic_model_options_default();
  options.struct_size = 0;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &options, &model, NULL));
  options.struct_size = sizeof(size_t) + 1;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &options, &model, NULL));
  options.struct_size = SIZE_MAX;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &options, &model, NULL));
  options.struct_size = sizeof(size_t);
  options.memory = 77; /* beyond the size, so not looked at */
  EXPECT(CRITIC_OK, critic_model_open(path, &options, &model, NULL));
  critic_model_free(model);
  memset(&longer, 0, sizeof longer);
  longer.options.struct_size = sizeof longer;
  longer.options.log = log_line;
  longer.options.log_userdata = &lines;
  EXPECT(CRITIC_OK, critic_model_open(path, &longer.options, &model, NULL));
  CHECK(lines == 1);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_describe(NULL, &info));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_describe(model, NULL));
  EXPECT(CRITIC_OK, critic_model_describe(model, &info));
  CHECK(info.private_bytes == 0 && info.file_bytes > 0 && info.kernel.len > 0 && info.context_tokens > 0);
  CHECK(info.struct_size == sizeof info);
  info.struct_size = 0;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_describe(model, &info));
  critic_model_free(model);
  longer.tail[1] = 1;
  model = NULL;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &longer.options, &model, &error));
  CHECK(model == NULL);

  /* Other places for the same bytes. */
  fd = open(path, O_RDONLY);
  CHECK(fd >= 0);
  EXPECT(CRITIC_OK, critic_model_open_fd(fd, NULL, &model, NULL));
  critic_model_free(model);
  options = critic_model_options_default();
  options.memory = CRITIC_MEMORY_COPY;
  EXPECT(CRITIC_OK, critic_model_open_fd(fd, &options, &model, NULL));
  info = critic_model_info_default();
  EXPECT(CRITIC_OK, critic_model_describe(model, &info));
  CHECK(info.private_bytes >= info.file_bytes);
  critic_model_free(model);
  CHECK(close(fd) == 0);
  file = fopen(path, "rb");
  CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0);
  rewind(file);
  bytes = aligned_alloc(CRITIC_ALIGNMENT, ((size_t)size / CRITIC_ALIGNMENT + 2) * CRITIC_ALIGNMENT);
  CHECK(bytes != NULL && fread(bytes, 1, (size_t)size, file) == (size_t)size);
  fclose(file);
  options.memory = CRITIC_MEMORY_BORROW;
  EXPECT(CRITIC_OK, critic_model_open_memory(bytes, (size_t)size, &options, &model, NULL));
  EXPECT(CRITIC_OK, critic_model_describe(model, &info));
  CHECK(info.private_bytes == 0);
  critic_model_free(model);
  memmove(bytes + 8, bytes, (size_t)size);
  EXPECT(CRITIC_OK, critic_model_open_memory(bytes + 8, (size_t)size, &options, &model, NULL));
  EXPECT(CRITIC_OK, critic_model_describe(model, &info));
  CHECK(info.private_bytes > 0);
  critic_model_free(model);
  free(bytes);
}

static void sessions(const critic_model *model) {
  critic_session *session = NULL;
  critic_error error;
  critic_session_options options = critic_session_options_default();
  critic_session_info info = critic_session_info_default();
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(NULL, NULL, &session, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(model, NULL, NULL, &error));
  options.context_tokens = 1u << 30;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(model, &options, &session, &error));
  options.context_tokens = 64;
  CHECK(critic_session_bytes(model, &options) > 0);
  CHECK(critic_session_bytes(model, &options) <= critic_session_bytes(model, NULL));
  CHECK(critic_session_bytes(NULL, NULL) == 0);
  options.kernel = critic_text_of("abacus");
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(model, &options, &session, &error));
  CHECK(strstr(error.message, "scalar") != NULL);
  options.kernel.data = NULL;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(model, &options, &session, &error));
  options.kernel = critic_text_of("scalar");
  options.adapter = CRITIC_ADAPTER_ON;
  EXPECT(CRITIC_UNSUPPORTED_MODEL, critic_session_new(model, &options, &session, &error));
  options.adapter = 9;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(model, &options, &session, &error));
  CHECK(session == NULL);
  options.adapter = CRITIC_ADAPTER_OFF;
  options.prefix_cache = (critic_text){"\xff", 1};
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_new(model, &options, &session, &error));
  options.prefix_cache = critic_text_of("/proc/no such folder");
  options.threads = 1;
  EXPECT(CRITIC_OK, critic_session_new(model, &options, &session, &error));
  EXPECT(CRITIC_OK, critic_session_describe(session, &info));
  CHECK(info.kernel.len == 6 && info.threads == 1 && info.context_tokens == 64);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_describe(NULL, &info));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_describe(session, NULL));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_session_reset(NULL));
  critic_session_free(session);
}

static char *read_all(const char *path, size_t *len) {
  FILE *file = fopen(path, "rb");
  char *bytes;
  CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
  *len = (size_t)ftell(file);
  rewind(file);
  bytes = malloc(*len);
  CHECK(bytes != NULL && fread(bytes, 1, *len, file) == *len);
  fclose(file);
  return bytes;
}

static void adapters(const char *path, const char *adapter) {
  critic_model *model = NULL;
  critic_session *session = NULL;
  critic_result *result = NULL;
  critic_error error;
  critic_model_options options = critic_model_options_default();
  critic_session_options how = critic_session_options_default();
  critic_model_info info = critic_model_info_default();
  critic_candidate candidate = critic_candidate_default();
  critic_request request = critic_request_default();
  char *bytes;
  float advantage = 5;
  size_t len;

  options.adapter_path = "/nowhere/at all";
  EXPECT(CRITIC_IO, critic_model_open(path, &options, &model, &error));
  CHECK(strstr(error.message, "/nowhere/at all") != NULL);
  options.adapter_path = path;
  EXPECT(CRITIC_UNSUPPORTED_MODEL, critic_model_open(path, &options, &model, &error));
  CHECK(strstr(error.message, "no adapter") != NULL);
  EXPECT(CRITIC_UNSUPPORTED_MODEL, critic_model_open(adapter, NULL, &model, &error));
  options.adapter_path = adapter;
  options.adapter = critic_text_of("x");
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &options, &model, &error));
  options.adapter_path = NULL;
  EXPECT(CRITIC_CORRUPT_MODEL, critic_model_open(path, &options, &model, &error));
  options.adapter.data = NULL;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_model_open(path, &options, &model, &error));
  CHECK(model == NULL);

  bytes = read_all(adapter, &len);
  options.adapter.data = bytes;
  options.adapter.len = len;
  EXPECT(CRITIC_OK, critic_model_open(path, &options, &model, &error));
  free(bytes);
  critic_model_free(model);
  options = critic_model_options_default();
  options.adapter_path = adapter;
  options.memory = CRITIC_MEMORY_COPY;
  EXPECT(CRITIC_OK, critic_model_open(path, &options, &model, &error));
  critic_model_free(model);
  options.memory = CRITIC_MEMORY_DEFAULT;
  EXPECT(CRITIC_OK, critic_model_open(path, &options, &model, &error));
  EXPECT(CRITIC_OK, critic_model_describe(model, &info));
  CHECK(info.has_adapter == 1);

  how.threads = 1;
  how.adapter = CRITIC_ADAPTER_ON;
  EXPECT(CRITIC_OK, critic_session_new(model, &how, &session, &error));
  request.prompt = critic_text_of("Two words?");
  request.response = critic_text_of("a b c.");
  request.max_tokens = 3;
  request.candidates = 2;
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, &error));
  /* Three tokens end nothing. */
  CHECK(critic_result_complete(result) == 0);
  CHECK(critic_result_utility_advantage(result, &advantage) == 1 && advantage != 5);
  EXPECT(CRITIC_OK, critic_result_candidate(result, 1, &candidate));
  CHECK(candidate.has_utility_advantage == 1 && candidate.utility_advantage <= advantage);
  critic_result_free(result);
  /* The threshold of this adapter is out of reach: nothing is written. */
  request.critique = critic_text_of("Three words.");
  EXPECT(CRITIC_OK, critic_refine(session, &request, &result, &error));
  CHECK(critic_result_utility_advantage(result, NULL) == 1 && critic_result_refinement(result).data == NULL);
  CHECK(critic_result_accepted(result) == 0 && critic_result_verdict(result) == CRITIC_VERDICT_REVISE);
  critic_result_free(result);
  critic_session_free(session);

  how.adapter = CRITIC_ADAPTER_OFF;
  EXPECT(CRITIC_OK, critic_session_new(model, &how, &session, &error));
  EXPECT(CRITIC_OK, critic_refine(session, &request, &result, &error));
  CHECK(critic_result_utility_advantage(result, NULL) == 0 && critic_result_refinement(result).data != NULL);
  critic_result_free(result);
  critic_session_free(session);
  critic_model_free(model);
}

static void requests(const critic_model *model) {
  critic_session *session = NULL, *doomed = NULL;
  critic_result *result = NULL;
  critic_error error;
  critic_request request = critic_request_default(), broken;
  critic_timings timings = critic_timings_default();
  critic_round round = critic_round_default();
  critic_candidate candidate = critic_candidate_default();
  critic_finding finding = critic_finding_default();
  critic_text two[2];
  size_t count, i;
  float advantage = 5;

  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &session, NULL));
  request.prompt = critic_text_of("Two words?");
  request.response = critic_text_of("a b c.");
  request.max_tokens = 3;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(NULL, &request, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, NULL, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &request, NULL, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_refine(NULL, &request, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_improve(session, NULL, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_generate(session, &request, NULL, NULL));

  /* Each text: NULL with a length, and broken UTF-8, whose place is named. */
  for (i = 0; i < 4; i++) {
    critic_text *text;
    broken = request;
    text = i == 0 ? &broken.task : i == 1 ? &broken.prompt : i == 2 ? &broken.response : &broken.critique;
    text->data = NULL;
    text->len = 3;
    EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
    text->data = "ab\xc3";
    EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
    CHECK(strstr(error.message, "UTF-8 at byte 2") != NULL);
    text->len = SIZE_MAX;
    EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  }
  broken = request;
  broken.task = critic_text_of("alchemy");
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  broken = request;
  broken.temperature = -1;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  broken = request;
  broken.candidates = 65;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  broken = request;
  broken.flags = 64;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  broken = request;
  broken.reserved = 1;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  broken = request;
  broken.stop_count = 1;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_generate(session, &broken, &result, &error));
  broken = request;
  broken.struct_size--;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_critique(session, &broken, &result, &error));
  CHECK(result == NULL);

  /* A session in its own callback; a callback that ends the call; one that does not. */
  own_session = session;
  own_request = &request;
  request.on_event = on_event;
  answer = 1;
  EXPECT(CRITIC_CANCELLED, critic_critique(session, &request, &result, &error));
  CHECK(calls == 1 && result == NULL);
  answer = 0;
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, &error));
  CHECK(calls > 3 && critic_result_verdict(result) != CRITIC_VERDICT_NONE);
  CHECK(critic_result_candidate_count(result) == 1 && critic_result_finding_count(result) == 0);
  EXPECT(CRITIC_OK, critic_result_candidate(result, 0, &candidate));
  CHECK(candidate.has_utility_advantage == 0 && critic_result_utility_advantage(result, &advantage) == 0 && advantage == 5);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_result_candidate(result, 1, &candidate));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_result_candidate(result, 0, NULL));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_result_finding(result, 0, &finding));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_result_round(result, 0, &round));
  EXPECT(CRITIC_OK, critic_result_timings(result, &timings));
  CHECK(timings.prompt_tokens > 0 && timings.generated_tokens > 0);
  CHECK(critic_result_refinement(result).data == NULL && critic_result_tokens(result, &count) == NULL && count == 0);
  critic_result_free(result);
  result = NULL;
  request.on_event = NULL;

  /* The host's own parts. */
  request.critique = critic_text_of("Too many.");
  request.actor = actor;
  request.accept = accept;
  answer = 7;
  EXPECT(CRITIC_CALLBACK_FAILED, critic_refine(session, &request, &result, &error));
  CHECK(strstr(error.message, "actor returned 7") != NULL);
  answer = 0;
  EXPECT(CRITIC_OK, critic_refine(session, &request, &result, &error));
  CHECK(critic_result_accepted(result) == 0 && critic_result_complete(result) == 1);
  CHECK(critic_result_refinement(result).len == 3 && !memcmp(critic_result_refinement(result).data, "\xef\xbf\xbd", 3));
  CHECK(critic_result_text(result).len == 6);
  critic_result_free(result);
  result = NULL;
  request.actor = cancelled_actor;
  EXPECT(CRITIC_CANCELLED, critic_refine(session, &request, &result, &error));
  request.accept = NULL;
  request.actor = NULL;
  request.critique = critic_text_of(NULL);

  /* A double cancel stops one call; one that is taken back none; a reset takes it back too. */
  critic_session_cancel(session);
  critic_session_cancel(session);
  EXPECT(CRITIC_CANCELLED, critic_critique(session, &request, &result, &error));
  CHECK(result == NULL);
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, &error));
  critic_result_free(result);
  critic_session_cancel(session);
  critic_session_clear_cancel(session);
  EXPECT(CRITIC_OK, critic_critique(session, &request, &result, &error));
  EXPECT(CRITIC_OK, critic_result_timings(result, &timings));
  CHECK(timings.reused_tokens > 0);
  critic_result_free(result);
  critic_session_cancel(session);
  EXPECT(CRITIC_OK, critic_session_reset(session));
  request.rounds = 2;
  request.candidates = 3;
  EXPECT(CRITIC_OK, critic_improve(session, &request, &result, &error));
  CHECK(critic_result_round_count(result) >= 1 && critic_result_candidate_count(result) == 3);
  EXPECT(CRITIC_OK, critic_result_round(result, 0, &round));
  EXPECT(CRITIC_OK, critic_result_timings(result, &timings));
  CHECK(round.critique.len == critic_result_critique(result).len);
  critic_result_free(result);

  /* Small things. */
  two[0] = critic_text_of("zzzz");
  two[1] = critic_text_of("");
  request.stops = two;
  request.stop_count = 2;
  request.flags = CRITIC_RAW_PROMPT;
  EXPECT(CRITIC_OK, critic_generate(session, &request, &result, &error));
  CHECK(critic_result_tokens(result, &count) != NULL || count == 0);
  critic_result_free(result);
  request.flags = CRITIC_PARSE_CONTROL;
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_generate(session, &request, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_score(session, critic_text_of("a b"), 8, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_score(NULL, critic_text_of("a b"), 0, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_score(session, critic_text_of("a b"), 0, NULL, &error));
  EXPECT(CRITIC_OK, critic_score(session, critic_text_of("a b c d"), 0, &result, &error));
  CHECK(critic_result_logprobs(result, &count) != NULL && count > 0);
  CHECK(critic_result_tokens(result, &i) != NULL && i == count + 1);
  critic_result_free(result);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_tokenize(NULL, critic_text_of("a"), 0, &result, &error));
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_tokenize(model, critic_text_of("a"), 0, NULL, &error));
  EXPECT(CRITIC_OK, critic_tokenize(model, critic_text_of("a"), 0, &result, &error));
  CHECK(critic_result_tokens(result, NULL) != NULL);
  critic_result_free(result);

  /* Freed from its own callback: the call is cancelled. */
  EXPECT(CRITIC_OK, critic_session_new(model, NULL, &doomed, NULL));
  request = critic_request_default();
  request.prompt = critic_text_of("x");
  request.on_event = freeing;
  request.userdata = &doomed;
  EXPECT(CRITIC_CANCELLED, critic_critique(doomed, &request, &result, &error));
  CHECK(doomed == NULL);
  critic_session_free(session);
}

static void full(const critic_model *model) {
  critic_session *session = NULL;
  critic_result *result = NULL;
  critic_session_options options = critic_session_options_default();
  critic_request request = critic_request_default();
  static char words[8192];
  size_t i;
  for (i = 0; i + 1 < sizeof words; i++) {
    words[i] = i % 2 ? ' ' : (char)('a' + i % 26);
  }
  options.context_tokens = 128;
  EXPECT(CRITIC_OK, critic_session_new(model, &options, &session, NULL));
  request.prompt = critic_text_of(words);
  EXPECT(CRITIC_CONTEXT_FULL, critic_critique(session, &request, &result, NULL));
  request.prompt = critic_text_of("x");
  request.max_tokens = 1;
  EXPECT(CRITIC_OK, critic_generate(session, &request, &result, NULL));
  critic_result_free(result);
  critic_session_free(session);
}

int main(int argc, char **argv) {
  critic_model *model = NULL;
  size_t count = 9;
  CHECK(argc == 4);
  CHECK(critic_version_number() == (CRITIC_VERSION_MAJOR << 24 | CRITIC_VERSION_MINOR << 16 | CRITIC_VERSION_PATCH << 8));
  CHECK(strcmp(critic_status_name(CRITIC_BUSY), "CRITIC_BUSY") == 0);
  CHECK(strcmp(critic_status_name(-5), "unknown") == 0);
  opening(argv[1], argv[2]);
  EXPECT(CRITIC_OK, critic_model_open(argv[1], NULL, &model, NULL));
  adapters(argv[1], argv[3]);
  sessions(model);
  requests(model);
  full(model);
  critic_model_free(model);
  /* Nothing is there, and nothing happens. */
  critic_model_free(NULL);
  critic_session_free(NULL);
  critic_result_free(NULL);
  critic_session_cancel(NULL);
  critic_session_clear_cancel(NULL);
  CHECK(critic_result_verdict(NULL) == CRITIC_VERDICT_NONE && critic_result_text(NULL).len == 0);
  CHECK(critic_result_critique(NULL).len == 0 && critic_result_refinement(NULL).data == NULL);
  CHECK(critic_result_complete(NULL) == 0);
  CHECK(critic_result_accepted(NULL) == 0 && critic_result_utility_advantage(NULL, NULL) == 0);
  CHECK(critic_result_finding_count(NULL) == 0 && critic_result_candidate_count(NULL) == 0);
  CHECK(critic_result_round_count(NULL) == 0 && critic_result_logprobs(NULL, &count) == NULL && count == 0);
  EXPECT(CRITIC_INVALID_ARGUMENT, critic_result_timings(NULL, NULL));
  return 0;
}
