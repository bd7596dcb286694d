#include "store.hpp"

#include <algorithm>
#include <system_error>

#include "bundle/reader.hpp"
#include "refusals.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::string_view lost = "its device was lost";

/// Whether that is a bundle's folder, and no link to one elsewhere.
bool is_model(const std::filesystem::directory_entry& entry) {
  std::error_code code;
  return is_model_name(entry.path().filename().native()) && !entry.is_symlink(code) &&
         std::filesystem::is_regular_file(entry.path() / manifest_name, code);
}

/// What tells the files of a bundle from what they were: where one is copied file by file, the manifest comes first.
/// Files that vanish meanwhile are as good as changed.
std::string files_in(const std::filesystem::path& folder) {
  std::string all = "files:";
  try {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      all += text(" ", entry.path().native(), " ", entry.last_write_time().time_since_epoch().count(), " ",
                  entry.is_regular_file() ? entry.file_size() : 0);
    }
  } catch (const std::filesystem::filesystem_error&) {
    all += " and others";
  }
  return all;
}

}  // namespace

Store::Store(std::filesystem::path path, Open open, const ServeOptions& options, Metrics& metrics, Voices voices)
    : path_(std::move(path)), open_(std::move(open)), options_(options), metrics_(metrics), voices_(std::move(voices)) {
  std::error_code code;
  is_single_ = std::filesystem::exists(std::filesystem::symlink_status(path_ / manifest_name, code)) ||
               !std::filesystem::is_directory(path_, code);
}

std::map<std::string, std::filesystem::path> Store::places() const {
  std::map<std::string, std::filesystem::path> found;
  if (is_single_) {
    const std::scoped_lock lock(mutex_);
    for (const auto& [name, entry] : entries_) {
      found.emplace(name, entry.folder);
    }
    return found;
  }
  std::error_code code;
  for (const auto& entry : std::filesystem::directory_iterator(path_, code)) {
    if (is_model(entry)) {
      found.emplace(entry.path().filename().native(), entry.path());
    }
  }
  return found;
}

void Store::load_all() {
  if (is_single_) {
    load_from(options_.name, path_);
    return;
  }
  if (!options_.name.empty()) {
    throw Error(text(shown_path(path_), " is a folder of bundles, which have names of their own; leave --name out"));
  }
  const auto there = places();
  if (there.empty()) {
    throw Error(text(shown_path(path_), " holds neither a bundle nor folders that do; give what `exporter run` wrote"));
  }
  std::exception_ptr first;
  for (const auto& [name, folder] : there) {
    try {
      load_from(name, folder);
    } catch (const Error& error) {
      first = first ? first : std::current_exception();
      if (there.size() > 1) {
        voices_.complain(text("model ", name, ": ", error.what()));
      }
    }
  }
  if (first && ready().empty()) {
    std::rethrow_exception(first);
  }
}

void Store::load(const std::string& name) {
  const auto there = places();
  const auto found = there.find(name);
  if (found == there.end()) {
    throw unknown(text("there is no model ", as_sent(name), " in the repository"));
  }
  try {
    load_from(name, found->second);
  } catch (const Error& error) {
    voices_.complain(text("model ", name, ": ", error.what()));
    throw failed(text("model ", as_sent(name), " cannot be loaded; the server's log says why"));
  }
}

void Store::unload(const std::string& name) {
  if (!is_model_name(name)) {
    throw unknown(text("there is no model ", as_sent(name), " to unload"));
  }
  const std::scoped_lock loading(loading_);
  {
    const std::scoped_lock lock(mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end() || !found->second.model) {
      return;
    }
    leaving_.push_back(std::move(found->second.model));
    found->second = {found->second.folder, nullptr, "unloaded", ""};
  }
  end_unused();
}

