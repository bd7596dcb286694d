#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "bundle/sha256.hpp"
#include "doubles.hpp"
#include "folder.hpp"

namespace {

std::string refused(const std::filesystem::path& path) {
  return thrown_by<plainconv::BundleError>([&] { (void)plainconv::Bundle::open(path); });
}

}  // namespace

TEST_CASE("where there is no bundle, the error says what is there") {
  const Folder folder;
  CHECK(contains(refused(folder.path / "x"), "not a bundle (no such folder)"));
  CHECK(contains(refused(folder.path), "not a bundle (holds no file manifest.json)"));
  std::filesystem::create_directory(folder.path / ".x.old-7-00c0ffee");
  CHECK(contains(refused(folder.path / "x"), "left the bundle as .x.old-7-00c0ffee; rename that to x"));
  REQUIRE(::mkfifo((folder.path / "manifest.json").c_str(), 0600) == 0);
  CHECK(contains(refused(folder.path), "not a bundle (holds no file manifest.json)"));
}

TEST_CASE("a manifest beyond the limit is refused") {
  const Folder folder;
  std::ofstream(folder.path / "manifest.json") << "{";
  std::filesystem::resize_file(folder.path / "manifest.json", (std::uintmax_t{64} << 20U) + 1);
  CHECK(contains(refused(folder.path), "manifest.json is larger than 67108864 bytes"));
}

TEST_CASE("a file is read as it was verified, and nothing that has taken its place") {
  const Folder folder;
  const auto file = folder.path / "a.engine";
  plainconv::Bundle bundle{folder.path, {}, ""};
  bundle.manifest.files["a.engine"] = {5, plainconv::sha256_of("12345")};
  const auto refused = [&] { return thrown_by<plainconv::BundleError>([&] { (void)bundle.read("a.engine"); }); };
  CHECK(contains(refused(), "cannot be read (No such file or directory"));
  std::ofstream(file) << "12345";
  CHECK(bundle.read("a.engine") == "12345");
  std::ofstream(file) << "123456";
  CHECK(contains(refused(), "a.engine was changed since the bundle was opened; open it again"));
  std::filesystem::rename(file, folder.path / "other");
  std::filesystem::create_symlink("other", file);
  CHECK(contains(refused(), "a.engine is a symbolic link, wanted plain files only"));
  std::filesystem::remove(file);
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  CHECK(contains(refused(), "a.engine is a special file, wanted plain files only"));
}

TEST_CASE("paths are shown as Python shows them") {
  CHECK(plainconv::shown_path("./out//v6/") == "out/v6");
  CHECK(plainconv::shown_path("/a/./b") == "/a/b");
  CHECK(plainconv::shown_path("") == ".");
}
