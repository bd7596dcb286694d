// bundle-run: verifies a bundle, and runs its network on .npy files or measures it.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <new>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "bundle/reader.hpp"
#include "npy.hpp"
#include "plainconv/bundle.hpp"
#include "text.hpp"

namespace {

using plainconv::Array;
using plainconv::ConstTensor;
using plainconv::DType;
using plainconv::Error;
using plainconv::Network;
using plainconv::Tensor;
using plainconv::TensorSpec;
using plainconv::text;

constexpr int done = 0;
constexpr int failed = 1;     // out of memory: the input may be right
constexpr int bad_input = 2;  // one line: found, wanted, remedy
constexpr int internal = 70;  // EX_SOFTWARE: a fault of ours

constexpr std::string_view usage =
    R"(usage: bundle-run BUNDLE [--input [NAME=]X.npy]... [--output [NAME=]Y.npy]... [options]

Verifies every byte of a bundle and prints what its network takes and gives, or runs it.

  --input [NAME=]X.npy    an input; NAME may be left out where there is one
  --output [NAME=]Y.npy   where an output goes
  --bench                 how long a call takes: p50, p90, p99 (without --input: on random numbers)
  --calls N               of --bench (default 300), after a tenth as many that do not count
  --precision P           one that the bundle holds (default: fp32)
  --backend NAME          what runs it (default: the first that was built in)
  --threads N             of ONNX Runtime, of each place where there are several (default 0: one per core)
  --devices 0,1,...       run the parts that the bundle is split into, one device for each of the split's
  --device N              the GPU
  --timeout S             seconds that a call of a split network may take (default 60)
  --help

Exit codes: 0 done, 1 out of memory, 2 bad input (one line: found, wanted, remedy).
)";

/// What the command line asks for.
struct Arguments {
  std::string bundle;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  bool bench = false;
  int calls = 300;
  bool help = false;
  plainconv::Options options;
};

int number_of(std::string_view option, std::string_view given, int least) {
  int value = 0;
  const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
  if (error != std::errc() || end != given.data() + given.size() || value < least) {
    throw Error(text(option, " is ", plainconv::repr(given), ", wanted a whole number from ", least, " on"));
  }
  return value;
}

std::vector<int> numbers_of(std::string_view option, std::string_view given) {
  std::vector<int> numbers;
  for (std::size_t start = 0; start <= given.size();) {
    const std::size_t end = std::min(given.find(',', start), given.size());
    numbers.push_back(number_of(option, given.substr(start, end - start), 0));
    start = end + 1;
  }
  return numbers;
}

std::chrono::duration<double> seconds_of(std::string_view option, std::string_view given) {
  double value = 0;
  const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
  if (error != std::errc() || end != given.data() + given.size() || !(value > 0)) {
    throw Error(text(option, " is ", plainconv::repr(given), ", wanted a number of seconds above 0"));
  }
  return std::chrono::duration<double>(value);
}

Arguments arguments_of(std::span<const std::string> given) {
  Arguments arguments;
  for (std::size_t i = 0; i < given.size(); ++i) {
    const std::string& option = given[i];
    const auto value = [&]() -> const std::string& {
      if (++i == given.size()) {
        throw Error(text(option, " is given without a value; see bundle-run --help"));
      }
      return given[i];
    };
    if (option == "--help" || option == "-h") {
      arguments.help = true;
    } else if (option == "--bench") {
      arguments.bench = true;
    } else if (option == "--input") {
      arguments.inputs.push_back(value());
    } else if (option == "--output") {
      arguments.outputs.push_back(value());
    } else if (option == "--calls") {
      arguments.calls = number_of(option, value(), 1);
    } else if (option == "--precision") {
      arguments.options.precision = value();
    } else if (option == "--backend") {
      arguments.options.backend = value();
    } else if (option == "--threads") {
      arguments.options.threads = number_of(option, value(), 0);
    } else if (option == "--devices") {
      arguments.options.devices = numbers_of(option, value());
    } else if (option == "--device") {
      arguments.options.device = number_of(option, value(), 0);
    } else if (option == "--timeout") {
      arguments.options.timeout = seconds_of(option, value());
    } else if (option.starts_with('-')) {
      throw Error(text("unknown option ", plainconv::repr(option), "; see bundle-run --help"));
    } else if (arguments.bundle.empty()) {
      arguments.bundle = option;
    } else {
      throw Error(text("a second bundle ", plainconv::repr(option), " is given, wanted one; see bundle-run --help"));
    }
  }
  if (arguments.bundle.empty() && !arguments.help) {
    throw Error("no bundle is given; see bundle-run --help");
  }
  return arguments;
}

