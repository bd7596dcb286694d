// What TensorRT-RTX says of an engine.
#include <doctest/doctest.h>

#include "tensorrt/validity.hpp"

using plainconv::Validity;

namespace {

std::string words(Validity validity, std::uint64_t causes) {
  return plainconv::words_of(validity, causes, "tensorrt_rtx 1.7", [] { return std::string("what the log says"); });
}

}  // namespace

TEST_CASE("an engine that runs slower is told from one that does not run, and an old driver from an old engine") {
  CHECK(words(Validity::valid, 0) == "");
  CHECK(words(Validity::suboptimal, 4) ==
        "tensorrt_rtx 1.7 finds it suboptimal (old cuda driver), it runs slower; update the NVIDIA driver");
  CHECK(words(Validity::invalid, 4) ==
        "tensorrt_rtx 1.7 finds it invalid (old cuda driver); update the NVIDIA driver");
  CHECK(words(Validity::invalid, 1 + 64) ==
        "tensorrt_rtx 1.7 finds it invalid (version mismatch, cuda error); build it again with `exporter build`");
  CHECK(words(Validity::invalid, 0) ==
        "tensorrt_rtx 1.7 finds it invalid (what the log says); build it again with `exporter build`");
}
