// bundle-run: verifies a bundle, and runs its network on .npy files or measures it.
#include <algorithm>
#include <chrono>
#include <iomanip>
#include <iostream>
#include <random>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "bundle/json.hpp"
#include "bundle/reader.hpp"
#include "command.hpp"
#include "measure.hpp"
#include "npy.hpp"
#include "npy_files.hpp"
#include "plainconv/bundle.hpp"
#include "predict/predictor.hpp"
#include "text.hpp"

namespace {

using plainconv::Array;
using plainconv::ConstTensor;
using plainconv::Error;
using plainconv::Network;
using plainconv::TensorSpec;
using plainconv::text;
namespace tools = plainconv::tools;

constexpr std::string_view usage =
    R"(usage: bundle-run BUNDLE [--input [NAME=]X.npy]... [--output [NAME=]Y.npy]... [options]

Verifies every byte of a bundle and prints what its network takes and gives, or runs it.

  --input [NAME=]X.npy    an input; NAME may be left out where there is one
  --output [NAME=]Y.npy   where an output goes
  --image FILE            an image, PNG or JPEG: what the network says of it, as `exporter predict` does
  --json                  what it says of it as JSON
  --bench                 how long a call takes: p50, p90, p99 (without --input: on random numbers)
  --calls N               of --bench (default 300), after a tenth as many that do not count
  --precision P           one that the bundle holds (default: the fastest engine's; fp32 of onnxruntime)
  --backend NAME          what runs it (default: the fastest engine that runs here, or onnxruntime)
  --threads N             of ONNX Runtime, of each place where there are several (default 0: one per core)
  --devices 0,1,...       run the parts that the bundle is split into, one device for each of the split's
  --device N              the GPU that runs it whole (default 0)
  --timeout S             seconds that a call of a split network may take (default 60)
  --help

Exit codes: 0 done, 1 out of memory, 2 bad input (one line: found, wanted, remedy).
)";

/// What the command line asks for.
struct Arguments {
  std::string bundle;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::string image;
  bool json = false;
  bool bench = false;
  int calls = 300;
  bool help = false;
  plainconv::Options options;
};

int number_of(std::string_view option, std::string_view given, int least) {
  const auto value = tools::number_in<int>(given);
  if (!value || *value < least) {
    throw Error(text(option, " is ", plainconv::repr(given), ", wanted a whole number from ", least, " on"));
  }
  return *value;
}

std::chrono::duration<double> seconds_of(std::string_view option, std::string_view given) {
  const auto value = tools::number_in<double>(given);
  if (!value || !(*value > 0)) {
    throw Error(text(option, " is ", plainconv::repr(given), ", wanted a number of seconds above 0"));
  }
  return std::chrono::duration<double>(*value);
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
    } else if (option == "--image") {
      arguments.image = value();
    } else if (option == "--json") {
      arguments.json = true;
    } else if (option == "--calls") {
      arguments.calls = number_of(option, value(), 1);
    } else if (option == "--precision") {
      arguments.options.precision = value();
    } else if (option == "--backend") {
      arguments.options.backend = value();
    } else if (option == "--threads") {
      arguments.options.threads = number_of(option, value(), 0);
    } else if (option == "--devices") {
      arguments.options.devices =
          tools::numbers_in(value(), [&](std::string_view each) { return number_of(option, each, 0); });
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
  if (!arguments.image.empty() && (arguments.bench || !arguments.inputs.empty())) {
    throw Error("--image is the only input, and is not measured; leave out --input and --bench");
  }
  return arguments;
}

std::vector<ConstTensor> views_of(std::span<const Array> arrays) {
  std::vector<ConstTensor> views;
  views.reserve(arrays.size());
  for (const Array& array : arrays) {
    views.push_back({array.dtype, array.shape, array.bytes});
  }
  return views;
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

void write(std::span<const Array> results, std::span<const std::string> files) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (!files[i].empty()) {
      tools::write_file(files[i], plainconv::npy_of_array(results[i]));
    }
  }
}

std::string line_of(const plainconv::Answer& answer) {
  std::ostringstream line;
  line << std::fixed << "  " << std::setprecision(4) << answer.score << "  " << plainconv::printable(answer.label)
       << std::setprecision(1);
  if (answer.xyxy) {
    line << " ";
    for (const double side : *answer.xyxy) {
      line << ' ' << side;
    }
  }
  if (answer.mask) {
    const auto& pixels = answer.mask->pixels;
    const auto count = static_cast<double>(std::ranges::count(pixels, 1));
    line << "  " << 100 * (count / static_cast<double>(pixels.size())) << "% of the image";
  }
  return line.str();
}

void predict(const Network& net, const Arguments& arguments) {
  const auto output_files = tools::files_of("--output", arguments.outputs, net.outputs());
  const auto file = plainconv::bytes_of_image(arguments.image);
  const auto prepared = net.predictor().prepare(file, arguments.image);
  const auto results = net.run(views_of(std::span(&prepared.input, 1)));
  if (arguments.json) {
    std::cout << R"([{"image": )" << plainconv::json::json_text(arguments.image) << R"(, "predictions": )"
              << net.predictor().said(views_of(results), prepared.where) << "}]\n";
  } else {
    const auto answers = net.predictor().answers(views_of(results), prepared.where);
    std::cout << plainconv::printable(arguments.image) << (answers.empty() ? ": nothing found\n" : "\n");
    for (const auto& answer : answers) {
      std::cout << line_of(answer) << '\n';
    }
  }
  write(results, output_files);
}

void run(const Arguments& arguments) {
  if (arguments.inputs.empty() && !arguments.bench && arguments.image.empty()) {
    if (!arguments.outputs.empty()) {
      throw Error("--output is given without an input; give --input X.npy");
    }
    show(plainconv::Bundle::open(arguments.bundle));
    return;
  }
  plainconv::Options options = arguments.options;
  options.eager_kernels = arguments.bench;  // others would be measured before those that will serve are there
  options.warn = [](const std::string& line) { tools::say(text("bundle-run: warning: ", line)); };
  const Network net = plainconv::open(arguments.bundle, options);
  if (!arguments.image.empty()) {
    predict(net, arguments);
    return;
  }
  const auto output_files = tools::files_of("--output", arguments.outputs, net.outputs());
  std::vector<Array> inputs;
  if (arguments.inputs.empty()) {
    std::mt19937 random;  // NOLINT(*-msc51-cpp,*-msc32-c): the same numbers each time
    for (const TensorSpec& spec : net.inputs()) {
      inputs.push_back(tools::random_array(spec, random));
    }
  } else {
    inputs = tools::arrays_of_files(tools::files_of("--input", arguments.inputs, net.inputs()), net.inputs());
  }
  const auto views = views_of(inputs);
  std::vector<Array> results = net.run(views);
  if (arguments.bench) {
    std::cout << tools::measured(net, views, results, arguments.calls) << '\n';
  }
  write(results, output_files);
}

int run_on(std::span<const std::string> given) {
  const Arguments arguments = arguments_of(given);
  if (arguments.help) {
    std::cout << usage;
  } else {
    run(arguments);
  }
  return tools::done;
}

}  // namespace

int main(int argc, char** argv) { return tools::run({"bundle-run", "network or input", run_on}, argc, argv); }
