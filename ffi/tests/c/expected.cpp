// critic.hpp without exceptions: whatever can fail returns a value or an error.
#define CRITIC_NO_EXCEPTIONS
#include <critic.hpp>

int main(int, char **argv) {
  critic::expected<critic::model> missing = critic::model::open("nowhere");
  if (missing || missing.error().status() != CRITIC_IO) return 1;
  auto model = critic::model::open(argv[1]);
  if (!model) return 2;
  auto session = critic::session::make(*model);
  if (!session) return 3;
  critic::request request;
  request.prompt = "x";
  request.max_tokens = 2;
  request.on_event = [](const critic_event &) { return false; };
  auto cancelled = session->generate(request);
  if (cancelled || cancelled.error().status() != CRITIC_CANCELLED) return 4;
  request.on_event = nullptr;
  auto result = session->generate(request);
  return result && !result->tokens().empty() ? 0 : 5;
}
