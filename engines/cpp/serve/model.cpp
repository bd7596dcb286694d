#include "model.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "batch_axis.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::size_t most_name = 128;

bool is_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool is_mark(char c) noexcept { return std::string_view("_.+-").find(c) != std::string_view::npos; }

/// Run it once on zeros, where no axis is free but the batch.
void warm_up(const Network& network, bool has_batch) {
  std::vector<Array> arrays;
  for (const TensorSpec& spec : network.inputs()) {
    Array& array = arrays.emplace_back(Array{spec.dtype, {}, {}});
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      const auto* fixed = std::get_if<std::int64_t>(&spec.shape[i]);
      if (fixed == nullptr && !(has_batch && i == 0)) {
        return;
      }
      array.shape.push_back(fixed == nullptr ? 1 : *fixed);
    }
    array.bytes.resize(
        std::accumulate(array.shape.begin(), array.shape.end(), size_of(spec.dtype), std::multiplies<>()));
  }
  std::vector<ConstTensor> inputs;
  inputs.reserve(arrays.size());
  for (const Array& array : arrays) {
    inputs.push_back({array.dtype, array.shape, array.bytes});
  }
  (void)network.run(inputs);
}

}  // namespace

bool is_model_name(std::string_view name) noexcept {
  return !name.empty() && name.size() <= most_name && is_letter(name.front()) &&
         std::ranges::all_of(name, [](char c) { return is_letter(c) || is_mark(c); });
}

std::string model_name_of(const std::string& wanted, const std::string& network) {
  std::string name = wanted;
  if (name.empty()) {
    for (const char c : network) {
      if (is_letter(c) || is_mark(c)) {
        name += c;
      } else if (name.empty() || name.back() != '\0') {
        name += '\0';  // one for each run of others
      }
    }
    std::ranges::replace(name, '\0', '_');
    const auto first = name.find_first_not_of("_.+-");
    name = first == std::string::npos ? "model" : name.substr(first, name.find_last_not_of("_.+-") + 1 - first);
    name.resize(std::min(name.size(), most_name));
  }
  if (!is_model_name(name)) {
    throw Error(text(repr(name), " is no name of a model; wanted letters, digits and _ . + - after the first"));
  }
  return name;
}

Model::Model(std::string name, Network network, const ServeOptions& options, Metrics& metrics,
             Batcher::Complain complain)
    : name_(std::move(name)),
      network_(std::move(network)),
      checks_({network_.inputs().begin(), network_.inputs().end()},
              {network_.outputs().begin(), network_.outputs().end()}),
      has_batch_(has_batch_axis(network_.inputs(), network_.outputs())),
      complain_(std::move(complain)) {
  warm_up(network_, has_batch_);
  batcher_ = std::make_unique<Batcher>(
      network_, BatchRules{has_batch_ ? options.max_batch : 0, options.max_delay, options.max_queue, options.workers},
      [this, &metrics](std::int64_t rows, Seconds took) { metrics.ran(name_, rows, took); }, complain_);
}

std::string_view Model::platform() const noexcept {
  return network_.backend() == "onnxruntime" ? "onnxruntime_onnx" : "tensorrt_plan";
}

bool Model::is_lost() const {
  if (!network_.lost()) {
    return false;
  }
  if (!has_complained_.exchange(true)) {
    complain_(text("model ", name_, ": its device was lost; it is not ready any more: start the server again"));
  }
  return true;
}

}  // namespace plainconv::serve