std::string system_words(int number) { return std::generic_category().message(number); }

std::string bytes_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(std::istreambuf_iterator<char>(file), {});
  if (!file.is_open() || file.bad()) {
    throw Error(text(path, " cannot be read (", system_words(errno), "); give a .npy file"));
  }
  return bytes;
}

/// Write a file whole or not at all.
void write_file(const std::string& path, std::string_view bytes) {
  const std::string beside = text(path, ".tmp-", ::getpid());
  const int fd = ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);  // NOLINT(*-vararg)
  int error = fd < 0 ? errno : 0;
  while (error == 0 && !bytes.empty()) {
    const ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
    } else if (errno != EINTR) {
      error = errno;
    }
  }
  if (fd >= 0 && ::close(fd) != 0 && error == 0) {
    error = errno;
  }
  if (error == 0 && std::rename(beside.c_str(), path.c_str()) != 0) {
    error = errno;
  }
  if (error != 0) {
    if (fd >= 0) {
      ::unlink(beside.c_str());
    }
    throw Error(text(path, " cannot be written (", system_words(error), "); name a file in a folder that exists"));
  }
}

/// FILE of "[NAME=]FILE" for each of `specs`, in their order; empty for those that are not given.
std::vector<std::string> files_of(std::string_view role, std::span<const std::string> given,
                                  std::span<const TensorSpec> specs) {
  std::vector<std::string> files(specs.size());
  std::vector<std::string> names;
  for (const TensorSpec& spec : specs) {
    names.push_back(spec.name);
  }
  for (const std::string& one : given) {
    auto spec = std::ranges::find_if(specs, [&](const auto& each) { return one.starts_with(each.name + "="); });
    std::string file = one;
    if (spec != specs.end()) {
      file = one.substr(spec->name.size() + 1);
    } else if (specs.size() == 1) {
      spec = specs.begin();
    } else {
      throw Error(text(role, " ", one, " names none of ", plainconv::joined(names, ", "), "; give NAME=FILE.npy"));
    }
    std::string& slot = files[static_cast<std::size_t>(spec - specs.begin())];
    if (file.empty() || !slot.empty()) {
      throw Error(text(role, " ", spec->name, " is given ", file.empty() ? "without a file" : "twice", ", wanted one"));
    }
    slot = file;
  }
  return files;
}

std::vector<Array> arrays_of_files(std::span<const std::string> files, std::span<const TensorSpec> specs) {
  std::vector<Array> arrays;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (files[i].empty()) {
      throw Error(text("input ", specs[i].name, " is missing; give --input ", specs[i].name, "=FILE.npy"));
    }
    try {
      arrays.push_back(plainconv::array_of_npy(bytes_of_file(files[i])));
    } catch (const Error& error) {
      const std::string_view why = error.what();
      throw Error(why.starts_with(files[i]) ? std::string(why) : text(files[i], ": ", why));
    }
  }
  return arrays;
}

