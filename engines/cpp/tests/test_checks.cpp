#include <doctest/doctest.h>

#include <array>

#include "doubles.hpp"

using plainconv::EngineError;

namespace {

std::array<float, 16> memory{};  // NOLINT(*-non-const-global-variables)

plainconv::ConstTensor in(std::span<const std::int64_t> shape, std::size_t at, std::size_t count) {
  return plainconv::input(std::span<const float>(memory).subspan(at, count), shape);
}

plainconv::Tensor out(std::span<const std::int64_t> shape, std::size_t at, std::size_t count) {
  return plainconv::output(std::span<float>(memory).subspan(at, count), shape);
}

}  // namespace

TEST_CASE("tensors that are not as the specs say are refused in one line") {
  const auto net = copying_network();
  const std::array<std::int64_t, 2> two{2, 4};
  const std::array<std::int64_t, 2> one{1, 4};
  const std::array<std::int64_t, 2> none{0, 4};
  const std::array<std::int64_t, 1> flat{8};
  const auto refused = [&](plainconv::ConstTensor input, plainconv::Tensor output) {
    return thrown_by<EngineError>([&] { net.run({&input, 1}, {&output, 1}); });
  };
  CHECK(refused(in(two, 0, 8), out(two, 8, 8)).empty());
  CHECK(contains(refused(in(flat, 0, 8), out(two, 8, 8)), "input x has shape [8], wanted [batch, 4]"));
  CHECK(contains(refused(in(none, 0, 0), out(two, 8, 8)), "input x has shape [0, 4], wanted [batch, 4]"));
  CHECK(
      contains(refused(in(two, 0, 8), out(one, 8, 4)), "output y has shape [1, 4], wanted [batch, 4] where batch = 2"));
  CHECK(contains(refused(in(two, 0, 7), out(two, 8, 8)), "input x has 28 bytes, wanted 32"));
  CHECK(contains(refused(in(two, 0, 8), out(two, 7, 8)), "output y lies in the memory of input x"));
  plainconv::ConstTensor other = in(two, 0, 8);
  other.dtype = plainconv::DType::int32;
  CHECK(contains(refused(other, out(two, 8, 8)), "input x is int32, wanted float32"));
  plainconv::ConstTensor askew = in(two, 0, 8);
  askew.bytes = std::as_bytes(std::span(memory)).subspan(1, 32);
  CHECK(contains(refused(askew, out(two, 10, 6)), "not aligned to 4 bytes"));
  CHECK(
      contains(thrown_by<EngineError>([&] { net.run({}, {}); }), "0 inputs are given, wanted 1: x float32[batch, 4]"));
}

TEST_CASE("a run into new arrays has the shapes that the inputs give") {
  const std::array<std::int64_t, 2> two{2, 4};
  const std::array inputs{in(two, 0, 8)};
  CHECK(copying_network().run(inputs).at(0).shape == std::vector<std::int64_t>{2, 4});
  CHECK(copying_network({std::string("unknown")}).run(inputs).at(0).shape == std::vector<std::int64_t>{2, 4});
}
