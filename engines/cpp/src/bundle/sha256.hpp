// SHA-256, by OpenSSL's libcrypto: it uses the processor's own instructions, and opening a bundle hashes every byte of
// it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace plainconv {

class Sha256 {
 public:
  Sha256();
  void update(std::string_view bytes);
  /// 64 lower-case hexadecimal digits. Nothing may be added after it.
  [[nodiscard]] std::string digits();

 private:
  struct Free {
    void operator()(void* context) const noexcept;
  };
  std::unique_ptr<void, Free> context_;
};

[[nodiscard]] std::string sha256_of(std::string_view bytes);

/// Whether this is how a manifest spells a hash.
[[nodiscard]] bool is_sha256(std::string_view digits) noexcept;

}  // namespace plainconv
