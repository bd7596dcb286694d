// A double of TensorRT on the double of CUDA: it computes sums, when the stream gets to it; and networks in parts on
// it.
//
// What TensorRT leaves undefined (a context on two streams, one captured before it has run, a graph launched whose
// context has changed, scratch memory used by two streams, a device that is not the engine's) is written to `astray`.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "recording_cuda.hpp"
#include "tensorrt/runner.hpp"

inline constexpr std::int64_t row = 4;  // every value is float32[batch, 4]

/// What a part computes of its inputs, element by element.
inline float computed(const std::vector<float>& inputs, std::size_t part, std::size_t output) {
  float sum = static_cast<float>(10 * part + output);
  for (const float each : inputs) {
    sum = sum * 0.5F + each;
  }
  return sum;
}

/// What an engine is: the batches of its profiles, the scratch memory it wants, and what it does not do ("end" and
/// "crash": it runs, and never ends, or takes its device down with it).
struct EngineFacts {
  std::size_t part = 0;
  int device = 0;
  std::vector<std::string> ins;
  std::vector<std::string> outs;
  std::vector<std::pair<std::int64_t, std::int64_t>> batches;
  std::size_t scratch = 0;
  std::string why_not_captured;
  std::set<std::string> refuses;
  int contexts = 0;  // that live
  std::map<plainconv::Address, plainconv::Address> stream_of_scratch;
};

class RecordingContext : public plainconv::ExecutionContext {
 public:
  RecordingContext(std::shared_ptr<RecordingCuda> cuda, std::shared_ptr<EngineFacts> facts)
      : cuda_(std::move(cuda)), facts_(std::move(facts)) {
    ++facts_->contexts;
  }
  RecordingContext(const RecordingContext&) = delete;
  RecordingContext& operator=(const RecordingContext&) = delete;
  RecordingContext(RecordingContext&&) = delete;
  RecordingContext& operator=(RecordingContext&&) = delete;
  ~RecordingContext() override {
    const std::scoped_lock lock(cuda_->mutex);
    cuda_->rule(cuda_->device() == facts_->device || cuda_->dead.contains(facts_->device),
                "a context went while another device was in use");
    --facts_->contexts;
    *alive_ = false;
  }

  bool use_profile(int profile, plainconv::Address stream) override {
    const std::scoped_lock lock(cuda_->mutex);
    cuda_->note("profile");
    on_device(stream);
    cuda_->enqueue(stream);
    changed();
    profile_ = static_cast<std::size_t>(profile);
    return profile_ < facts_->batches.size();
  }
  void use_scratch(plainconv::Address address, std::size_t size) override {
    changed();
    cuda_->rule(size >= facts_->scratch && cuda_->is_on(facts_->device, {address, size}), "scratch that is not there");
    scratch_ = {address, size};
  }
  bool set_shape(const std::string& tensor, std::span<const std::int64_t> shape) override {
    const std::scoped_lock lock(cuda_->mutex);
    cuda_->note("shape");
    changed();
    cuda_->rule(std::ranges::count(facts_->ins, tensor) == 1, "the shape of what is no input");
    batches_[tensor] = shape[0];
    const auto [low, high] =
        facts_->batches.empty() ? std::pair{std::int64_t{2}, std::int64_t{2}} : facts_->batches[profile_];
    return shape[0] >= low && shape[0] <= high && !facts_->refuses.contains("shape");
  }
  bool set_address(const std::string& tensor, plainconv::Address address) override {
    const std::scoped_lock lock(cuda_->mutex);
    cuda_->note("address");
    cuda_->rule(address % 256 == 0, "an address that is not aligned");
    changed();
    addresses_[tensor] = address;
    return !facts_->refuses.contains("address");
  }
  [[nodiscard]] plainconv::Shape shape_of(const std::string& /*tensor*/) const override {
    return {facts_->refuses.contains("data") ? -1 : batches_.begin()->second, row};
  }
  bool enqueue(plainconv::Address stream) override {
    const std::scoped_lock lock(cuda_->mutex);
    cuda_->note("execute");
    const bool is_captured = cuda_->is_captured(stream);
    if (facts_->refuses.contains("execute") || (is_captured && facts_->refuses.contains("capture"))) {
      return false;
    }
    on_device(stream);
    cuda_->rule(batches_.size() == facts_->ins.size(), "a context runs without all shapes");
    cuda_->rule(addresses_.size() == facts_->ins.size() + facts_->outs.size(), "a context runs without all addresses");
    cuda_->rule(facts_->scratch == 0 || scratch_.size >= facts_->scratch, "a context runs without scratch memory");
    cuda_->rule(ran_ || !is_captured, "a context is captured before it has run");
    cuda_->rule(stream_ == 0 || stream_ == stream, "one context on two streams");
    if (scratch_.size != 0) {
      const auto other = facts_->stream_of_scratch.try_emplace(scratch_.address, stream).first->second;
      cuda_->rule(other == stream, "scratch memory of two streams");
    }
    stream_ = stream;
    ran_ = true;
    const auto count = static_cast<std::size_t>(batches_.begin()->second * row);
    std::vector<Bytes> reads;
    std::vector<Bytes> writes;
    for (const auto& name : facts_->ins) {
      reads.push_back({addresses_.at(name), count * sizeof(float)});
    }
    for (const auto& name : facts_->outs) {
      writes.push_back({addresses_.at(name), count * sizeof(float)});
    }
    const auto outs = writes;
    for (const auto* spans : {&reads, &writes}) {
      for (const Bytes& bytes : *spans) {
        cuda_->rule(cuda_->is_on(facts_->device, bytes), "a tensor on another device than the engine");
      }
    }
    if (scratch_.size != 0) {
      writes.push_back(scratch_);
    }
    auto run = [cuda = cuda_.get(), facts = facts_, alive = alive_, was = state_, now = state_pointer_, is_captured,
                reads, outs, count] {
      cuda->rule(*alive, "a context is gone before it has run");
      cuda->rule(!is_captured || *now == was, "a graph is launched whose context has changed");
      if (facts->refuses.contains("crash")) {
        cuda->dead.insert(facts->device);
        return;
      }
      for (std::size_t i = 0; i < count; ++i) {
        std::vector<float> inputs;
        for (const Bytes& bytes : reads) {
          inputs.push_back(RecordingCuda::at<const float>(bytes.address)[i]);
        }
        for (std::size_t k = 0; k < outs.size(); ++k) {
          RecordingCuda::at<float>(outs[k].address)[i] = computed(inputs, facts->part, k);
        }
      }
    };
    cuda_->enqueue(stream, run, reads, writes, {}, facts_->refuses.contains("end"));
    return true;
  }

