#include "network.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <mutex>
#include <nlohmann/json.hpp>

#include "bundle/sha256.hpp"
#include "folder.hpp"
#include "standin/model.hpp"

namespace {

/// Fields of a protocol buffer.
std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value > 127; value >>= 7U) {
    bytes += static_cast<char>(value | 128U);
  }
  return bytes + static_cast<char>(value);
}
std::string number(unsigned field, std::uint64_t value) { return varint(field << 3U) + varint(value); }
std::string bytes(unsigned field, const std::string& value) {
  return varint((field << 3U) | 2U) + varint(value.size()) + value;
}

/// An ONNX graph that is being written. Its nodes take two inputs, or one.
struct Written {
  std::string graph = bytes(2, "net");
  std::set<std::string> constants;

  std::string constant(float value) {
    const auto bits = std::bit_cast<std::array<char, sizeof(float)>>(value);
    const std::string name = "c" + std::to_string(value);
    if (constants.insert(name).second) {
      graph += bytes(5, number(2, 1) + bytes(8, name) + bytes(9, {bits.data(), bits.size()}));
    }
    return name;
  }
  void node(const char* what, const std::vector<std::string>& reads, const std::string& writes) {
    std::string all;
    for (const auto& each : reads) {
      all += bytes(1, each);
    }
    graph += bytes(1, all + bytes(2, writes) + bytes(4, what));
  }
  /// 11: an input, 12: an output. A batch of 0 is free.
  void end(unsigned field, const std::string& name, std::int64_t batch) {
    const auto size = batch == 0 ? bytes(2, "batch") : number(1, static_cast<std::uint64_t>(batch));
    const auto shape = bytes(1, size) + bytes(1, number(1, static_cast<std::uint64_t>(row)));
    graph += bytes(field, bytes(1, name) + bytes(2, bytes(1, number(1, 1) + bytes(2, shape))));
  }
  /// Where it is now; equal graphs are one file.
  [[nodiscard]] std::string file() const {
    static const Folder folder;
    const std::string model = number(1, 10) + bytes(7, graph) + bytes(8, number(2, 20));
    const std::string path = (folder.path / (plainconv::sha256_of(model) + ".onnx")).string();
    static std::mutex one_at_a_time;
    const std::scoped_lock lock(one_at_a_time);
    if (!std::filesystem::exists(path)) {  // others may be reading it
      std::ofstream(path, std::ios::binary) << model;
    }
    return path;
  }
};

using Name = std::function<std::string(const std::optional<std::string>& from, const std::string& name)>;

/// Writes what a part computes.
void write(const SplitNetwork& net, Written& to, std::size_t at, const Name& name) {
  const auto& part = net.split.parts[at];
  const auto half = to.constant(0.5F);
  for (std::size_t k = 0; k < part.outputs.size(); ++k) {
    const std::string made = name(part.name, part.outputs[k].name);
    std::string sum = to.constant(static_cast<float>(10 * at + k));
    for (std::size_t i = 0; i < part.inputs.size(); ++i) {
      const std::string halved = made + "/" + std::to_string(i);
      to.node("Mul", {sum, half}, halved);
      sum = i + 1 < part.inputs.size() ? halved + "+" : made;
      to.node("Add", {halved, name(part.sources.at(part.inputs[i].name), part.inputs[i].name)}, sum);
    }
  }
}

SplitNetwork of_inputs(std::initializer_list<const char*> names, Batches batches) {
  SplitNetwork net;
  net.batches = std::move(batches);
  for (const char* name : names) {
    net.add_input(name);
  }
  return net;
}

SplitNetwork in_one_part(std::initializer_list<const char*> inputs, std::initializer_list<const char*> outputs,
                         Batches batches) {
  auto net = of_inputs(inputs, std::move(batches));
  for (const char* name : outputs) {
    net.manifest.outputs.push_back({name, "float32", net.shape()});
  }
  net.split = plainconv::whole_of(net.manifest, "fp32");
  return net;
}

}  // namespace

