#include "bundle/sha256.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <new>

namespace plainconv {

void Sha256::Free::operator()(void* context) const noexcept { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context)); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  // SHA-256 is there and takes any bytes: what can fail is memory
  if (context_ == nullptr || EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_.get()), EVP_sha256(), nullptr) != 1) {
    throw std::bad_alloc();
  }
}

void Sha256::update(std::string_view bytes) {
  if (EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), bytes.size()) != 1) {
    throw std::bad_alloc();
  }
}

std::string Sha256::digits() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_.get()), digest.data(), &size) != 1) {
    throw std::bad_alloc();
  }
  constexpr std::string_view hexadecimal = "0123456789abcdef";
  std::string all;
  for (const unsigned char byte : std::span(digest).first(size)) {
    all += hexadecimal[byte >> 4U];
    all += hexadecimal[byte & 15U];
  }
  return all;
}

std::string sha256_of(std::string_view bytes) {
  Sha256 digest;
  digest.update(bytes);
  return digest.digits();
}

bool is_sha256(std::string_view digits) noexcept {
  return digits.size() == 64 &&
         std::ranges::all_of(digits, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace plainconv