 private:
  void on_device(plainconv::Address stream) {
    cuda_->rule(cuda_->device() == facts_->device && cuda_->device_of_stream(stream) == facts_->device,
                "an engine on another device");
  }
  void changed() {
    ran_ = false;
    *state_pointer_ = ++state_;
  }

  std::shared_ptr<RecordingCuda> cuda_;
  std::shared_ptr<EngineFacts> facts_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::size_t state_ = 0;
  std::shared_ptr<std::size_t> state_pointer_ = std::make_shared<std::size_t>(0);
  std::size_t profile_ = 0;
  Bytes scratch_;
  std::map<std::string, std::int64_t> batches_;
  std::map<std::string, plainconv::Address> addresses_;
  bool ran_ = false;
  plainconv::Address stream_ = 0;
};

class RecordingEngine : public plainconv::Engine {
 public:
  RecordingEngine(std::shared_ptr<RecordingCuda> cuda, std::shared_ptr<EngineFacts> facts)
      : cuda_(std::move(cuda)), facts_(std::move(facts)) {}

  [[nodiscard]] std::vector<std::string> tensors() const override {
    auto names = facts_->ins;
    names.insert(names.end(), facts_->outs.begin(), facts_->outs.end());
    return names;
  }
  std::unique_ptr<plainconv::ExecutionContext> new_context() override {
    const std::scoped_lock lock(cuda_->mutex);
    cuda_->note("create context");
    cuda_->rule(cuda_->device() == facts_->device, "a context is made while another device is in use");
    return facts_->refuses.contains("context") ? nullptr : std::make_unique<RecordingContext>(cuda_, facts_);
  }
  [[nodiscard]] std::size_t scratch() const override { return facts_->scratch; }
  [[nodiscard]] std::string_view why_not_captured() const override { return facts_->why_not_captured; }

 private:
  std::shared_ptr<RecordingCuda> cuda_;
  std::shared_ptr<EngineFacts> facts_;
};

/// A network in parts on the doubles: how it is split, and its engines.
struct RecordedNetwork {
  plainconv::Manifest manifest;
  plainconv::SplitRecord split;
  std::vector<std::shared_ptr<EngineFacts>> engines;
  std::vector<std::pair<std::int64_t, std::int64_t>> batches = {{1, 4}};  // none: of batch 2 alone
  std::size_t scratch = 0;
  std::string why_not_captured;
  std::chrono::duration<double> timeout = std::chrono::seconds(60);

