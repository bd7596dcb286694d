// What a manifest says of images: the sections preprocessing and postprocessing of exporter/BUNDLE.md.
#pragma once

#include <stdexcept>

#include "bundle/json.hpp"
#include "bundle/manifest.hpp"

namespace plainconv {

/// Why a section is not one of its vocabulary, in one line.
class VocabularyError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Both throw VocabularyError.
[[nodiscard]] Preprocessing preprocessing_of_json(const json::Value& data);
[[nodiscard]] Postprocessing postprocessing_of_json(const json::Value& data);

}  // namespace plainconv
