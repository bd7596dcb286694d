#include "checks.hpp"

#include <algorithm>
#include <limits>

#include "text.hpp"

namespace plainconv {
namespace {

/// Bytes of that many elements; nothing where no memory holds them.
std::optional<std::size_t> bytes_of(std::span<const std::int64_t> shape, DType dtype) noexcept {
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes)) {
      return std::nullopt;
    }
  }
  return bytes;
}

std::uintptr_t address_of(const std::byte* data) noexcept {
  return reinterpret_cast<std::uintptr_t>(data);  // NOLINT(*-reinterpret-cast): std::bit_cast upsets clang's analyzer
}

bool overlap(std::span<const std::byte> a, std::span<const std::byte> b) noexcept {
  const auto a_low = address_of(a.data());
  const auto b_low = address_of(b.data());
  return a_low < b_low + b.size() && b_low < a_low + a.size();
}

std::string counted(std::string_view role, std::size_t found, const std::vector<TensorSpec>& specs) {
  std::vector<std::string> wanted;
  std::ranges::transform(specs, std::back_inserter(wanted), text_of);
  return text(found, " ", role, found == 1 ? " is" : "s are", " given, wanted ", specs.size(), ": ",
              joined(wanted, ", "));
}

}  // namespace

Checks::Checks(std::vector<TensorSpec> inputs, std::vector<TensorSpec> outputs)
    : inputs_(std::move(inputs)), outputs_(std::move(outputs)), sizes_(sizes_of(inputs_, 0)) {
  std::ranges::move(sizes_of(outputs_, inputs_.size()), std::back_inserter(sizes_));
}

std::vector<std::vector<Checks::Size>> Checks::sizes_of(const std::vector<TensorSpec>& specs, std::size_t first) {
  std::vector<std::vector<Size>> all;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    std::vector<Size> sizes;
    for (std::size_t axis = 0; axis < specs[i].shape.size(); ++axis) {
      if (const auto* fixed = std::get_if<std::int64_t>(&specs[i].shape[axis])) {
        sizes.emplace_back(*fixed);
        continue;
      }
      const auto& name = std::get<std::string>(specs[i].shape[axis]);
      const auto seen = std::ranges::find(named_, name, &std::pair<std::string, Place>::first);
      sizes.emplace_back(seen != named_.end() ? seen->second : Place{first + i, axis});
      if (seen == named_.end()) {
        named_.emplace_back(name, Place{first + i, axis});
      }
    }
    all.push_back(std::move(sizes));
  }
  return all;
}

std::int64_t Checks::size_at(const Place& place, std::span<const ConstTensor> inputs,
                             std::span<const Tensor> outputs) const noexcept {
  return place.tensor < inputs_.size() ? inputs[place.tensor].shape[place.axis]
                                       : outputs[place.tensor - inputs_.size()].shape[place.axis];
}

std::string Checks::known_axes(std::size_t end, std::span<const ConstTensor> inputs,
                               std::span<const Tensor> outputs) const {
  std::vector<std::string> known;
  for (const auto& [name, place] : named_) {
    if (place.tensor < end) {
      known.push_back(text(name, " = ", size_at(place, inputs, outputs)));
    }
  }
  return known.empty() ? "" : " where " + joined(known, ", ");
}

void Checks::check_one(std::size_t index, std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) const {
  const bool is_input = index < inputs_.size();
  const TensorSpec& spec = is_input ? inputs_[index] : outputs_[index - inputs_.size()];
  const ConstTensor tensor =
      is_input ? inputs[index]
               : ConstTensor{outputs[index - inputs_.size()].dtype, outputs[index - inputs_.size()].shape,
                             outputs[index - inputs_.size()].bytes};
  const auto what = [&] { return text(is_input ? "input " : "output ", spec.name); };
  if (tensor.dtype != spec.dtype) {
    throw EngineError(text(what(), " is ", name_of(tensor.dtype), ", wanted ", name_of(spec.dtype), "; convert it"));
  }
  const auto fits = [&](std::size_t axis) {
    const std::int64_t size = tensor.shape[axis];
    const auto* place = std::get_if<Place>(&sizes_[index][axis]);
    return place == nullptr ? size == std::get<std::int64_t>(sizes_[index][axis])
                            : size >= 1 && size == size_at(*place, inputs, outputs);
  };
  const bool same_rank = tensor.shape.size() == spec.shape.size();
  bool right = same_rank;
  for (std::size_t axis = 0; right && axis < tensor.shape.size(); ++axis) {
    right = fits(axis);
  }
  if (!right) {
    throw EngineError(text(what(), " has shape ", shown(tensor.shape), ", wanted ", shown(spec.shape),
                           same_rank ? known_axes(index, inputs, outputs) : ""));
  }
  const auto bytes = bytes_of(tensor.shape, tensor.dtype);
  if (bytes != tensor.bytes.size()) {
    throw EngineError(text(what(), " has ", tensor.bytes.size(), " bytes, wanted ",
                           bytes ? std::to_string(*bytes) : "fewer than any memory holds", " for its shape ",
                           shown(tensor.shape), "; give all of them"));
  }
  if (address_of(tensor.bytes.data()) % size_of(spec.dtype) != 0) {
    throw EngineError(text(what(), " is not aligned to ", size_of(spec.dtype), " bytes; copy it to memory that is"));
  }
}

void Checks::check(std::span<const ConstTensor> inputs) const {
  if (inputs.size() != inputs_.size()) {
    throw EngineError(counted("input", inputs.size(), inputs_));
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_one(i, inputs, {});
  }
}

void Checks::check(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) const {
  check(inputs);
  if (outputs.size() != outputs_.size()) {
    throw EngineError(counted("output", outputs.size(), outputs_));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    check_one(inputs.size() + i, inputs, outputs);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto refuse = [&](std::string_view role, const std::string& other) {
      throw EngineError(text("output ", outputs_[i].name, " lies in the memory of ", role, " ", other,
                             "; give it an array of its own"));
    };
    for (std::size_t j = 0; j < inputs.size(); ++j) {
      if (overlap(outputs[i].bytes, inputs[j].bytes)) {
        refuse("input", inputs_[j].name);
      }
    }
    for (std::size_t j = 0; j < i; ++j) {
      if (overlap(outputs[i].bytes, outputs[j].bytes)) {
        refuse("output", outputs_[j].name);
      }
    }
  }
}

std::optional<std::vector<std::vector<std::int64_t>>> Checks::shapes(std::span<const ConstTensor> inputs) const {
  std::vector<std::vector<std::int64_t>> all;
  for (std::size_t i = inputs_.size(); i < sizes_.size(); ++i) {
    std::vector<std::int64_t> shape;
    for (const Size& size : sizes_[i]) {
      const auto* place = std::get_if<Place>(&size);
      if (place != nullptr && place->tensor >= inputs_.size()) {
        return std::nullopt;
      }
      shape.push_back(place == nullptr ? std::get<std::int64_t>(size) : size_at(*place, inputs, {}));
    }
    if (!bytes_of(shape, outputs_[i - inputs_.size()].dtype)) {
      throw EngineError(text("output ", outputs_[i - inputs_.size()].name, " of shape ", shown(shape),
                             " fits in no memory; give smaller inputs"));
    }
    all.push_back(std::move(shape));
  }
  return all;
}

}  // namespace plainconv
