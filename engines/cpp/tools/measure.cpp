#include "measure.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <variant>

#include "text.hpp"

namespace plainconv::tools {
namespace {

/// The sample that `percent` % of the sorted samples do not exceed; the mean of two where it falls between them.
double percentile(std::span<const double> sorted, std::size_t percent) {
  const std::size_t at = sorted.size() * percent;
  const std::size_t low = at % 100 == 0 ? at / 100 - 1 : at / 100;
  return (sorted[low] + sorted[at / 100]) / 2;
}

}  // namespace

Array random_array(const TensorSpec& spec, std::mt19937& random) {
  Array array{spec.dtype, {}, {}};
  std::size_t count = 1;
  for (const auto& axis : spec.shape) {
    if (const auto* name = std::get_if<std::string>(&axis)) {
      throw Error(text(text_of(spec), " has a free axis ", *name, "; give --input ", spec.name, "=X.npy"));
    }
    array.shape.push_back(std::get<std::int64_t>(axis));
    count *= static_cast<std::size_t>(array.shape.back());
  }
  array.bytes.resize(count * size_of(spec.dtype));
  const auto fill = [&]<class T>(T /*type*/, auto draw) {
    for (std::size_t i = 0; i < count; ++i) {
      const T value = draw();
      std::memcpy(array.bytes.data() + i * sizeof(T), &value, sizeof(T));
    }
  };
  std::normal_distribution<double> normal;
  std::uniform_int_distribution<int> bit(0, 1);
  switch (spec.dtype) {
    case DType::float32: fill(float{}, [&] { return static_cast<float>(normal(random)); }); break;
    case DType::float64: fill(double{}, [&] { return normal(random); }); break;
    case DType::int32: fill(std::int32_t{}, [&] { return bit(random); }); break;
    case DType::int64: fill(std::int64_t{}, [&] { return std::int64_t{bit(random)}; }); break;
    case DType::float16:  // 0 or 1
      fill(std::uint16_t{}, [&] { return static_cast<std::uint16_t>(bit(random) * 0x3C00); });
      break;
    case DType::bfloat16:
      fill(std::uint16_t{}, [&] { return static_cast<std::uint16_t>(bit(random) * 0x3F80); });
      break;
    default: fill(std::uint8_t{}, [&] { return static_cast<std::uint8_t>(bit(random)); });
  }
  return array;
}

std::string measured(const Network& net, std::span<const ConstTensor> inputs, std::span<Array> results, int calls) {
  std::vector<Tensor> outputs;
  outputs.reserve(results.size());
  for (Array& array : results) {
    outputs.push_back({array.dtype, array.shape, array.bytes});
  }
  std::vector<double> milliseconds;
  milliseconds.reserve(static_cast<std::size_t>(calls));
  const int warm_up = std::max(1, calls / 10);
  for (int i = -warm_up; i < calls; ++i) {
    const auto start = std::chrono::steady_clock::now();
    net.run(inputs, outputs);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (i >= 0) {
      milliseconds.push_back(took.count());
    }
  }
  std::ranges::sort(milliseconds);
  std::ostringstream line;
  line << net.name() << ' ' << net.backend() << ' ' << net.precision();
  for (const ConstTensor& input : inputs) {
    line << ' ' << shown(input.shape);
  }
  line << ": " << std::fixed;
  line.precision(4);
  for (const std::size_t percent : {50U, 90U, 99U}) {
    line << 'p' << percent << ' ' << percentile(milliseconds, percent) << " ms, ";
  }
  line << calls << " calls";
  return line.str();
}

}  // namespace plainconv::tools
