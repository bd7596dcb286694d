// Engines of TensorRT or TensorRT-RTX: one source for both. The only file that includes their headers.
//
// NVIDIA publishes TensorRT's headers, which TensorRT-RTX's library takes too; what only the headers of its own SDK
// declare (a cache of what contexts compile, CUDA graphs, whether an engine is valid) is used where they are the ones.
#include <NvInferRuntime.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <type_traits>
#include <utility>

#include "tensorrt/backend.hpp"
#include "tensorrt/engine.hpp"
#include "tensorrt/kernel_cache.hpp"
#include "tensorrt/log.hpp"
#include "tensorrt/validity.hpp"
#include "text.hpp"

namespace plainconv {
namespace {

#ifdef PLAINCONV_TENSORRT_RTX
constexpr bool is_rtx = true;
#else
constexpr bool is_rtx = false;
#endif

/// The logger of this process: TensorRT ignores a second one. It keeps errors while something is loaded.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) {
      return;
    }
    try {
      const std::scoped_lock lock(mutex_);
      if (recording_) {
        errors_.emplace_back(message);
      }
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): for want of memory; there is no one to tell
    }
  }

  void begin() {
    const std::scoped_lock lock(mutex_);
    recording_ = true;
    errors_.clear();
  }

  [[nodiscard]] std::vector<std::string> so_far() {
    const std::scoped_lock lock(mutex_);
    return errors_;
  }

  [[nodiscard]] std::vector<std::string> end() {
    const std::scoped_lock lock(mutex_);
    recording_ = false;
    return std::move(errors_);
  }

  /// Held by who loads: one at a time.
  [[nodiscard]] std::unique_lock<std::mutex> turn() { return std::unique_lock(loading_); }

 private:
  std::mutex loading_;
  std::mutex mutex_;
  bool recording_ = false;
  std::vector<std::string> errors_;
};

Log& the_log() {
  static auto* const log = new Log;  // NOLINT(cppcoreguidelines-*): TensorRT talks to it until the end
  return *log;
}

std::string library() { return text(tensorrt_name, " ", runtime_version()); }

/// What the runtime says of an engine before it loads it; where it says no such thing, that it is valid.
template <class Runtime>
std::pair<Validity, std::uint64_t> validity_of(Runtime& runtime, std::string_view bytes) {
  if constexpr (requires(std::uint64_t bits) { runtime.getEngineValidity(bytes.data(), std::int64_t{}, &bits); }) {
    std::uint64_t causes = 0;
    const auto found = runtime.getEngineValidity(bytes.data(), static_cast<std::int64_t>(bytes.size()), &causes);
    using Found = std::remove_const_t<decltype(found)>;
    const auto other = found == Found::kINVALID ? Validity::invalid : Validity::suboptimal;
    return {found == Found::kVALID ? Validity::valid : other, causes};
  }
  return {Validity::valid, 0};
}

/// Makes the contexts of TensorRT's engines; of TensorRT-RTX's where the headers are not those of its own SDK.
template <class Engine>
class PlainContexts {
 public:
  static constexpr bool has_graphs = false;

  PlainContexts(Engine& engine, const EngineUse& /*use*/) : engine_(engine) {}

  /// In memory that it is given where it needs some of TensorRT; TensorRT-RTX has its own.
  [[nodiscard]] nvinfer1::IExecutionContext* make(bool /*repeats*/) {
    using Where = nvinfer1::ExecutionContextAllocationStrategy;
    return engine_.createExecutionContext(scratch() == 0 ? Where::kSTATIC : Where::kUSER_MANAGED);
  }
  [[nodiscard]] std::size_t scratch() const {
    return is_rtx ? 0 : static_cast<std::size_t>(std::max<std::int64_t>(engine_.getDeviceMemorySizeV2(), 0));
  }
  void save() noexcept {}

 private:
  Engine& engine_;
};

