// The kernels that were compiled, in files.
#include "tensorrt/kernel_cache.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "doubles.hpp"
#include "folder.hpp"

namespace {

namespace fs = std::filesystem;
using plainconv::KernelFile;

/// What a file gives, and what is said of it.
struct Read {
  explicit Read(KernelFile& file, bool is_taken = true) {
    file.read(
        [&](const std::string& data) {
          found = data;
          return is_taken;
        },
        [&](const std::string& line) { said.push_back(line); });
  }
  std::string found = "nothing";
  std::vector<std::string> said = {};
};

}  // namespace

TEST_CASE("a file is named by its engine, GPU and version, as Python names it") {
  ::setenv("PLAINCONV_CACHE", "/some where", 1);  // NOLINT(concurrency-mt-unsafe): there is one thread
  const std::string sha256(64, 'a');
  CHECK(plainconv::kernel_file(sha256, "NVIDIA GeForce RTX 4090 (x) sm89", "1.7.1.29") ==
        fs::path("/some where/" + std::string(32, 'a') + "-NVIDIA_GeForce_RTX_4090_x_sm89-1.7.1.29.rtx"));
  ::unsetenv("PLAINCONV_CACHE");        // NOLINT(concurrency-mt-unsafe)
  ::setenv("XDG_CACHE_HOME", "/c", 1);  // NOLINT(concurrency-mt-unsafe)
  CHECK(plainconv::kernel_file(sha256, "A", "1")->parent_path() == "/c/plainconv/kernels");
  ::unsetenv("XDG_CACHE_HOME");  // NOLINT(concurrency-mt-unsafe)
}

TEST_CASE("what is written is read again, and nothing else lies there") {
  const Folder folder;
  const auto path = folder.path / "new" / "k.rtx";
  KernelFile file(path);
  CHECK(Read(file).found == "nothing");
  const std::string data("a\0b\n", 4);
  file.write(data);
  KernelFile again(path);
  const Read read(again);
  CHECK(read.found == data);
  CHECK(read.said.empty());
  const auto before = fs::last_write_time(path) - std::chrono::hours(1);
  fs::last_write_time(path, before);
  again.write(data);  // as it is there already
  CHECK(fs::last_write_time(path) == before);
  again.write("");
  again.write("longer");
  CHECK(Read(file).found == "longer");
  CHECK(std::distance(fs::directory_iterator(path.parent_path()), {}) == 1);
}

TEST_CASE("what cannot be read is told in one line, and written anew; what cannot be written is left") {
  const Folder folder;
  const auto path = folder.path / "k.rtx";
  std::ofstream(path) << "of another version";
  KernelFile file(path);
  CHECK(Read(file, false).said == std::vector<std::string>{"compiled kernels in " + path.string() +
                                                           " cannot be read (the runtime does not take it): they are "
                                                           "compiled again, which takes seconds"});
  file.write("new");
  CHECK(Read(file).found == "new");
  const auto taken = folder.path / "folder.rtx";
  fs::create_directory(taken);
  KernelFile none(taken);
  const Read read(none);
  CHECK(read.said.size() == 1);
  CHECK(contains(read.said.at(0), "folder.rtx cannot be read (it is no file that can be opened)"));
  none.write("new");
  CHECK(fs::is_directory(taken));
  KernelFile below(path / "no folder" / "k.rtx");
  below.write("new");
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 2);
}

TEST_CASE("files are no larger together than they may be: those not used for longest go") {
  const Folder folder;
  const std::string data(40, 'x');
  for (int i = 0; i < 4; ++i) {
    const auto path = folder.path / (std::to_string(i) + ".rtx");
    std::ofstream(path) << data;
    fs::last_write_time(path, fs::file_time_type::clock::now() - std::chrono::hours(10 - i));
  }
  std::ofstream(folder.path / "other") << data;
  KernelFile oldest(folder.path / "0.rtx", 100);
  CHECK(Read(oldest).found == data);  // used again
  KernelFile file(folder.path / "new.rtx", 100);
  file.write(std::string(20, 'y'));
  CHECK(fs::exists(folder.path / "new.rtx"));
  CHECK(fs::exists(folder.path / "0.rtx"));
  CHECK(fs::exists(folder.path / "3.rtx"));
  CHECK_FALSE(fs::exists(folder.path / "1.rtx"));
  CHECK_FALSE(fs::exists(folder.path / "2.rtx"));
  CHECK(fs::exists(folder.path / "other"));
  file.write(std::string(101, 'y'));
  CHECK(fs::file_size(folder.path / "new.rtx") == 20);
}
