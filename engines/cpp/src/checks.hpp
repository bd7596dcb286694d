// Whether tensors are what a network takes. Nothing is allocated where they are.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "plainconv/bundle.hpp"

namespace plainconv {

/// The checks of one network's inputs and outputs. Each raises EngineError, in one line, at the first difference.
class Checks {
 public:
  Checks(std::vector<TensorSpec> inputs, std::vector<TensorSpec> outputs);

  void check(std::span<const ConstTensor> inputs) const;

  /// Also that no output overlaps an input or another output: one would spoil the other.
  void check(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) const;

  /// The shapes of the outputs; nothing where one has an axis that no input has.
  [[nodiscard]] std::optional<std::vector<std::vector<std::int64_t>>> shapes(std::span<const ConstTensor> inputs) const;

  [[nodiscard]] const std::vector<TensorSpec>& inputs() const noexcept { return inputs_; }
  [[nodiscard]] const std::vector<TensorSpec>& outputs() const noexcept { return outputs_; }

 private:
  /// Where the size of a free axis is first seen: an axis of a tensor, inputs first, then outputs.
  struct Place {
    std::size_t tensor;
    std::size_t axis;
  };
  using Size = std::variant<std::int64_t, Place>;

  [[nodiscard]] std::vector<std::vector<Size>> sizes_of(const std::vector<TensorSpec>& specs, std::size_t first);
  [[nodiscard]] std::int64_t size_at(const Place& place, std::span<const ConstTensor> inputs,
                                     std::span<const Tensor> outputs) const noexcept;
  void check_one(std::size_t index, std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) const;
  [[nodiscard]] std::string known_axes(std::size_t end, std::span<const ConstTensor> inputs,
                                       std::span<const Tensor> outputs) const;

  std::vector<TensorSpec> inputs_;
  std::vector<TensorSpec> outputs_;
  std::vector<std::pair<std::string, Place>> named_;  // each free axis, where it is first seen
  std::vector<std::vector<Size>> sizes_;              // of the inputs' axes, then of the outputs'
};

}  // namespace plainconv
