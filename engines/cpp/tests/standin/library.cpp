#include "standin/library.hpp"

#include <NvInferRuntime.h>

#include <bit>
#include <nlohmann/json.hpp>
#include <tuple>

#include "standin/model.hpp"

extern "C" {
using Callback = std::int64_t (*)(std::int64_t kind, std::int64_t number, std::int64_t slot, std::int64_t a,
                                  std::int64_t b, std::int64_t c);
void standin_begin(Callback with);
void standin_structure(std::int64_t kind, std::int64_t slot);
void* standin_new(std::int64_t kind, std::int64_t number);
std::int64_t standin_number(const void* object);
}

namespace standin {
namespace {

enum Kind : std::int64_t { runtime = 1, engine, config, cache, memory, context };
constexpr std::int64_t destroyed = -1;

/// What is behind an object of the library: it lives as long as that. Slots are positions in virtual tables.
struct Thing {
  Thing() = default;
  Thing(const Thing&) = delete;
  Thing& operator=(const Thing&) = delete;
  Thing(Thing&&) = delete;
  Thing& operator=(Thing&&) = delete;
  virtual ~Thing() = default;
  virtual std::int64_t call(std::int64_t slot, std::int64_t a, std::int64_t b, std::int64_t c) = 0;
};

// For ever: what a runner that is lost keeps, too.
auto& things = *new std::map<std::int64_t, std::shared_ptr<Thing>>;  // NOLINT(cppcoreguidelines-*)
std::int64_t last = 0;
std::size_t kept = 0;  // of tests that are over

std::int64_t new_object(Kind kind, std::shared_ptr<Thing> thing) {
  things[++last] = std::move(thing);
  return std::bit_cast<std::int64_t>(standin_new(kind, last));
}
template <class T>
std::shared_ptr<T> thing_of(std::int64_t object) {
  return std::dynamic_pointer_cast<T>(things.at(standin_number(std::bit_cast<void*>(object))));
}
const char* text_at(std::int64_t address) { return std::bit_cast<const char*>(address); }

/// What is handed out as bytes.
struct Memory : Thing {
  explicit Memory(std::string of) : bytes(std::move(of)) {}
  std::int64_t call(std::int64_t slot, std::int64_t /*a*/, std::int64_t /*b*/, std::int64_t /*c*/) override {
    return slot == 2 ? std::bit_cast<std::int64_t>(bytes.data()) : static_cast<std::int64_t>(bytes.size());
  }
  std::string bytes;
};

/// The kernels that were "compiled" are the names of shapes.
struct Cache : Thing {
  std::int64_t call(std::int64_t slot, std::int64_t a, std::int64_t b, std::int64_t /*c*/) override {
    if (slot == 2) {
      return new_object(memory, std::make_shared<Memory>(nlohmann::json(kernels).dump()));
    }
    const auto read = nlohmann::json::parse(std::string(text_at(a), static_cast<std::size_t>(b)), nullptr, false);
    if (!read.is_array()) {
      return 0;
    }
    kernels = read.get<std::set<std::string>>();
    return 1;
  }
  std::set<std::string> kernels;
};

/// How contexts are made. As the real one, it does not keep the cache that it is given.
struct Config : Thing {
  std::int64_t call(std::int64_t slot, std::int64_t a, std::int64_t /*b*/, std::int64_t /*c*/) override {
    switch (slot) {
      case 5: return new_object(Kind::cache, std::make_shared<Cache>());
      case 6:
        cache = thing_of<Cache>(a);
        has_cache = true;
        return 1;
      case 8: kernels = static_cast<int>(a); return 1;
      default: own_graphs = a == 1; return 1;
    }
  }
  std::weak_ptr<Cache> cache;
  bool has_cache = false;
  int kernels = 0;
  bool own_graphs = true;
};

struct Runtime : Thing {
  std::int64_t call(std::int64_t slot, std::int64_t a, std::int64_t b, std::int64_t c) override;
  std::weak_ptr<Runtime> self;
};

using Profile = std::map<std::string, std::vector<Shape>>;  // the smallest, best and largest of each input

struct Engine : Thing {
  std::int64_t call(std::int64_t slot, std::int64_t a, std::int64_t b, std::int64_t c) override;
  std::int64_t new_context(const std::shared_ptr<Config>& config);

