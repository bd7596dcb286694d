#include "tensorrt/profiles.hpp"

#include <algorithm>
#include <functional>

#include "text.hpp"

namespace plainconv {
namespace {

Shape fixed_shape(const TensorSpec& spec) {
  Shape shape;
  for (const Axis& axis : spec.shape) {
    const auto* size = std::get_if<std::int64_t>(&axis);
    if (size == nullptr) {
      throw EngineError(
          text(text_of(spec), " has a free axis and the engine no optimization profile for it; build it again"));
    }
    shape.push_back(*size);
  }
  return shape;
}

bool covers(const ShapeRange& range, std::span<const std::int64_t> shape) {
  return std::ranges::equal(range.min, shape, std::ranges::less_equal{}) &&
         std::ranges::equal(shape, range.max, std::ranges::less_equal{});
}

}  // namespace

Profile profile_of(const std::vector<std::pair<std::string, ShapeRange>>& covered,
                   const std::vector<TensorSpec>& inputs) {
  Profile profile;
  for (const TensorSpec& spec : inputs) {
    const auto found = std::ranges::find(covered, spec.name, &std::pair<std::string, ShapeRange>::first);
    profile.push_back(found == covered.end() ? std::nullopt : std::optional(found->second));
  }
  return profile;
}

std::size_t profile_for(const std::vector<Profile>& profiles, const std::vector<TensorSpec>& inputs,
                        std::span<const ConstTensor> given) {
  for (std::size_t at = 0; at < profiles.size(); ++at) {
    bool all = true;
    for (std::size_t i = 0; i < given.size(); ++i) {
      all = all && (!profiles[at][i] || covers(*profiles[at][i], given[i].shape));
    }
    if (all) {
      return at;
    }
  }
  if (profiles.empty()) {
    return 0;
  }
  std::vector<std::string> found;
  std::vector<std::string> ranges;
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (std::ranges::any_of(profiles, [&](const Profile& profile) { return profile[i].has_value(); })) {
      found.push_back(text(inputs[i].name, " ", shown(given[i].shape)));
    }
  }
  for (std::size_t at = 0; at < profiles.size(); ++at) {
    std::vector<std::string> each;
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (const auto& range = profiles[at][i]) {
        each.push_back(text(inputs[i].name, " ", shown(range->min), " to ", shown(range->max)));
      }
    }
    ranges.push_back(text("profile ", at, ": ", joined(each, ", ")));
  }
  throw EngineError(text(joined(found, ", "), " is in no optimization profile of the engine (", joined(ranges, "; "),
                         "); split it, or build the engine for it"));
}

std::vector<Shape> largest_of(const std::vector<Profile>& profiles, std::size_t at,
                              const std::vector<TensorSpec>& inputs) {
  std::vector<Shape> shapes;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const bool is_fixed = profiles.empty() || !profiles[at][i];
    shapes.push_back(is_fixed ? fixed_shape(inputs[i]) : profiles[at][i]->max);
  }
  return shapes;
}

}  // namespace plainconv
