#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <new>

#include "allocations.hpp"
#include "doubles.hpp"

#ifndef PLAINCONV_SANITIZED

namespace {
std::atomic<std::size_t> taken = 0;  // NOLINT(*-non-const-global-variables)
}

std::size_t allocations() noexcept { return taken; }

void* operator new(std::size_t size) {
  ++taken;
  void* memory = std::malloc(size == 0 ? 1 : size);  // NOLINT
  if (memory == nullptr) {
    throw std::bad_alloc();
  }
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }                        // NOLINT
void operator delete(void* memory, std::size_t /*size*/) noexcept { std::free(memory); }  // NOLINT

TEST_CASE("a run allocates nothing of its own") {
  const auto net = copying_network();
  std::array<float, 8> x{};
  std::array<float, 8> y{};
  const std::array<std::int64_t, 2> shape{2, 4};
  const std::array inputs{plainconv::input(std::span<const float>(x), shape)};
  const std::array outputs{plainconv::output(std::span<float>(y), shape)};
  CHECK(allocations_of([&] { net.run(inputs, outputs); }) == 0);
  CHECK(allocations_of([&] { (void)net.run(inputs); }) > 0);  // that it counts
}

#endif
