// critic.hpp - critic.h for C++17: handles that free themselves, texts as std::string_view,
// lambdas as callbacks. Header-only; link libcritic.
//
//     critic::model model("model.critic");
//     critic::session session(model);
//     critic::request request;
//     request.prompt = "What is 48 + 24?";
//     request.response = "48 + 24 = 74";
//     std::cout << session.improve(request).text();
//
// What critic.h says about threads, blocking and lifetimes holds here too.
//
// Failures are thrown as critic::error, unless CRITIC_NO_EXCEPTIONS is defined (or the
// compiler has none): then whatever can fail returns critic::expected<T>, which holds the
// value or a critic::error, as std::expected does. Objects are then made with model::open and
// session::make in place of constructors.
//
// An exception that a callback throws ends the call, is carried past the library's frames,
// which it must not cross, and goes on from the call.
#ifndef CRITIC_HPP
#define CRITIC_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "critic.h"

#if !defined(CRITIC_NO_EXCEPTIONS) && !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#define CRITIC_NO_EXCEPTIONS
#endif

namespace critic {

// ---- Failures ---------------------------------------------------------------------------

// Why a call did not work.
class error : public std::exception {
 public:
  explicit error(const critic_error &from) : error_(from) {}
  error(critic_status status, std::string_view message) : error_() {
    error_.status = status;
    std::size_t length = message.size() < sizeof error_.message - 1 ? message.size() : sizeof error_.message - 1;
    message.copy(error_.message, length);
  }
  critic_status status() const noexcept { return error_.status; }
  const char *what() const noexcept override { return error_.message; }

 private:
  critic_error error_;
};

#ifdef CRITIC_NO_EXCEPTIONS
// A value or an error.
template <class T>
class expected {
 public:
  expected(T value) : held_(std::move(value)) {}
  expected(critic::error why) : held_(std::move(why)) {}
  bool has_value() const noexcept { return held_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  // Only where there is one.
  T &operator*() noexcept { return *std::get_if<0>(&held_); }
  const T &operator*() const noexcept { return *std::get_if<0>(&held_); }
  T *operator->() noexcept { return std::get_if<0>(&held_); }
  const T *operator->() const noexcept { return std::get_if<0>(&held_); }
  const critic::error &error() const noexcept { return *std::get_if<1>(&held_); }

 private:
  std::variant<T, critic::error> held_;
};
template <class T>
using outcome = expected<T>;
#else
template <class T>
using outcome = T;
#endif

namespace detail {

template <class T>
outcome<T> fail(const critic_error &error) {
#ifdef CRITIC_NO_EXCEPTIONS
  return critic::error(error);
#else
  throw critic::error(error);
#endif
}

inline critic_text text(std::string_view from) {
  critic_text text;
  text.data = from.data();
  text.len = from.size();
  return text;
}

inline std::string_view view(critic_text text) { return text.len == 0 ? std::string_view() : std::string_view(text.data, text.len); }

template <class T, void (*Free)(T *)>
struct freed {
  void operator()(T *handle) const noexcept { Free(handle); }
};
template <class T, void (*Free)(T *)>
using handle = std::unique_ptr<T, freed<T, Free>>;

}  // namespace detail

// ---- Models -----------------------------------------------------------------------------

// Hears the log. On the thread that makes a call; must not throw.
using log = std::function<void(critic_severity, std::string_view)>;

// How to open a model.
struct model_options {
  std::uint32_t memory = CRITIC_MEMORY_DEFAULT;
  critic::log log;
  // An adapter file, or the bytes of one.
  std::string adapter_path;
  std::string_view adapter;
};

// A model that is open: all threads may use it at once.
class model {
 public:
#ifndef CRITIC_NO_EXCEPTIONS
  explicit model(const char *path, model_options options = {}) : model(open(path, std::move(options))) {}
  explicit model(const std::string &path, model_options options = {}) : model(path.c_str(), std::move(options)) {}
#endif

