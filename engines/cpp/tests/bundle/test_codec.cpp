#include <doctest/doctest.h>

#include "bundle/codec.hpp"
#include "bundle/rules.hpp"
#include "bundle/sha256.hpp"
#include "doubles.hpp"

namespace {

const std::string zeros(64, '0');

/// A manifest with a right hash; `more` are further members.
std::string sealed(const std::string& more) {
  std::string raw = "{\n  \"manifest_sha256\": \"" + zeros + "\",\n" + more + "}\n";
  return raw.replace(raw.find(zeros), zeros.size(), plainconv::sha256_of(raw));
}

std::string refused(const std::string& raw) {
  return thrown_by<plainconv::BundleError>([&] { (void)plainconv::manifest_of_bytes(raw); });
}

}  // namespace

TEST_CASE("SHA-256 of the standard's example") {
  CHECK(plainconv::sha256_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("every byte of a manifest is guarded by its hash") {
  const std::string raw = sealed("  \"format\": \"x\"\n");
  REQUIRE(plainconv::sha256_in_manifest(raw));
  for (std::size_t at = 0; at < raw.size(); ++at) {
    for (const int mask : {1, 0x20, 0x80}) {
      std::string changed = raw;
      changed[at] = static_cast<char>(changed[at] ^ mask);
      CHECK(!plainconv::sha256_in_manifest(changed));
    }
  }
  CHECK(!plainconv::sha256_in_manifest(raw + "  \"manifest_sha256\": \"" + zeros + "\"\n"));
}

TEST_CASE("a manifest of another shape is one line") {
  CHECK(contains(refused("{}"), "is damaged"));
  CHECK(contains(refused(sealed("  \"format\": 1\n")), "no \"format\": \"plainconv-bundle\""));
  CHECK(contains(refused(sealed(R"(  "format": "plainconv-bundle", "format_version": 2)")),
                 "version 2, this program reads 3; export again, or install the plainconv that wrote it"));
  CHECK(contains(refused(sealed(R"(  "format": "plainconv-bundle", "format_version": 4)")),
                 "version 4, this program reads 3; install the plainconv that wrote it"));
  CHECK(contains(refused(sealed(R"(  "format": "plainconv-bundle", "format_version": true)")), "is True, wanted int"));
  CHECK(contains(refused(sealed(R"(  "format": "plainconv-bundle", "format_version": 3)")),
                 "tools is missing, wanted dict"));
  CHECK(contains(refused(sealed("  \"a\": 1, \"a\": 2\n")), "a key appears twice in one object"));
}

TEST_CASE("file names stay inside the folder") {
  for (const char* name : {"model.onnx", "a/b/c/d", "x-y_z.1", "engines/tensorrt_rtx-fp32-sm80_sm86.engine"}) {
    CHECK(plainconv::is_file_name(name));
  }
  for (const char* name :
       {"", ".", "..", "/a", "a/", "a//b", "C:x", "a/b/c/d/e", ".a", "a.", "a\\b", "Manifest.JSON", "é"}) {
    CAPTURE(name);
    CHECK(!plainconv::is_file_name(name));
  }
  CHECK(plainconv::is_file_name(std::string(120, 'a')));
  CHECK(!plainconv::is_file_name(std::string(121, 'a')));
}