  std::shared_ptr<EngineFacts> facts = std::make_shared<EngineFacts>();
  std::shared_ptr<Model> model;
  std::vector<Profile> profiles;
  std::weak_ptr<Runtime> runtime;
  std::weak_ptr<Engine> self;
};

/// Wants everything set before it runs, one stream, and one run before it is captured.
struct Context : Thing {
  Context(std::shared_ptr<Engine> of, std::shared_ptr<Config> with) : made_by(of), config(std::move(with)) {
    facts = of->facts;
    model = of->model;
    profiles = of->profiles;
    ++facts->contexts;
  }
  ~Context() override {
    Gpus& gpus = *Gpus::here;
    gpus.rule(!made_by.expired(), "an engine is gone before a context");
    gpus.rule(!config || !config->has_cache || !config->cache.expired(), "the runtime cache was gone before a context");
    gpus.rule(gpus.device() == facts->device || gpus.dead.contains(facts->device),
              "a context went while another device was in use");
    --facts->contexts;
    *alive = false;
  }
  std::int64_t call(std::int64_t slot, std::int64_t a, std::int64_t b, std::int64_t /*c*/) override {
    switch (slot) {
      case 16: return use_profile(static_cast<std::size_t>(a), static_cast<Address>(b));
      case 20: return set_shape(text_at(a), b);
      case 21: return get_shape(a, text_at(b));
      case 23: return set_address(text_at(a), static_cast<Address>(b));
      case 36: return enqueue(static_cast<Address>(a));
      case 48: return use_scratch({static_cast<Address>(a), static_cast<std::size_t>(b)});
      case 52: Gpus::here->note("capturable"); return facts->refuses.contains("capturable") ? 0 : 1;
      default: return 0;
    }
  }
  bool use_profile(std::size_t at, Address stream);
  bool set_shape(const std::string& name, std::int64_t dims);
  std::int64_t get_shape(std::int64_t result, const std::string& name) const;
  bool set_address(const std::string& name, Address address);
  bool use_scratch(const Bytes& bytes);
  bool enqueue(Address stream);
  [[nodiscard]] Shape shape_of(const Tensor& tensor) const;
  void compile();
  void on_device(Address stream) const;
  void changed() {
    ran = false;
    ++*state;
  }