std::vector<plainconv::Axis> SplitNetwork::shape() const {
  return {batches.empty() ? plainconv::Axis(std::int64_t{2}) : plainconv::Axis(std::string("batch")), row};
}
void SplitNetwork::add_input(const std::string& name) { manifest.inputs.push_back({name, "float32", shape()}); }
void SplitNetwork::add_output(const std::string& name, std::optional<std::string> part) {
  manifest.outputs.push_back({name, "float32", shape()});
  split.results[name] = std::move(part);
}
void SplitNetwork::add_part(const std::string& name, std::int64_t device, std::int64_t stream,
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

std::string SplitNetwork::engine_bytes(std::size_t at) const {
  Written model;
  const auto& part = split.parts[at];
  write(*this, model, at, [](const auto& /*from*/, const std::string& name) { return name; });
  std::vector<std::map<std::string, std::vector<standin::Shape>>> profiles(batches.size());
  for (const auto& input : part.inputs) {
    model.end(11, input.name, batch());
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const auto [low, high] = batches[i];
      profiles[i][input.name] = {{low, row}, {low, row}, {high, row}};
    }
  }
  for (const auto& output : part.outputs) {
    model.end(12, output.name, batch());
  }
  const auto found = refuses.find(at);
  return nlohmann::json{{"model", model.file()},
                        {"profiles", profiles},
                        {"scratch", scratch},
                        {"refuses", found == refuses.end() ? std::set<std::string>{} : found->second}}
      .dump();
}
plainconv::PartEngine SplitNetwork::engine(plainconv::Cuda& cuda, std::size_t at, int device) {
  const plainconv::UsingDevice there(cuda, device);
  use.fixed = batches.empty();
  auto made = plainconv::engine_of_bytes(engine_bytes(at), use);
  return {split.parts[at].name,
          device,
          batches.size(),
          {},
          plainconv::OnDevice<plainconv::Engine>(made.release(), {&cuda, device})};
}
plainconv::EngineProfiles SplitNetwork::profiles() const {
  plainconv::EngineProfiles all(batches.size());
  for (std::size_t i = 0; i < batches.size(); ++i) {
    for (const auto& spec : manifest.inputs) {
      all[i].emplace_back(spec.name, plainconv::ShapeRange{{batches[i].first, row}, {}, {batches[i].second, row}});
    }
  }
  return all;
}
std::unique_ptr<plainconv::TensorRTRunner> SplitNetwork::runner(const std::vector<int>& devices) {
  const auto cuda = plainconv::cuda_runtime();
  std::vector<plainconv::PartEngine> parts;
  engines.clear();
  for (std::size_t at = 0; at < split.parts.size(); ++at) {
    parts.push_back(engine(*cuda, at, devices.at(static_cast<std::size_t>(split.parts[at].device))));
    engines.push_back(standin::library().engines.back());
  }
  return std::make_unique<plainconv::TensorRTRunner>(cuda, manifest, split, devices, std::move(parts), profiles(),
                                                     timeout);
}

std::vector<std::vector<float>> SplitNetwork::reference(const std::vector<std::vector<float>>& inputs) const {
  const Name name = [](const auto& from, const std::string& value) { return from ? *from + "/" + value : value; };
  Written model;
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, standin::Shape> shapes;
  const auto add = [&](unsigned field, const std::string& end, const std::vector<float>& value) {
    model.end(field, end, batch());
    values[end] = value;
    shapes[end] = {static_cast<std::int64_t>(value.size()) / row, row};
  };
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    add(11, manifest.inputs[i].name, inputs[i]);
  }
  for (std::size_t at = 0; at < split.parts.size(); ++at) {
    write(*this, model, at, name);
  }
  for (const auto& spec : manifest.outputs) {
    model.node("Identity", {name(split.results.at(spec.name), spec.name)}, "of " + spec.name);
    add(12, "of " + spec.name, std::vector<float>(inputs[0].size()));
  }
  standin::Model::at(model.file())->run([&](const auto& each) { return values.at(each.name).data(); }, shapes);
  std::vector<std::vector<float>> results;
  for (const auto& spec : manifest.outputs) {
    results.push_back(values.at("of " + spec.name));
  }
  return results;
}

SplitNetwork diamond(Batches batches) {
  auto net = of_inputs({"a", "b"}, std::move(batches));
  net.add_part("p0", 0, 0, {{std::nullopt, "a"}}, {"v0", "v1"});
  net.add_part("p1", 1, 0, {{"p0", "v0"}}, {"v2"});
  net.add_part("p2", 0, 0, {{"p0", "v1"}, {"p1", "v2"}, {std::nullopt, "b"}}, {"v4"});
  net.add_output("v4", "p2");
  return net;
}

SplitNetwork whole(Batches batches) { return in_one_part({"a", "b"}, {"y", "z"}, std::move(batches)); }

SplitNetwork small(Batches batches) { return in_one_part({"a"}, {"y"}, std::move(batches)); }
