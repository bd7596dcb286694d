// The models of a server: one bundle, or those in a folder, which no name leads out of; loading and unloading them, and
// a new version in the place of an old one.
//
// A new version is loaded beside the old one, then takes its place in one step; the old one answers those who had it
// and ends after the last. Where the new one does not load, the old one stays.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "model.hpp"

namespace plainconv::serve {

/// What is known of a model for the protocol's index of a repository.
struct IndexRow {
  std::string name;
  bool is_ready = false;
  std::string_view reason;
};

/// From any thread; loads are one at a time.
class Store {
 public:
  /// Opens a bundle. Throws Error.
  using Open = std::function<Network(const std::filesystem::path& folder)>;
  /// Is told, in a line each, what went wrong, and what was reloaded.
  struct Voices {
    Batcher::Complain complain;
    Batcher::Complain tell;
  };

  Store(std::filesystem::path path, Open open, const ServeOptions& options, Metrics& metrics, Voices voices);

  /// Load every model there is. Throws what the first that does not load throws, if none does.
  void load_all();
  /// Load a model, or the version of it that is there now. Throws Refused.
  void load(const std::string& name);
  /// Later requests find none; one that is not loaded is unloaded. Throws Refused for what is no name.
  void unload(const std::string& name);
  /// Load anew what was replaced on disk, and end the versions that nobody uses any more.
  void refresh();

  /// The model, which stays as long as it is held. Throws Refused where there is none, or it cannot answer.
  [[nodiscard]] std::shared_ptr<const Model> use(std::string_view name) const;
  /// The names of those that are loaded and can compute.
  [[nodiscard]] std::vector<std::string> ready() const;
  /// Every model there is.
  [[nodiscard]] std::vector<IndexRow> index() const;
  /// Those that are loaded, for the metrics.
  [[nodiscard]] std::vector<Loaded> loaded() const;

 private:
  struct Entry {
    std::filesystem::path folder;
    std::shared_ptr<const Model> model;  // none: not loaded
    std::string_view reason;             // why not; of static storage
    std::string refused;                 // the files that did not load
  };

  [[nodiscard]] std::map<std::string, std::filesystem::path> places() const;
  void load_from(std::string name, const std::filesystem::path& folder);
  void end_unused();

  std::filesystem::path path_;
  bool is_single_;  // the path is a bundle's
  Open open_;
  const ServeOptions& options_;
  Metrics& metrics_;
  Voices voices_;
  std::mutex loading_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::vector<std::shared_ptr<const Model>> leaving_;  // replaced or unloaded, and perhaps in use still
};

}  // namespace plainconv::serve