  std::weak_ptr<Engine> made_by;
  std::shared_ptr<Config> config;
  std::shared_ptr<EngineFacts> facts;
  std::shared_ptr<Model> model;
  std::vector<Profile> profiles;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  std::shared_ptr<std::size_t> state = std::make_shared<std::size_t>(0);
  std::optional<std::size_t> profile;
  Bytes scratch;
  std::map<std::string, Shape> shapes;
  std::map<std::string, Address> addresses;
  std::size_t own_graph = 0;  // the state that was captured by the runtime itself
  bool ran = false;
  Address used_by = 0;
};

std::int64_t Runtime::call(std::int64_t slot, std::int64_t a, std::int64_t b, std::int64_t c) {
  if (slot == 24) {
    *std::bit_cast<std::uint64_t*>(c) = library().causes;
    return library().validity;
  }
  const auto told = nlohmann::json::parse(std::string(text_at(a), static_cast<std::size_t>(b)), nullptr, false);
  if (!told.is_object()) {
    return 0;
  }
  auto made = std::make_shared<Engine>();
  made->self = made;
  made->runtime = self;
  made->model = Model::at(told.at("model"));
  made->profiles = told.at("profiles").get<std::vector<Profile>>();
  made->facts->model = told.at("model");
  made->facts->device = Gpus::here->device();
  made->facts->scratch = told.value("scratch", std::size_t{0});
  made->facts->refuses = told.value("refuses", std::set<std::string>{});
  library().engines.push_back(made->facts);
  return new_object(engine, made);
}

std::int64_t Engine::call(std::int64_t slot, std::int64_t a, std::int64_t /*b*/, std::int64_t /*c*/) {
  const auto& [ins, outs] = std::tie(model->inputs, model->outputs);
  switch (slot) {
    case 5: return new_context(nullptr);
    case 26: return static_cast<std::int64_t>(ins.size() + outs.size());
    case 27: {
      const auto at = static_cast<std::size_t>(a);
      return std::bit_cast<std::int64_t>((at < ins.size() ? ins[at] : outs[at - ins.size()]).name.c_str());
    }
    case 44: return static_cast<std::int64_t>(facts->scratch);
    case 47: return new_context(thing_of<Config>(a));
    default: return new_object(Kind::config, std::make_shared<Config>());
  }
}

std::int64_t Engine::new_context(const std::shared_ptr<Config>& config) {
  Gpus& gpus = *Gpus::here;
  gpus.note("create context");
  gpus.rule(!runtime.expired(), "the runtime is gone before its engine");
  gpus.rule(gpus.device() == facts->device, "a context is made while another device is in use");
  if (facts->refuses.contains("context")) {
    return 0;
  }
  auto made = std::make_shared<Context>(self.lock(), config);
  if (config) {
    facts->with_own_graphs += config->own_graphs ? 1 : 0;
    facts->kernels.insert(config->kernels);
    if (const auto cache = config->cache.lock()) {
      facts->loaded.insert(cache->kernels.begin(), cache->kernels.end());
    }
  }
  return new_object(context, std::move(made));
}

bool Context::use_profile(std::size_t at, Address stream) {
  Gpus::here->note("profile");
  on_device(stream);
  Gpus::here->enqueue(stream);
  changed();
  profile = at;
  return at < profiles.size();
}

bool Context::set_shape(const std::string& name, std::int64_t dims) {
  Gpus& gpus = *Gpus::here;
  gpus.note("shape");
  changed();
  const auto& told = *std::bit_cast<const nvinfer1::Dims*>(dims);
  const Shape shape(told.d, told.d + told.nbDims);  // NOLINT(*-pointer-arithmetic)
  shapes[name] = shape;
  const auto input = std::ranges::find(model->inputs, name, &Tensor::name);
  gpus.rule(input != model->inputs.end(), "the shape of what is no input");
  if (profiles.empty()) {
    return shape == input->shape && !facts->refuses.contains("shape");
  }
  gpus.rule(profile.has_value(), "a shape is set before a profile is chosen");
  const auto& covered = profiles.at(*profile).at(name);
  return std::ranges::equal(covered[0], shape, std::ranges::less_equal{}) &&
         std::ranges::equal(shape, covered[2], std::ranges::less_equal{}) && !facts->refuses.contains("shape");
}

std::int64_t Context::get_shape(std::int64_t result, const std::string& name) const {
  auto& dims = *std::bit_cast<nvinfer1::Dims*>(result);
  const auto known = shapes.find(name);
  Shape shape =
      known != shapes.end() ? known->second : shape_of(*std::ranges::find(model->outputs, name, &Tensor::name));
  if (facts->refuses.contains("data")) {
    shape[0] = -1;
  }
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::ranges::copy(shape, std::begin(dims.d));
  return 0;
}

Shape Context::shape_of(const Tensor& tensor) const {
  Shape shape = tensor.shape;
  for (const Tensor& input : model->inputs) {
    for (std::size_t axis = 0; axis < input.axes.size(); ++axis) {
      for (std::size_t own = 0; own < shape.size(); ++own) {
        if (tensor.shape[own] < 0 && tensor.axes[own] == input.axes[axis]) {
          shape[own] = shapes.at(input.name)[axis];
        }
      }
    }
  }
  return shape;
}

bool Context::set_address(const std::string& name, Address address) {
  Gpus::here->note("address");
  Gpus::here->rule(address % 256 == 0, "an address that is not aligned");
  changed();
  addresses[name] = address;
  return !facts->refuses.contains("address");
}

bool Context::use_scratch(const Bytes& bytes) {
  changed();
  Gpus::here->rule(bytes.size >= facts->scratch && Gpus::here->is_on(facts->device, bytes),
                   "scratch that is not there");
  scratch = bytes;
  return true;
}

void Context::on_device(Address stream) const {
  Gpus& gpus = *Gpus::here;
  gpus.rule(gpus.device() == facts->device && gpus.streams.at(stream).device == facts->device,
            "an engine on another device");
}

/// TensorRT-RTX's own capture, and the kernels of these shapes.
void Context::compile() {
  if (config->own_graphs && own_graph != *state) {
    ++facts->own_captures;
    own_graph = *state;
  }
  if (const auto cache = config->cache.lock()) {
    cache->kernels.insert(nlohmann::json(shapes).dump());
  }
  Gpus::here->rule(!config->has_cache || !config->cache.expired(), "the runtime cache is gone");
}

bool Context::enqueue(Address stream) {
  Gpus& gpus = *Gpus::here;
  gpus.note("execute");
  const bool is_captured = gpus.streams.at(stream).captured != nullptr;
  if (facts->refuses.contains("execute") || (is_captured && facts->refuses.contains("capture"))) {
    return false;
  }
  on_device(stream);
  gpus.rule(shapes.size() == model->inputs.size(), "a context runs without all shapes");
  gpus.rule(addresses.size() == model->inputs.size() + model->outputs.size(), "a context runs without all addresses");
  gpus.rule(config || scratch.size >= facts->scratch, "a context runs without scratch memory");
  gpus.rule(ran || !is_captured, "a context is captured before it has run");
  gpus.rule(used_by == 0 || used_by == stream, "one context on two streams");
  gpus.rule(!is_captured || !config || !config->own_graphs, "TensorRT-RTX captures within a capture");
  std::vector<Bytes> reads;
  std::vector<Bytes> writes;
  std::map<std::string, Shape> known = shapes;
  for (const Tensor& each : model->inputs) {
    reads.push_back({addresses.at(each.name), each.bytes_of(known.at(each.name))});
  }
  for (const Tensor& each : model->outputs) {
    known[each.name] = shape_of(each);
    writes.push_back({addresses.at(each.name), each.bytes_of(known.at(each.name))});
  }
  for (const auto* spans : {&reads, &writes}) {
    gpus.rule(std::ranges::all_of(*spans, [&](const Bytes& bytes) { return gpus.is_on(facts->device, bytes); }),
              "a tensor on another device than the engine");
  }
  if (scratch.size != 0) {
    const auto other = facts->stream_of_scratch.try_emplace(scratch.address, stream).first->second;
    gpus.rule(other == stream, "scratch memory of two streams");
    writes.push_back(scratch);
  }
  used_by = stream;
  ran = true;
  if (config) {
    compile();
  }
  auto run = [model = model, facts = facts, lives = alive, now = state, was = *state, is_captured, at = addresses,
              known] {
    Gpus& there = *Gpus::here;
    there.rule(*lives, "a context is gone before it has run");
    there.rule(!is_captured || *now == was, "a graph is launched whose context has changed");
    if (*lives && facts->refuses.contains("crash")) {
      there.dead.insert(facts->device);
    } else if (*lives) {
      model->run([&](const Tensor& each) { return Gpus::at<void>(at.at(each.name)); }, known);
    }
  };
  gpus.enqueue(stream, run, reads, writes, {}, facts->refuses.contains("end"));
  return true;
}

std::int64_t answer(std::int64_t /*kind*/, std::int64_t number, std::int64_t slot, std::int64_t a, std::int64_t b,
                    std::int64_t c) {
  const std::scoped_lock lock(Gpus::here->mutex);
  if (number == 0) {
    auto made = std::make_shared<Runtime>();
    made->self = made;
    return new_object(runtime, made);
  }
  if (slot == destroyed) {
    things.erase(number);
    return 0;
  }
  try {
    return things.at(number)->call(slot, a, b, c);
  } catch (const cudaError_t) {  // what TensorRT cannot do, it answers with nothing
    return 0;
  }
}

}  // namespace

std::size_t objects() { return things.size() - kept; }

Library& library() {
  static Library the_library;
  return the_library;
}

Library& fresh_library() {
  standin_begin(answer);
  standin_structure(context, 21);
  kept = things.size();
  return library() = {};
}

}  // namespace standin