/// Numbers that any network takes: standard normal, or 0 and 1. Free axes have no size by themselves.
Array random_array(const TensorSpec& spec, std::mt19937& random) {
  Array array{spec.dtype, {}, {}};
  std::size_t count = 1;
  for (const auto& axis : spec.shape) {
    if (const auto* name = std::get_if<std::string>(&axis)) {
      throw Error(text(plainconv::text_of(spec), " has a free axis ", *name, "; give --input ", spec.name, "=X.npy"));
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

std::vector<ConstTensor> views_of(std::span<const Array> arrays) {
  std::vector<ConstTensor> views;
  views.reserve(arrays.size());
  for (const Array& array : arrays) {
    views.push_back({array.dtype, array.shape, array.bytes});
  }
  return views;
}

/// The sample that `percent` % of the sorted samples do not exceed; the mean of two where it falls between them.
double percentile(std::span<const double> sorted, std::size_t percent) {
  const std::size_t at = sorted.size() * percent;
  const std::size_t low = at % 100 == 0 ? at / 100 - 1 : at / 100;
  return (sorted[low] + sorted[at / 100]) / 2;
}

void bench(const Network& net, std::span<const ConstTensor> inputs, std::vector<Array>& results, int calls) {
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
  std::cout << net.name() << ' ' << net.backend() << ' ' << net.precision();
  for (const ConstTensor& input : inputs) {
    std::cout << ' ' << plainconv::shown(input.shape);
  }
  std::cout << ": " << std::fixed;
  std::cout.precision(4);
  for (const std::size_t percent : {50U, 90U, 99U}) {
    std::cout << 'p' << percent << ' ' << percentile(milliseconds, percent) << " ms, ";
  }
  std::cout << calls << " calls\n";
}

void show(const plainconv::Bundle& bundle) {
  const auto& manifest = bundle.manifest;
  std::cout << plainconv::printable(manifest.name) << " · " << plainconv::shown_path(bundle.folder)
            << " · every file verified\nsha256 " << bundle.sha256 << '\n';
  for (const auto& spec : plainconv::specs_of(manifest.inputs)) {
    std::cout << "input " << plainconv::printable(text_of(spec)) << '\n';
  }
  for (const auto& spec : plainconv::specs_of(manifest.outputs)) {
    std::cout << "output " << plainconv::printable(text_of(spec)) << '\n';
  }
  std::cout << "precision fp32\n";
  for (const auto& graph : manifest.graphs) {
    std::cout << "precision " << plainconv::printable(graph.precision) << '\n';
  }
  for (const auto& split : manifest.splits) {
    std::cout << "split " << plainconv::printable(split.precision) << ", " << split.parts.size() << " parts, "
              << split.devices << " devices of " << split.streams << " streams\n";
  }
}

void run(const Arguments& arguments) {
  if (arguments.inputs.empty() && !arguments.bench) {
    if (!arguments.outputs.empty()) {
      throw Error("--output is given without an input; give --input X.npy");
    }
    show(plainconv::Bundle::open(arguments.bundle));
    return;
  }
  const Network net = plainconv::open(arguments.bundle, arguments.options);
  const auto output_files = files_of("--output", arguments.outputs, net.outputs());
  std::vector<Array> inputs;
  if (arguments.inputs.empty()) {
    std::mt19937 random;  // NOLINT(*-msc51-cpp,*-msc32-c): the same numbers each time
    for (const TensorSpec& spec : net.inputs()) {
      inputs.push_back(random_array(spec, random));
    }
  } else {
    inputs = arrays_of_files(files_of("--input", arguments.inputs, net.inputs()), net.inputs());
  }
  const auto views = views_of(inputs);
  std::vector<Array> results = net.run(views);
  if (arguments.bench) {
    bench(net, views, results, arguments.calls);
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!output_files[i].empty()) {
      write_file(output_files[i], plainconv::npy_of_array(results[i]));
    }
  }
}

int complain(std::string_view message, int code) {
  std::cerr << "bundle-run: " << plainconv::printable(message) << '\n';
  return code;
}

int guarded_main(std::span<const std::string> given) {
  try {
    const Arguments arguments = arguments_of(given);
    if (arguments.help) {
      std::cout << usage;
    } else {
      run(arguments);
    }
    std::cout.flush();
    if (!std::cout) {
      return complain("the output cannot be written; see where it goes to", bad_input);
    }
    return done;
  } catch (const Error& error) {
    return complain(error.what(), bad_input);
  } catch (const std::bad_alloc&) {
    return complain("out of memory; close other programs, or take a smaller network or input", failed);
  } catch (const std::exception& error) {
    return complain(text("internal error: ", error.what()), internal);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::span words(argv, static_cast<std::size_t>(argc));
    const std::vector<std::string> given(words.begin() + (words.empty() ? 0 : 1), words.end());
    return guarded_main(given);
  } catch (...) {
    return failed;
  }
}