void Store::refresh() {
  std::map<std::string, Entry, std::less<>> entries;
  {
    const std::scoped_lock lock(mutex_);
    entries = entries_;
  }
  for (auto& [name, entry] : entries) {
    const std::string known = entry.model ? entry.model->network().sha256() : "";
    entry.model.reset();
    if (known.empty() && entry.refused.empty()) {
      continue;  // it was unloaded
    }
    const auto now = identity_of(entry.folder);
    if (!now || *now == known || files_in(entry.folder) == entry.refused) {
      continue;
    }
    try {
      load_from(name, entry.folder);
      constexpr std::size_t digits = 12;
      voices_.tell(text("model ", name, ": reloaded, ", now->substr(0, digits), " in the place of ",
                        known.empty() ? "none" : known.substr(0, digits)));
    } catch (const Error& error) {
      voices_.complain(text("model ", name, ": ", error.what()));  // what was there is still served
    }
  }
  const std::scoped_lock loading(loading_);
  end_unused();
}

std::shared_ptr<const Model> Store::use(std::string_view name) const {
  const std::scoped_lock lock(mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    throw unknown(text("there is no model ", as_sent(name), "; see /v2/models"));
  }
  const auto& [folder, model, reason, refused] = found->second;
  if (!model) {
    throw unavailable(text("model ", as_sent(name), " is not loaded (", reason, ")"));
  }
  if (model->is_lost()) {
    throw unavailable(text("model ", as_sent(name), " cannot compute any more (", lost, ")"));
  }
  return model;
}

std::vector<std::string> Store::ready() const {
  std::vector<std::string> names;
  for (const Loaded& each : loaded()) {
    if (each.is_ready) {
      names.push_back(each.name);
    }
  }
  return names;
}

std::vector<IndexRow> Store::index() const {
  std::map<std::string, IndexRow> rows;
  for (const auto& [name, folder] : places()) {
    rows.emplace(name, IndexRow{name, false, ""});
  }
  const std::scoped_lock lock(mutex_);
  for (const auto& [name, entry] : entries_) {
    const bool is_ready = entry.model && !entry.model->is_lost();
    rows[name] = {name, is_ready, entry.model && !is_ready ? lost : entry.reason};
  }
  std::vector<IndexRow> all;
  for (auto& [name, row] : rows) {
    all.push_back(std::move(row));
  }
  return all;
}

std::vector<Loaded> Store::loaded() const {
  std::vector<Loaded> all;
  const std::scoped_lock lock(mutex_);
  for (const auto& [name, entry] : entries_) {
    if (entry.model) {
      all.push_back({name, entry.model->batcher().waiting(), !entry.model->is_lost()});
    }
  }
  return all;
}

/// An empty name is the network's own.
void Store::load_from(std::string name, const std::filesystem::path& folder) {
  const std::scoped_lock loading(loading_);
  const auto version = identity_of(folder);
  const std::string files = files_in(folder);
  {
    const std::scoped_lock lock(mutex_);
    const auto found = entries_.find(name);
    if (found != entries_.end() && found->second.model && version == found->second.model->network().sha256() &&
        !found->second.model->is_lost()) {
      return;
    }
  }
  std::shared_ptr<const Model> model;
  try {
    Network network = open_(std::filesystem::weakly_canonical(folder));  // a link may be pointed elsewhere, and back
    name = name.empty() || is_single_ ? model_name_of(name, network.name()) : name;
    model = std::make_shared<const Model>(name, std::move(network), options_, metrics_, voices_.complain);
  } catch (const Error&) {
    const std::scoped_lock lock(mutex_);
    if (!name.empty()) {
      Entry& entry = entries_[name];
      entry.folder = folder;
      entry.reason = "it cannot be loaded";
      entry.refused = files;
    }
    throw;
  }
  {
    const std::scoped_lock lock(mutex_);
    Entry& entry = entries_[name];
    if (entry.model) {
      leaving_.push_back(std::move(entry.model));
    }
    entry = {folder, std::move(model), "", ""};
  }
  end_unused();
}

/// Nobody comes to use what is leaving: who holds the last of it, holds it alone.
void Store::end_unused() {
  std::vector<std::shared_ptr<const Model>> unused;
  {
    const std::scoped_lock lock(mutex_);
    const auto first = std::partition(leaving_.begin(), leaving_.end(),
                                      [](const std::shared_ptr<const Model>& model) { return model.use_count() > 1; });
    std::move(first, leaving_.end(), std::back_inserter(unused));
    leaving_.erase(first, leaving_.end());
  }
  std::atomic_thread_fence(std::memory_order_acquire);  // of what the others did before they let go
}

}  // namespace plainconv::serve
