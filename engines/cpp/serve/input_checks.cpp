#include "input_checks.hpp"

#include <algorithm>
#include <utility>

#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

using Sizes = std::vector<std::pair<std::string_view, std::int64_t>>;

std::string listed_specs(std::span<const TensorSpec> specs) {
  std::vector<std::string> all;
  for (const TensorSpec& spec : specs) {
    all.push_back(text(spec.name, " ", datatype_of(spec.dtype), plainconv::shown(spec.shape)));
  }
  return joined(all, ", ");
}

/// Whether an axis may be of that size; one of a name is the same wherever it stands.
bool fits(std::int64_t size, const Axis& axis, Sizes& sizes) {
  if (const auto* fixed = std::get_if<std::int64_t>(&axis)) {
    return size == *fixed;
  }
  const std::string_view name = std::get<std::string>(axis);
  if (size < 1) {
    return false;
  }
  const auto known = std::ranges::find(sizes, name, &Sizes::value_type::first);
  if (known == sizes.end()) {
    sizes.emplace_back(name, size);
    return true;
  }
  return known->second == size;
}

void check(const SentTensor& sent, const TensorSpec& spec, Sizes& sizes) {
  const std::string what = "input " + as_sent(spec.name);
  if (sent.datatype->dtype != spec.dtype) {
    throw bad_request(text(what, " has datatype ", sent.datatype->name, ", wanted ", datatype_of(spec.dtype)));
  }
  if (sent.shape.size() != spec.shape.size()) {
    throw bad_request(text(what, " has ", sent.shape.size(), " axes, wanted ", spec.shape.size(), ": ",
                           plainconv::shown(spec.shape)));
  }
  for (std::size_t i = 0; i < spec.shape.size(); ++i) {
    if (!fits(sent.shape[i], spec.shape[i], sizes)) {
      std::vector<std::string> known;
      for (const auto& [name, size] : sizes) {
        known.push_back(text(name, " = ", size));
      }
      throw bad_request(text(what, " has shape ", plainconv::shown(sent.shape), ", wanted ",
                             plainconv::shown(spec.shape), known.empty() ? "" : " where ", joined(known, ", ")));
    }
  }
}

}  // namespace

std::vector<const SentTensor*> checked_inputs(std::span<const SentTensor> sent, std::span<const TensorSpec> specs) {
  for (const SentTensor& tensor : sent) {
    if (std::ranges::find(specs, tensor.name, &TensorSpec::name) == specs.end()) {
      throw bad_request(text("there is no input ", as_sent(tensor.name), "; the model takes ", listed_specs(specs)));
    }
  }
  std::vector<const SentTensor*> inputs;
  for (const TensorSpec& spec : specs) {
    const auto found = std::ranges::find(sent, spec.name, &SentTensor::name);
    if (found == sent.end()) {
      throw bad_request(text("input ", as_sent(spec.name), " is missing; the model takes ", listed_specs(specs)));
    }
    inputs.push_back(&*found);
  }
  Sizes sizes;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    check(*inputs[i], specs[i], sizes);
  }
  return inputs;
}

std::vector<Chosen> chosen_outputs(const InferRequest& request, std::span<const TensorSpec> specs) {
  std::vector<Chosen> chosen;
  if (request.outputs.empty()) {
    for (std::size_t i = 0; i < specs.size(); ++i) {
      chosen.push_back({i, request.binary});
    }
    return chosen;
  }
  for (const WantedOutput& wanted : request.outputs) {
    const auto found = std::ranges::find(specs, wanted.name, &TensorSpec::name);
    if (found == specs.end()) {
      throw bad_request(text("there is no output ", as_sent(wanted.name), "; the model gives ", listed_specs(specs)));
    }
    const auto index = static_cast<std::size_t>(found - specs.begin());
    if (std::ranges::find(chosen, index, &Chosen::index) != chosen.end()) {
      throw bad_request(text("output ", as_sent(wanted.name), " is asked for twice"));
    }
    chosen.push_back({index, !wanted.place && wanted.binary.value_or(request.binary), wanted.place});
  }
  return chosen;
}

}  // namespace plainconv::serve
