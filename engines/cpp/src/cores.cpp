#include "cores.hpp"

#include <sched.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <thread>

namespace plainconv {

Cores usable_cores() {
  Cores cores;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) {
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &set)) {
        cores.push_back(core);
      }
    }
  }
  if (cores.empty()) {
    cores.resize(std::max(1U, std::thread::hardware_concurrency()));
    std::iota(cores.begin(), cores.end(), 0);
  }
  return cores;
}

std::vector<Cores> dealt(const Cores& cores, std::size_t hands) {
  std::vector<Cores> all;
  for (std::size_t hand = 0; hand < hands; ++hand) {
    const std::size_t start = hand * cores.size() / hands;
    const std::size_t end = std::max((hand + 1) * cores.size() / hands, start + 1);
    all.emplace_back(cores.begin() + static_cast<std::ptrdiff_t>(start),
                     cores.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return all;
}

std::vector<Cores> cores_of_places(std::span<const Place> places, std::span<const int> groups, const Cores& cores) {
  const std::set<int> numbers(groups.begin(), groups.end());
  const auto hands = dealt(cores, numbers.size());
  std::vector<Cores> found(places.size());
  for (std::size_t device = 0; device < groups.size(); ++device) {
    const auto hand = static_cast<std::size_t>(std::distance(numbers.begin(), numbers.find(groups[device])));
    std::vector<std::size_t> own;
    for (std::size_t i = 0; i < places.size(); ++i) {
      if (std::cmp_equal(places[i].device, device)) {
        own.push_back(i);
      }
    }
    const auto shares = dealt(hands[hand], own.size());
    for (std::size_t i = 0; i < own.size(); ++i) {
      found[own[i]] = shares[i];
    }
  }
  return found;
}

bool bind(const Cores& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int core : cores) {
    CPU_SET(static_cast<std::size_t>(core), &set);
  }
  return ::sched_setaffinity(0, sizeof set, &set) == 0;  // 0 is the calling thread, not the process
}

}  // namespace plainconv