  static outcome<model> open(const char *path, model_options options = {}) {
    return make(std::move(options), [&](const critic_model_options *c, critic_model **out, critic_error *error) {
      return critic_model_open(path, c, out, error);
    });
  }
  static outcome<model> open_memory(const void *data, std::size_t length, model_options options = {}) {
    return make(std::move(options), [&](const critic_model_options *c, critic_model **out, critic_error *error) {
      return critic_model_open_memory(data, length, c, out, error);
    });
  }
  static outcome<model> open_fd(int fd, model_options options = {}) {
    return make(std::move(options), [&](const critic_model_options *c, critic_model **out, critic_error *error) {
      return critic_model_open_fd(fd, c, out, error);
    });
  }

  // Its texts live as long as the model.
  critic_model_info describe() const {
    critic_model_info info = critic_model_info_default();
    critic_model_describe(get(), &info);
    return info;
  }

  const critic_model *get() const noexcept { return handle_.get(); }

 private:
  using handle = detail::handle<critic_model, critic_model_free>;
  model(std::unique_ptr<critic::log> kept, handle owned) : log_(std::move(kept)), handle_(std::move(owned)) {}

  template <class Open>
  static outcome<model> make(model_options options, Open open) {
    critic_model_options c = critic_model_options_default();
    c.memory = options.memory;
    if (!options.adapter_path.empty()) c.adapter_path = options.adapter_path.c_str();
    c.adapter = detail::text(options.adapter);
    std::unique_ptr<critic::log> kept;
    if (options.log) {
      kept = std::make_unique<critic::log>(std::move(options.log));
      c.log_userdata = kept.get();
      c.log = [](void *userdata, critic_severity severity, critic_text line) noexcept {
        (*static_cast<critic::log *>(userdata))(severity, detail::view(line));
      };
    }
    critic_model *out = nullptr;
    critic_error error;
    if (open(&c, &out, &error) != CRITIC_OK) return detail::fail<model>(error);
    return model(std::move(kept), handle(out));
  }

  // Before the handle, which may log until it is freed.
  std::unique_ptr<critic::log> log_;
  handle handle_;
};

// ---- Results ----------------------------------------------------------------------------

// What a call came to. Views into it live as long as it does.
class result {
 public:
  explicit result(critic_result *owned) : handle_(owned) {}

  critic_verdict verdict() const noexcept { return critic_result_verdict(get()); }
  bool keep() const noexcept { return verdict() == CRITIC_VERDICT_KEEP; }
  std::string_view text() const noexcept { return detail::view(critic_result_text(get())); }
  std::string_view critique() const noexcept { return detail::view(critic_result_critique(get())); }
  std::optional<std::string_view> refinement() const noexcept {
    critic_text text = critic_result_refinement(get());
    if (text.data == nullptr) return std::nullopt;
    return detail::view(text);
  }
  bool accepted() const noexcept { return critic_result_accepted(get()) != 0; }
  std::optional<float> utility_advantage() const noexcept {
    float value;
    if (critic_result_utility_advantage(get(), &value) == 0) return std::nullopt;
    return value;
  }
  // Whether no text of the result was cut off.
  bool complete() const noexcept { return critic_result_complete(get()) != 0; }
  // Not of a temporary: what they hold are views into it.
  std::vector<critic_finding> findings() const && = delete;
  std::vector<critic_candidate> candidates() const && = delete;
  std::vector<critic_round> rounds() const && = delete;
  std::vector<critic_finding> findings() const & {
    return all(critic_result_finding_count(get()), critic_finding_default(), critic_result_finding);
  }
  std::vector<critic_candidate> candidates() const & {
    return all(critic_result_candidate_count(get()), critic_candidate_default(), critic_result_candidate);
  }
  std::vector<critic_round> rounds() const & {
    return all(critic_result_round_count(get()), critic_round_default(), critic_result_round);
  }
  std::vector<std::uint32_t> tokens() const {
    std::size_t count;
    const std::uint32_t *first = critic_result_tokens(get(), &count);
    return std::vector<std::uint32_t>(first, first + count);
  }
  std::vector<double> logprobs() const {
    std::size_t count;
    const double *first = critic_result_logprobs(get(), &count);
    return std::vector<double>(first, first + count);
  }
  critic_timings timings() const noexcept {
    critic_timings timings = critic_timings_default();
    critic_result_timings(get(), &timings);
    return timings;
  }

