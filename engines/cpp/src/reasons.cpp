#include "reasons.hpp"

#include <algorithm>

#include "text.hpp"

namespace plainconv {

void Reasons::add(const std::string& reason, const std::string& of) {
  const auto found = std::ranges::find(all_, reason, [](const auto& each) -> const std::string& { return each.first; });
  if (found == all_.end()) {
    all_.push_back({reason, {of}});
  } else {
    found->second.push_back(of);
  }
}

void Reasons::merge(Reasons& other) {
  for (const auto& [reason, files] : other.all_) {
    for (const std::string& of : files) {
      add(reason, of);
    }
  }
  other.all_.clear();
}

std::vector<std::string> Reasons::lines() const {
  std::vector<std::string> found;
  std::ranges::transform(all_, std::back_inserter(found), [](const auto& each) {
    return text(joined(each.second, ", "), " cannot run here: ", each.first);
  });
  return found;
}

void Reasons::say(const std::function<void(const std::string&)>& warn, std::string_view instead) {
  const auto told = lines();
  all_.clear();
  if (warn) {
    for (const std::string& line : told) {
      warn(text(line, "; ", instead, " runs instead"));
    }
  }
}

}  // namespace plainconv
