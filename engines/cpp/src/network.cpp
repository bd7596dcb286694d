#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "backends.hpp"
#include "checks.hpp"
#include "plainconv/bundle.hpp"
#include "predict/predictor.hpp"
#include "tensorrt/loading.hpp"
#include "text.hpp"

namespace plainconv {

struct Network::State {
  std::string name;
  std::string sha256;
  std::string backend;
  std::string precision;
  Checks checks;
  std::unique_ptr<Runner> runner;
  std::variant<Predictor, std::string> predictor;  // or what the bundle lacks for one
};

namespace {

/// The rows that the network of an open batch takes at least: those of the engine that runs it.
std::int64_t least_rows(const Manifest& manifest, std::string_view backend, std::string_view precision) {
  for (const EngineRecord& engine : manifest.engines) {
    if (backend == engine.backend && precision == engine.precision && !engine.profiles.empty()) {
      for (const auto& [name, range] : engine.profiles.front()) {
        if (name == manifest.inputs.front().name && !range.min.empty()) {
          return range.min.front();
        }
      }
    }
  }
  return 1;
}

std::variant<Predictor, std::string> predictor_of(const Manifest& manifest, std::int64_t rows) {
  try {
    return Predictor(manifest, rows);
  } catch (const EngineError& error) {
    return std::string(error.what());
  }
}

}  // namespace

// NOLINTNEXTLINE(*-pass-by-value): they are read after they were copied
Network::Network(const Bundle& bundle, std::string backend, std::string precision, std::unique_ptr<Runner> runner)
    : state_(std::make_unique<const State>(
          State{bundle.manifest.name, bundle.sha256, backend, precision,
                Checks(specs_of(bundle.manifest.inputs), specs_of(bundle.manifest.outputs)), std::move(runner),
                predictor_of(bundle.manifest, least_rows(bundle.manifest, backend, precision))})) {}

Network::Network(Network&&) noexcept = default;
Network& Network::operator=(Network&&) noexcept = default;
Network::~Network() = default;

namespace {

/// Raise an error for a tensor in the memory of a GPU.
void check_memory(std::string_view role, const auto& tensors, const std::vector<TensorSpec>& specs) {
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].memory != Memory::host) {
      throw EngineError(
          text(role, " ", specs[i].name, " is on the GPU, and this runner is on the CPU; copy it to the host"));
    }
  }
}

}  // namespace

void Network::run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) const {
  state_->checks.check(inputs, outputs);
  if (!state_->runner->takes_device_memory()) {
    check_memory("input", inputs, state_->checks.inputs());
    check_memory("output", outputs, state_->checks.outputs());
  }
  state_->runner->run(inputs, outputs);
}

std::vector<Array> Network::run(std::span<const ConstTensor> inputs) const {
  state_->checks.check(inputs);
  if (!state_->runner->takes_device_memory()) {
    check_memory("input", inputs, state_->checks.inputs());
  }
  const auto shapes = state_->checks.shapes(inputs);
  if (!shapes) {
    return state_->runner->run_to_arrays(inputs);
  }
  std::vector<Array> arrays;
  std::vector<Tensor> outputs;
  arrays.reserve(shapes->size());
  for (std::size_t i = 0; i < shapes->size(); ++i) {
    const DType dtype = state_->checks.outputs()[i].dtype;
    const auto& shape = (*shapes)[i];
    const auto bytes = std::accumulate(shape.begin(), shape.end(), size_of(dtype), std::multiplies<>());
    Array& array = arrays.emplace_back(Array{dtype, shape, std::vector<std::byte>(bytes)});
    outputs.push_back({dtype, array.shape, array.bytes});
  }
  state_->runner->run(inputs, outputs);
  return arrays;
}

const Predictor& Network::predictor() const {
  if (const auto* lacking = std::get_if<std::string>(&state_->predictor)) {
    throw EngineError(*lacking);
  }
  return std::get<Predictor>(state_->predictor);
}