  const critic_result *get() const noexcept { return handle_.get(); }

 private:
  template <class T>
  std::vector<T> all(std::size_t count, T item, critic_status (*at)(const critic_result *, std::size_t, T *)) const {
    std::vector<T> items;
    for (std::size_t i = 0; i < count; i++) {
      at(get(), i, &item);
      items.push_back(item);
    }
    return items;
  }

  detail::handle<critic_result, critic_result_free> handle_;
};

// The tokens of a text.
inline outcome<result> tokenize(const model &model, std::string_view text, std::uint32_t flags = 0) {
  critic_result *out = nullptr;
  critic_error error;
  if (critic_tokenize(model.get(), detail::text(text), flags, &out, &error) != CRITIC_OK)
    return detail::fail<result>(error);
  return result(out);
}

// ---- Requests ---------------------------------------------------------------------------

// Takes the text of the host's own actor.
class writer {
 public:
  explicit writer(critic_writer *borrowed) : handle_(borrowed) {}
  // False: the call is over, and the actor should return.
  bool write(std::string_view text) { return critic_write(handle_, detail::text(text)) == CRITIC_OK; }

 private:
  critic_writer *handle_;
};

// What is asked. Views and callbacks must live until the call returns.
struct request {
  std::string_view task, prompt, response, critique;
  std::uint32_t max_tokens = 0, candidates = 0, rounds = 0, top_k = 0;
  float temperature = 0, top_p = 0, min_p = 0, repetition_penalty = 0;
  std::uint64_t seed = 0;
  std::uint32_t flags = 0;
  std::vector<std::string_view> stops;
  // Returns true to go on, unlike C's, which returns 0.
  std::function<bool(const critic_event &)> on_event;
  // Returns true if it wrote what it wanted to.
  std::function<bool(const critic_message *messages, std::size_t count, writer &writer)> actor;
  // Returns true to take the refinement.
  std::function<bool(std::string_view draft, std::string_view refinement)> accept;
};

// ---- Sessions ---------------------------------------------------------------------------

// How a session computes.
struct session_options {
  std::uint32_t context_tokens = 0, threads = 0;
  std::string_view kernel;
  std::uint32_t adapter = CRITIC_ADAPTER_DEFAULT;
  std::string_view prefix_cache;
  std::uint64_t prefix_cache_bytes = 0;
};

// For one thread at a time, save cancel and clear_cancel.
class session {
 public:
#ifndef CRITIC_NO_EXCEPTIONS
  explicit session(const model &model, session_options options = {}) : session(make(model, options)) {}
#endif

  static outcome<session> make(const model &model, session_options options = {}) {
    critic_session_options c = critic_session_options_default();
    c.context_tokens = options.context_tokens;
    c.threads = options.threads;
    c.kernel = detail::text(options.kernel);
    c.adapter = options.adapter;
    c.prefix_cache = detail::text(options.prefix_cache);
    c.prefix_cache_bytes = options.prefix_cache_bytes;
    critic_session *out = nullptr;
    critic_error error;
    if (critic_session_new(model.get(), &c, &out, &error) != CRITIC_OK) return detail::fail<session>(error);
    return session(out);
  }

