// Critiques a text file each time that it changes, and cancels work that is out of date.
//
//     c++ -std=c++17 watch.cpp $(pkg-config --cflags --libs critic) -pthread -o watch
//     ./watch model.critic draft.txt "Explain what a mutex is." [--once] [--max-tokens N] [--kernel NAME]
//
// One session serves all versions of the file: what a change leaves as it was is not evaluated
// again.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <thread>

#include <critic.hpp>

namespace {

std::string read(const std::filesystem::path &path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Cancels a session when a file changes, for as long as it lives.
class watcher {
 public:
  watcher(const critic::session &session, std::filesystem::path path, std::filesystem::file_time_type seen)
      : thread_([this, &session, path = std::move(path), seen] {
          while (!done_) {
            std::error_code gone;  // an editor may be replacing the file
            if (std::filesystem::last_write_time(path, gone) != seen && !gone) {
              session.cancel();
              return;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(100));
          }
        }) {}
  ~watcher() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace

int main(int argc, char **argv) try {
  if (argc < 4) {
    std::cerr << "usage: " << argv[0] << " MODEL FILE PROMPT [--once] [--max-tokens N] [--kernel NAME]\n";
    return 2;
  }
  bool once = false;
  critic::session_options options;
  critic::request request;
  request.prompt = argv[3];
  request.max_tokens = 256;
  for (int i = 4; i < argc; i++) {
    if (!std::strcmp(argv[i], "--once")) once = true;
    if (!std::strcmp(argv[i], "--max-tokens") && i + 1 < argc)
      request.max_tokens = static_cast<std::uint32_t>(std::strtoul(argv[++i], nullptr, 10));
    if (!std::strcmp(argv[i], "--kernel") && i + 1 < argc) options.kernel = argv[++i];
  }
  const std::filesystem::path path = argv[2];
  critic::model model(argv[1]);
  critic::session session(model, options);
  request.on_event = [](const critic_event &event) {
    std::cout << std::string_view(event.text.data, event.text.len) << std::flush;
    return true;
  };

  std::filesystem::file_time_type seen;
  for (bool first = true;; first = false) {
    std::error_code gone;  // an editor may be replacing the file
    const auto changed = std::filesystem::last_write_time(path, gone);
    if (first && gone) throw std::filesystem::filesystem_error("cannot watch", path, gone);
    if (gone || (!first && changed == seen)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    seen = changed;
    const std::string draft = read(path);
    request.response = draft;
    std::cout << "--- " << path.filename().string() << ", " << draft.size() << " bytes" << std::endl;
    // A cancellation that came after the last call's end was not meant for this one.
    session.clear_cancel();
    try {
      watcher watcher(session, path, seen);
      critic::result result = session.critique(request);
      critic_timings timings = result.timings();
      std::cout << "\n--- " << (result.keep() ? "fine as it is" : "needs a change") << "; " << timings.reused_tokens
                << " of " << timings.prompt_tokens << " tokens were known already" << std::endl;
    } catch (const critic::error &error) {
      // Out of date: the next turn has the new text. All else ends the program.
      if (error.status() != CRITIC_CANCELLED) throw;
      std::cout << "\n--- changed: starting over" << std::endl;
    }
    if (once) return 0;
  }
} catch (const std::exception &error) {
  std::cerr << error.what() << '\n';
  return 1;
}
