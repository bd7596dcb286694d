// What `net.run` costs beyond ONNX Runtime's own call: the same model, session options and memory, in one process.
//
//     bundle-overhead BUNDLE... [--rounds N] [--threads N]
//
// Both take turns of many calls each (A B B A). A time is that of a turn over its calls; the columns are medians over
// the rounds, and of the ratio also where the middle half of the rounds lies.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <iostream>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "plainconv/bundle.hpp"

namespace {

using plainconv::Array;
using plainconv::Network;
using plainconv::TensorSpec;
using Microseconds = std::chrono::duration<double, std::micro>;

constexpr Microseconds turn = std::chrono::milliseconds(20);
constexpr int bad_input = 2;

/// An array of this spec, free axes of size 1: normal numbers where it is float32, else zeros.
Array array_of(const TensorSpec& spec) {
  Array array{spec.dtype, {}, {}};
  std::size_t count = 1;
  for (const auto& axis : spec.shape) {
    const auto* fixed = std::get_if<std::int64_t>(&axis);
    array.shape.push_back(fixed == nullptr ? 1 : *fixed);
    count *= static_cast<std::size_t>(array.shape.back());
  }
  array.bytes.resize(count * size_of(spec.dtype));
  if (spec.dtype == plainconv::DType::float32) {
    std::mt19937 random;  // NOLINT(*-msc51-cpp,*-msc32-c): the same numbers each time
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < count; ++i) {
      const float value = normal(random);
      std::memcpy(array.bytes.data() + i * sizeof value, &value, sizeof value);
    }
  }
  return array;
}

std::vector<Array> arrays_of(std::span<const TensorSpec> specs) {
  std::vector<Array> arrays;
  std::ranges::transform(specs, std::back_inserter(arrays), array_of);
  return arrays;
}

/// ONNX Runtime alone, as the backend sets it up: values that are made once, names at hand.
class Raw {
 public:
  Raw(const std::string& bundle, const Network& net, std::vector<Array>& inputs, std::vector<Array>& outputs,
      int threads)
      : session_(nullptr) {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(threads);
    options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    session_ = Ort::Session(env_, (bundle + "/model.onnx").c_str(), options);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      input_names_.push_back(net.inputs()[i].name.c_str());
      inputs_.push_back(value_of(inputs[i]));
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      output_names_.push_back(net.outputs()[i].name.c_str());
      outputs_.push_back(value_of(outputs[i]));
    }
  }

  void run() {
    session_.Run(none_, input_names_.data(), inputs_.data(), inputs_.size(), output_names_.data(), outputs_.data(),
                 outputs_.size());
  }

 private:
  static Ort::Value value_of(Array& array) {
    if (array.dtype != plainconv::DType::float32) {
      throw plainconv::Error("the network takes or gives other numbers than float32, wanted float32; take another");
    }
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor(memory, array.bytes.data(), array.bytes.size(), array.shape.data(),
                                    array.shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  }

  Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "overhead"};
  Ort::Session session_;
  Ort::RunOptions none_{nullptr};
  std::vector<const char*> input_names_;
  std::vector<const char*> output_names_;
  std::vector<Ort::Value> inputs_;
  std::vector<Ort::Value> outputs_;
};

template <class F>
Microseconds time_of(int calls, F call) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) {
    call();
  }
  return (std::chrono::steady_clock::now() - start) / calls;
}

double at(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

void measure(const std::string& bundle, int rounds, int threads) {
  const Network net = plainconv::open(bundle, {.backend = "onnxruntime", .threads = threads});
  auto inputs = arrays_of(net.inputs());
  auto own_results = arrays_of(net.outputs());
  auto raw_results = own_results;
  std::vector<plainconv::ConstTensor> reads;
  std::vector<plainconv::Tensor> makes;
  for (const Array& array : inputs) {
    reads.push_back({array.dtype, array.shape, array.bytes});
  }
  for (Array& array : own_results) {
    makes.push_back({array.dtype, array.shape, array.bytes});
  }
  Raw raw(bundle, net, inputs, raw_results, threads);
  const auto run_own = [&] { net.run(reads, makes); };
  const auto run_raw = [&] { raw.run(); };
  constexpr int few = 5;
  time_of(few, run_own);
  const int calls = std::max(1, static_cast<int>(turn / time_of(few, run_raw)));
  std::vector<double> own;
  std::vector<double> others;
  std::vector<double> ratios;
  for (int round = 0; round < rounds; ++round) {
    Microseconds a = time_of(calls, run_raw);
    Microseconds b = time_of(calls, run_own);
    b += time_of(calls, run_own);
    a += time_of(calls, run_raw);
    others.push_back(a.count() / 2);
    own.push_back(b.count() / 2);
    ratios.push_back(b / a);
  }
  for (std::size_t i = 0; i < own_results.size(); ++i) {
    if (own_results[i].bytes != raw_results[i].bytes) {
      throw plainconv::Error(bundle + ": the two do not give the same bits; report it");
    }
  }
  constexpr double quarter = 0.25;
  std::cout << "| " << net.name() << " | " << at(others, 2 * quarter) << " | " << at(own, 2 * quarter) << " | "
            << at(own, 2 * quarter) - at(others, 2 * quarter) << " | " << at(ratios, 2 * quarter) << "× | "
            << at(ratios, quarter) << "–" << at(ratios, 3 * quarter) << " |" << std::endl;
}

int number_of(const std::string& option, const std::string& given) {
  int value = 0;
  const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
  if (error != std::errc() || end != given.data() + given.size() || value < 1) {
    throw plainconv::Error(option + " is '" + given + "', wanted a whole number from 1 on");
  }
  return value;
}

void measure_all(const std::vector<std::string>& given) {
  std::vector<std::string> bundles;
  int rounds = 31;
  int threads = 1;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const bool has_value = i + 1 < given.size();
    if (given[i] == "--rounds" && has_value) {
      rounds = number_of(given[i], given[i + 1]);
      ++i;
    } else if (given[i] == "--threads" && has_value) {
      threads = number_of(given[i], given[i + 1]);
      ++i;
    } else if (given[i].starts_with('-')) {
      throw plainconv::Error("usage: bundle-overhead BUNDLE... [--rounds N] [--threads N]");
    } else {
      bundles.push_back(given[i]);
    }
  }
  if (bundles.empty()) {
    throw plainconv::Error("no bundle is given; usage: bundle-overhead BUNDLE... [--rounds N] [--threads N]");
  }
  std::cout.precision(3);
  std::cout << std::fixed << "| network | Ort::Session::Run, µs | net.run, µs | more, µs | ratio | middle half |\n"
            << "|---|---|---|---|---|---|\n";
  for (const std::string& bundle : bundles) {
    measure(bundle, rounds, threads);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::span words(argv, static_cast<std::size_t>(argc));
    measure_all({words.begin() + (words.empty() ? 0 : 1), words.end()});
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "bundle-overhead: " << error.what() << '\n';
    return bad_input;
  }
}