  outcome<result> critique(const request &request) { return run(critic_critique, request); }
  outcome<result> refine(const request &request) { return run(critic_refine, request); }
  outcome<result> improve(const request &request) { return run(critic_improve, request); }
  outcome<result> generate(const request &request) { return run(critic_generate, request); }
  outcome<result> score(std::string_view text, std::uint32_t flags = 0) {
    critic_result *out = nullptr;
    critic_error error;
    if (critic_score(get(), detail::text(text), flags, &out, &error) != CRITIC_OK) return detail::fail<result>(error);
    return result(out);
  }

  void cancel() const noexcept { critic_session_cancel(handle_.get()); }
  void clear_cancel() const noexcept { critic_session_clear_cancel(handle_.get()); }
  critic_status reset() noexcept { return critic_session_reset(get()); }
  critic_session_info describe() const noexcept {
    critic_session_info info = critic_session_info_default();
    critic_session_describe(handle_.get(), &info);
    return info;
  }

  critic_session *get() noexcept { return handle_.get(); }

 private:
  explicit session(critic_session *owned) : handle_(owned) {}

  using work = critic_status (*)(critic_session *, const critic_request *, critic_result **, critic_error *);

  // A request, and what one of its callbacks threw.
  struct call {
    const request *asked;
    std::exception_ptr thrown;

    // Calls back, and keeps what is thrown.
    template <class Callback>
    std::int32_t keep(Callback callback) noexcept {
#ifdef CRITIC_NO_EXCEPTIONS
      return callback();
#else
      try {
        return callback();
      } catch (...) {
        thrown = std::current_exception();
        return -1;
      }
#endif
    }
  };

  outcome<result> run(work work_of, const request &asked) {
    call state{&asked, nullptr};
    critic_request c = critic_request_default();
    c.task = detail::text(asked.task);
    c.prompt = detail::text(asked.prompt);
    c.response = detail::text(asked.response);
    c.critique = detail::text(asked.critique);
    c.max_tokens = asked.max_tokens;
    c.candidates = asked.candidates;
    c.rounds = asked.rounds;
    c.top_k = asked.top_k;
    c.temperature = asked.temperature;
    c.top_p = asked.top_p;
    c.min_p = asked.min_p;
    c.repetition_penalty = asked.repetition_penalty;
    c.seed = asked.seed;
    c.flags = asked.flags;
    std::vector<critic_text> stops;
    for (std::string_view stop : asked.stops) stops.push_back(detail::text(stop));
    c.stops = stops.data();
    c.stop_count = stops.size();
    c.userdata = &state;
    if (asked.on_event) c.on_event = on_event;
    if (asked.actor) c.actor = actor;
    if (asked.accept) c.accept = accept;
    critic_result *out = nullptr;
    critic_error error;
    critic_status status = work_of(get(), &c, &out, &error);
    if (status == CRITIC_OK) return result(out);
#ifndef CRITIC_NO_EXCEPTIONS
    if (state.thrown) std::rethrow_exception(state.thrown);
#endif
    return detail::fail<result>(error);
  }

  static std::int32_t on_event(void *userdata, const critic_event *event) noexcept {
    call &self = *static_cast<call *>(userdata);
    return self.keep([&] { return self.asked->on_event(*event) ? 0 : 1; });
  }
  static std::int32_t actor(void *userdata, const critic_message *messages, std::size_t count,
                            critic_writer *borrowed) noexcept {
    call &self = *static_cast<call *>(userdata);
    return self.keep([&] {
      writer writer(borrowed);
      return self.asked->actor(messages, count, writer) ? 0 : 1;
    });
  }
  static std::int32_t accept(void *userdata, critic_text draft, critic_text refinement) noexcept {
    call &self = *static_cast<call *>(userdata);
    return self.keep([&] { return self.asked->accept(detail::view(draft), detail::view(refinement)) ? 1 : 0; });
  }

  detail::handle<critic_session, critic_session_free> handle_;
};

}  // namespace critic

#endif  // CRITIC_HPP