/// Makes the contexts of TensorRT-RTX's engines. It can make CUDA graphs of its own, of the last call that each context
/// ran: a new address or shape is a new capture. So engines of fixed shapes have graphs captured, as TensorRT's do.
/// Those of dynamic shapes, of which only the runtime knows when a kernel compiled for a new shape replaces the one
/// that runs meanwhile, make their own, with a context for each call that comes again. All share what they compile, by
/// a cache that must outlive them.
template <class Engine>
class ConfiguredContexts {
  using Config = std::remove_pointer_t<decltype(std::declval<Engine&>().createRuntimeConfig())>;
  using Cache = std::remove_pointer_t<decltype(std::declval<Config&>().createRuntimeCache())>;
  using Graphs = std::remove_const_t<decltype(std::declval<Config&>().getCudaGraphStrategy())>;
  using Kernels = std::remove_const_t<decltype(std::declval<Config&>().getDynamicShapesKernelSpecializationStrategy())>;

 public:
  static constexpr bool has_graphs = true;

  ConfiguredContexts(Engine& engine, const EngineUse& use) : engine_(engine), file_(use.kernels) {
    plain_ = configured(use, Graphs::kDISABLED);
    if (!use.fixed) {
      own_ = configured(use, Graphs::kWHOLE_GRAPH_CAPTURE);
    }
  }

  [[nodiscard]] nvinfer1::IExecutionContext* make(bool repeats) {
    return engine_.createExecutionContext(repeats && own_ ? own_.get() : plain_.get());
  }
  [[nodiscard]] std::size_t scratch() const { return 0; }
  void save() noexcept {
    if (cache_ != nullptr) {
      const std::unique_ptr<nvinfer1::IHostMemory> data(cache_->serialize());
      if (data != nullptr) {
        file_.write({static_cast<const char*>(data->data()), data->size()});
      }
    }
  }

 private:
  std::unique_ptr<Config> configured(const EngineUse& use, Graphs graphs) {
    std::unique_ptr<Config> config(engine_.createRuntimeConfig());
    if (config == nullptr || !config->setCudaGraphStrategy(graphs)) {
      throw EngineError("the engine takes no runtime configuration; build it again");
    }
    if (use.eager) {
      (void)config->setDynamicShapesKernelSpecializationStrategy(Kernels::kEAGER);
    }
    if (cache_ == nullptr) {
      cache_.reset(config->createRuntimeCache());
      file_.read(
          [&](const std::string& data) { return cache_ != nullptr && cache_->deserialize(data.data(), data.size()); },
          use.warn);
    }
    if (cache_ != nullptr) {
      (void)config->setRuntimeCache(*cache_);  // which keeps nothing alive
    }
    return config;
  }

  Engine& engine_;
  KernelFile file_;
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<Config> plain_;
  std::unique_ptr<Config> own_;  // where shapes are open
};

template <class Engine>
constexpr bool has_graphs = requires(Engine& engine) {
  engine.createRuntimeConfig()->createRuntimeCache();
};

template <class Engine>
using ContextMaker = std::conditional_t<has_graphs<Engine>, ConfiguredContexts<Engine>, PlainContexts<Engine>>;

/// Whether the runtime says that work may be captured; true where it says no such thing.
template <class Made>
bool is_capturable_now(const Made& context, cudaStream_t stream) {
  if constexpr (requires { context.isStreamCapturable(stream); }) {
    return context.isStreamCapturable(stream);
  }
  return true;
}

class TensorRTContext : public ExecutionContext {
 public:
  explicit TensorRTContext(std::unique_ptr<nvinfer1::IExecutionContext> context) : context_(std::move(context)) {}

