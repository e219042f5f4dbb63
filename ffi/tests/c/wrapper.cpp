// critic.hpp: errors are thrown, exceptions of lambdas cross the library, handles move.
#include <critic.hpp>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                             \
    }                                                                           \
  } while (0)

struct special : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class Call>
static std::string thrown(Call call) {
  try {
    call();
  } catch (const special &error) {
    return error.what();
  }
  return "nothing";
}

int main(int, char **argv) {
  try {
    critic::model missing("nowhere");
    CHECK(false);
  } catch (const critic::error &error) {
    CHECK(error.status() == CRITIC_IO && std::string(error.what()).find("nowhere") != std::string::npos);
  }
  int lines = 0;
  critic::model_options options;
  options.log = [&](critic_severity, std::string_view) { lines++; };
  critic::model opened(argv[1], options);
  critic::model model = std::move(opened);
  critic::session first(model);
  critic::session session = std::move(first);
  CHECK(lines == 2 && model.describe().context_tokens > 0 && session.describe().threads > 0);

  critic::request request;
  request.prompt = "Two words?";
  request.response = "a b c.";
  request.max_tokens = 3;
  std::string streamed;
  request.on_event = [&](const critic_event &event) {
    streamed.append(event.text.data == nullptr ? "" : event.text.data, event.text.len);
    return true;
  };
  critic::result result = session.critique(request);
  CHECK(!result.refinement() && !result.utility_advantage() && result.candidates().size() == 1);
  CHECK(result.findings().empty() && result.timings().generated_tokens > 0 && !streamed.empty());

  // Thrown in each callback, caught here; the session works on.
  request.on_event = [](const critic_event &) -> bool { throw special("event"); };
  CHECK(thrown([&] { session.critique(request); }) == "event");
  request.on_event = nullptr;
  request.critique = "Too many.";
  request.actor = [](const critic_message *, std::size_t, critic::writer &) -> bool { throw special("actor"); };
  CHECK(thrown([&] { session.refine(request); }) == "actor");
  request.actor = [](const critic_message *messages, std::size_t count, critic::writer &writer) {
    return messages[count - 1].role == CRITIC_ROLE_USER && writer.write("a ") && writer.write("b.");
  };
  request.accept = [](std::string_view, std::string_view) -> bool { throw special("accept"); };
  CHECK(thrown([&] { session.refine(request); }) == "accept");
  request.accept = [](std::string_view draft, std::string_view refinement) {
    return draft == "a b c." && refinement == "a b.";
  };
  result = session.refine(request);
  CHECK(result.accepted() && result.text() == "a b." && result.refinement() == "a b.");

  session.cancel();
  try {
    session.critique(request);
    CHECK(false);
  } catch (const critic::error &error) {
    CHECK(error.status() == CRITIC_CANCELLED);
  }
  CHECK(session.score("a b c d").logprobs().size() + 1 == critic::tokenize(model, "a b c d").tokens().size());
  return 0;
}