  [[nodiscard]] std::vector<plainconv::Axis> shape() const {
    return {batches.empty() ? plainconv::Axis(std::int64_t{2}) : plainconv::Axis(std::string("batch")), row};
  }
  void add_input(const std::string& name) { manifest.inputs.push_back({name, "float32", shape()}); }
  void add_output(const std::string& name, std::optional<std::string> part) {
    manifest.outputs.push_back({name, "float32", shape()});
    split.results[name] = std::move(part);
  }
  /// `reads` are pairs of a part (none: the network's input) and a name.
  void add_part(const std::string& name, std::int64_t device, std::int64_t stream,
                const std::vector<std::pair<std::optional<std::string>, std::string>>& reads,
                const std::vector<std::string>& writes) {
    plainconv::PartRecord part;
    part.name = name;
    part.device = device;
    part.stream = stream;
    for (const auto& [from, value] : reads) {
      part.inputs.push_back({value, "float32", shape()});
      part.sources[value] = from;
    }
    for (const auto& value : writes) {
      part.outputs.push_back({value, "float32", shape()});
    }
    split.parts.push_back(std::move(part));
    split.devices = std::max(split.devices, device + 1);
  }

  std::unique_ptr<plainconv::TensorRTRunner> runner(const std::shared_ptr<RecordingCuda>& cuda,
                                                    const std::vector<int>& devices) {
    using namespace plainconv;
    std::vector<PartEngine> parts;
    const auto before = engines;
    engines.clear();
    EngineProfiles profiles(batches.size());
    for (std::size_t i = 0; i < batches.size(); ++i) {
      for (const auto& spec : manifest.inputs) {
        profiles[i].emplace_back(spec.name, ShapeRange{{batches[i].first, row}, {}, {batches[i].second, row}});
      }
    }
    for (std::size_t at = 0; at < split.parts.size(); ++at) {
      const PartRecord& part = split.parts[at];
      auto facts = std::make_shared<EngineFacts>();
      facts->part = at;
      facts->device = devices.at(static_cast<std::size_t>(part.device));
      std::ranges::transform(part.inputs, std::back_inserter(facts->ins), &TensorRecord::name);
      std::ranges::transform(part.outputs, std::back_inserter(facts->outs), &TensorRecord::name);
      facts->batches = batches;
      facts->scratch = scratch;
      facts->why_not_captured = why_not_captured;
      facts->refuses = at < before.size() ? before[at]->refuses : std::set<std::string>{};
      engines.push_back(facts);
      parts.push_back({part.name,
                       facts->device,
                       batches.size(),
                       {},
                       OnDevice<Engine>(new RecordingEngine(cuda, facts), {cuda.get(), facts->device})});
    }
    return std::make_unique<TensorRTRunner>(cuda, manifest, split, devices, std::move(parts), profiles, timeout);
  }

  /// What the whole network gives of these inputs.
  [[nodiscard]] std::vector<std::vector<float>> reference(const std::vector<std::vector<float>>& inputs) const {
    std::map<std::pair<std::string, std::string>, std::vector<float>> values;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      values[{"", manifest.inputs[i].name}] = inputs[i];
    }
    const auto key = [](const std::optional<std::string>& from, const std::string& name) {
      return std::pair("/" + *from, name);
    };
    for (std::size_t at = 0; at < split.parts.size(); ++at) {
      const auto& part = split.parts[at];
      for (std::size_t k = 0; k < part.outputs.size(); ++k) {
        auto& made = values[key(part.name, part.outputs[k].name)];
        for (std::size_t i = 0; i < inputs[0].size(); ++i) {
          std::vector<float> each;
          for (const auto& spec : part.inputs) {
            const auto& from = part.sources.at(spec.name);
            each.push_back(values.at(from ? key(from, spec.name) : std::pair(std::string(), spec.name))[i]);
          }
          made.push_back(computed(each, at, k));
        }
      }
    }
    std::vector<std::vector<float>> results;
    for (const auto& spec : manifest.outputs) {
      const auto& from = split.results.at(spec.name);
      results.push_back(values.at(from ? key(from, spec.name) : std::pair(std::string(), spec.name)));
    }
    return results;
  }
};

/// A stem on device 0, a branch there and one on device 1, and what joins them on device 0.
inline RecordedNetwork diamond() {
  RecordedNetwork net;
  net.add_input("a");
  net.add_input("b");
  net.add_part("p0", 0, 0, {{std::nullopt, "a"}}, {"v0", "v1"});
  net.add_part("p1", 1, 0, {{"p0", "v0"}}, {"v2"});
  net.add_part("p2", 0, 0, {{"p0", "v1"}, {"p1", "v2"}, {std::nullopt, "b"}}, {"v4"});
  net.add_output("v4", "p2");
  return net;
}

/// A whole network: two inputs, two outputs, one engine.
inline RecordedNetwork whole() {
  RecordedNetwork net;
  net.add_input("a");
  net.add_input("b");
  net.manifest.outputs = {{"y", "float32", net.shape()}, {"z", "float32", net.shape()}};
  net.split = plainconv::whole_of(net.manifest, "fp32");
  return net;
}