  bool use_profile(int profile, Address stream) override {
    return context_->setOptimizationProfileAsync(profile, std::bit_cast<cudaStream_t>(stream));
  }
  void use_scratch(Address address, std::size_t size) override {
    context_->setDeviceMemoryV2(std::bit_cast<void*>(address), static_cast<std::int64_t>(size));
  }
  bool set_shape(const std::string& tensor, std::span<const std::int64_t> shape) override {
    nvinfer1::Dims dims{};
    if (shape.size() > static_cast<std::size_t>(nvinfer1::Dims::MAX_DIMS)) {
      return false;
    }
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::ranges::copy(shape, std::begin(dims.d));
    return context_->setInputShape(tensor.c_str(), dims);
  }
  bool set_address(const std::string& tensor, Address address) override {
    return context_->setTensorAddress(tensor.c_str(), std::bit_cast<void*>(address));
  }
  Shape shape_of(const std::string& tensor) const override {
    const nvinfer1::Dims dims = context_->getTensorShape(tensor.c_str());
    const std::span sizes(dims.d);
    return dims.nbDims < 0 ? Shape{-1} : Shape(sizes.begin(), sizes.begin() + dims.nbDims);
  }
  bool is_capturable(Address stream) const override {
    return is_capturable_now(*context_, std::bit_cast<cudaStream_t>(stream));
  }
  bool enqueue(Address stream) override { return context_->enqueueV3(std::bit_cast<cudaStream_t>(stream)); }

 private:
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

class TensorRTEngine : public Engine {
 public:
  TensorRTEngine(std::unique_ptr<nvinfer1::IRuntime> runtime, std::unique_ptr<nvinfer1::ICudaEngine> engine,
                 const EngineUse& use, std::string note)
      : runtime_(std::move(runtime)),
        engine_(std::move(engine)),
        maker_(*engine_, use),
        is_fixed_(use.fixed),
        note_(std::move(note)) {}

  std::vector<std::string> tensors() const override {
    std::vector<std::string> names;
    names.reserve(static_cast<std::size_t>(engine_->getNbIOTensors()));
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      names.emplace_back(engine_->getIOTensorName(i));
    }
    return names;
  }
  std::unique_ptr<ExecutionContext> new_context(bool repeats) override {
    std::unique_ptr<nvinfer1::IExecutionContext> made(maker_.make(repeats));
    return made == nullptr ? nullptr : std::make_unique<TensorRTContext>(std::move(made));
  }
  std::size_t scratch() const override { return maker_.scratch(); }
  std::string_view note() const override { return note_; }
  std::string_view why_not_captured() const override {
    if (!is_rtx || (Maker::has_graphs && is_fixed_)) {
      return "";
    }
    return Maker::has_graphs ? "the runtime makes CUDA graphs of its own, of engines of dynamic shapes"
                             : "only TensorRT-RTX can make CUDA graphs of its engines; build with its SDK's headers";
  }
  bool has_own_graphs() const override { return Maker::has_graphs && !is_fixed_; }
  void save() noexcept override { maker_.save(); }

 private:
  using Maker = ContextMaker<nvinfer1::ICudaEngine>;

  std::unique_ptr<nvinfer1::IRuntime> runtime_;  // outlives the engine, and that what makes its contexts
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  Maker maker_;
  bool is_fixed_;
  std::string note_;
};

}  // namespace

std::string runtime_version() {
  return text(getInferLibMajorVersion(), ".", getInferLibMinorVersion(), ".", getInferLibPatchVersion(), ".",
              getInferLibBuildVersion());
}

std::unique_ptr<Engine> engine_of_bytes(std::string_view bytes, const EngineUse& use) {
  Log& log = the_log();
  const auto turn = log.turn();
  log.begin();
  std::unique_ptr<nvinfer1::IRuntime> runtime(nvinfer1::createInferRuntime(log));
  if (runtime == nullptr) {
    throw EngineError(text(library(), " does not start: ", first_error(log.end()), "; see whether nvidia-smi runs"));
  }
  const auto [validity, causes] = validity_of(*runtime, bytes);
  std::string note = words_of(validity, causes, library(), [&] { return first_error(log.so_far()); });
  if (validity == Validity::invalid) {
    (void)log.end();
    throw EngineError(text(use.name, " cannot run here: ", note));
  }
  std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
  const auto errors = log.end();
  if (engine == nullptr) {
    throw EngineError(text(library(), " cannot load the engine: ", why_not_loaded(errors)));
  }
  return std::make_unique<TensorRTEngine>(std::move(runtime), std::move(engine), use, std::move(note));
}

}  // namespace plainconv
