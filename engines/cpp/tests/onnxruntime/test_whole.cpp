#include <doctest/doctest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "bundle/sha256.hpp"
#include "doubles.hpp"
#include "folder.hpp"
#include "onnxruntime/backend.hpp"
#include "reasons.hpp"

TEST_CASE("ONNX Runtime is given the bytes that were verified, and nothing that has taken their place") {
  const Folder folder;
  const auto file = folder.path / "model.onnx";
  plainconv::Bundle bundle{folder.path, {}, ""};
  bundle.manifest.files["model.onnx"] = {5, plainconv::sha256_of("12345")};
  const auto refused = [&] {
    plainconv::Reasons reasons;
    return thrown_by<plainconv::Error>([&] { (void)plainconv::load_by_onnxruntime(bundle, {}, reasons); });
  };
  std::ofstream(file) << "12345";
  CHECK(contains(refused(), "model.onnx: ONNX Runtime cannot load it"));
  std::ofstream(file) << "54321";
  CHECK(contains(refused(), "model.onnx was changed since the bundle was opened"));
  std::filesystem::remove(file);
  REQUIRE(::mkfifo(file.c_str(), 0600) == 0);
  CHECK(contains(refused(), "model.onnx is a special file, wanted plain files only"));
}
