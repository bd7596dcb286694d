#include "command.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <exception>
#include <iostream>
#include <mutex>
#include <new>

#include "plainconv/bundle.hpp"
#include "text.hpp"

namespace plainconv::tools {
namespace {

/// Have /dev/null where a standard stream is closed: else a file, or a client's connection, gets its number, and what
/// is said there.
void hold_standard_streams() {
  int file = 0;
  do {
    file = ::open("/dev/null", O_RDWR);  // NOLINT(*-vararg)
  } while (file >= 0 && file <= STDERR_FILENO);
  if (file >= 0) {
    ::close(file);
  }
}

int guarded(const Command& command, std::span<const std::string> given) {
  const auto complain = [&](std::string_view message, int code) {
    say(text(command.name, ": ", message));
    return code;
  };
  try {
    const int code = command.run(given);
    std::cout.flush();
    return std::cout ? code : complain("the output cannot be written; see where it goes to", bad_input);
  } catch (const Error& error) {
    return complain(error.what(), bad_input);
  } catch (const std::bad_alloc&) {
    return complain(text("out of memory; close other programs, or take a smaller ", command.smaller), failed);
  } catch (const std::exception& error) {
    return complain(text("internal error: ", error.what()), internal);
  }
}

}  // namespace

int run(const Command& command, int argc, char** argv) noexcept {
  hold_standard_streams();
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is a disk that is full
  try {
    const std::span words(argv, static_cast<std::size_t>(argc));
    const std::vector<std::string> given(words.begin() + (words.empty() ? 0 : 1), words.end());
    return guarded(command, given);
  } catch (...) {
    return failed;
  }
}

void say(std::string_view line) {
  static std::mutex mutex;
  const std::scoped_lock lock(mutex);
  std::cerr << text(printable(line), "\n") << std::flush;
}

}  // namespace plainconv::tools
