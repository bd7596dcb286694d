// How often the whole program takes memory from the heap. A sanitizer has operators of its own: nothing is counted
// there.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PLAINCONV_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PLAINCONV_SANITIZED
#endif
#endif

/// Calls of `operator new` so far, on all threads.
std::size_t allocations() noexcept;

/// Those during `act`, whichever thread makes them.
template <class F>
std::size_t allocations_of(F act) {
  const std::size_t before = allocations();
  act();
  return allocations() - before;
}
