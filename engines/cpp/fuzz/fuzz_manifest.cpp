// Given any bytes as a manifest.json -> its records, judged by the rules, or BundleError. With and without a right
// hash.
#include <cstddef>
#include <cstdint>
#include <string>

#include "bundle/codec.hpp"
#include "bundle/rules.hpp"
#include "bundle/sha256.hpp"

namespace {

void read(const std::string& raw) {
  try {
    if (plainconv::problems(plainconv::manifest_of_bytes(raw)).empty() && !plainconv::sha256_in_manifest(raw)) {
      __builtin_trap();
    }
  } catch (const plainconv::BundleError&) {
    return;
  }
}

/// The same bytes with a right hash, if there is a line for one: else every input would end at the hash.
std::string sealed(std::string raw) {
  const std::string before = R"(  "manifest_sha256": ")";
  const std::size_t at = raw.find(before);
  if (at == std::string::npos || raw.size() < at + before.size() + 64) {
    return raw;
  }
  raw.replace(at + before.size(), 64, std::string(64, '0'));
  return raw.replace(at + before.size(), 64, plainconv::sha256_of(raw));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string raw(data, data + size);
  read(raw);
  read(sealed(raw));
  return 0;
}
