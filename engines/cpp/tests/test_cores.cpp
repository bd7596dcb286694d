#include <doctest/doctest.h>

#include "cores.hpp"

using plainconv::Cores;
using plainconv::Place;

TEST_CASE("cores are dealt in runs of neighbours") {
  CHECK(plainconv::dealt({0, 1, 2, 3, 4}, 2) == std::vector<Cores>{{0, 1}, {2, 3, 4}});
  CHECK(plainconv::dealt({7}, 3) == std::vector<Cores>{{7}, {7}, {7}});
}

TEST_CASE("places of one device divide its group, devices of one group share it") {
  const std::vector<Place> places = {{0, 0}, {0, 1}, {1, 0}, {2, 0}};
  const std::vector<int> groups = {0, 5, 5};
  CHECK(plainconv::cores_of_places(places, groups, {0, 1, 2, 3}) == std::vector<Cores>{{0}, {1}, {2, 3}, {2, 3}});
}

TEST_CASE("there are cores to run on") { CHECK(!plainconv::usable_cores().empty()); }