namespace {

std::vector<Answer> answers_of(const Network& net, const Prepared& prepared) {
  const std::array inputs{ConstTensor{prepared.input.dtype, prepared.input.shape, prepared.input.bytes}};
  const auto results = net.run(inputs);
  std::vector<ConstTensor> outputs;
  for (const Array& result : results) {
    outputs.push_back({result.dtype, result.shape, result.bytes});
  }
  return net.predictor().answers(outputs, prepared.where);
}

}  // namespace

std::vector<Answer> Network::predict(const std::filesystem::path& file) const {
  return answers_of(*this, predictor().prepare(bytes_of_image(file), file.native()));
}

std::vector<Answer> Network::predict(std::span<const std::byte> file) const {
  return answers_of(*this, predictor().prepare(file, "the file"));
}

std::vector<Answer> Network::predict(const Pixels& image) const {
  return answers_of(*this, predictor().prepare(image));
}

std::span<const TensorSpec> Network::inputs() const noexcept { return state_->checks.inputs(); }
std::span<const TensorSpec> Network::outputs() const noexcept { return state_->checks.outputs(); }
const std::string& Network::name() const noexcept { return state_->name; }
const std::string& Network::sha256() const noexcept { return state_->sha256; }
const std::string& Network::backend() const noexcept { return state_->backend; }
const std::string& Network::precision() const noexcept { return state_->precision; }
bool Network::lost() const noexcept { return state_->runner->lost(); }

namespace {

const Backend& chosen(const std::string& name) {
  const auto built = built_backends();
  if (built.empty()) {
    throw EngineError("this library was built without a backend; build it where ONNX Runtime is found (make cpp)");
  }
  const auto found = name == "auto" ? built.begin() : std::ranges::find(built, name, &Backend::name);
  if (found == built.end()) {
    std::vector<std::string> names = {"auto"};
    std::ranges::transform(built, std::back_inserter(names),
                           [](const Backend& each) { return std::string(each.name); });
    throw EngineError(text("unknown backend ", repr(name), "; wanted one of ", joined(names, ", ")));
  }
  return *found;
}

void check_options(const Options& options) {
  if (options.threads < 0) {
    throw EngineError(text("threads is ", options.threads, "; wanted 0 (one per core) or more"));
  }
  if (options.device < 0) {
    throw EngineError(text("device is ", options.device, "; wanted 0 or more"));
  }
  if (!(options.timeout.count() > 0)) {
    throw EngineError(text("timeout is ", decimal(options.timeout.count()), "; wanted a number of seconds above 0"));
  }
  const auto wrong = std::ranges::find_if(options.devices, [](int device) { return device < 0; });
  if (wrong != options.devices.end()) {
    throw EngineError(text("device ", *wrong, " is given, wanted those from 0 on: 0, 1, 2 …"));
  }
}

}  // namespace

Network open(const std::filesystem::path& folder, const Options& options) {
  check_options(options);
  const Backend& first = chosen(options.backend);
  const Bundle bundle = Bundle::open(folder);
  Options wanted = options;
  if (wanted.devices.size() == 1 && bundle.manifest.splits.empty()) {
    wanted.device = wanted.devices[0];
    wanted.devices.clear();
  }
  const auto built = built_backends();
  const bool any = options.backend == "auto";
  Reasons reasons;
  if (any && std::ranges::none_of(built, &Backend::runs_engines)) {
    (void)load_engines(bundle, wanted, Here{}, {}, reasons);  // which says why none does
  }
  for (const Backend& backend : any ? built : std::span(&first, 1)) {
    if (auto loaded = backend.load(bundle, wanted, reasons)) {
      return {bundle, std::string(backend.name), std::move(loaded->precision), std::move(loaded->runner)};
    }
  }
  throw EngineError(why_none_runs(bundle, wanted, first.name, reasons));
}

}  // namespace plainconv
