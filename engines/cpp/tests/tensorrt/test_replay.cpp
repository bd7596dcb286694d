// Calls that come again, on stand-ins: graphs.
#include <doctest/doctest.h>

#include "calls.hpp"

TEST_CASE("graphs are bounded: those not used for longest go") {
  auto net = whole({{1, 40}});
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner({0});
    for (int batch = 1; batch <= 20; ++batch) {
      for (int again = 0; again < 4; ++again) {
        CHECK(right(*runner, net, cuda, again, batch));
      }
    }
    CHECK(cuda->graphs.size() == 16);
    CHECK(net.engines[0]->contexts == 17);
  }
  check_clean(*cuda);
}

TEST_CASE("a capture that fails leaves the call right, and after three there are no more") {
  for (const char* step : {"begin_capture", "end_capture", "capture"}) {
    auto net = diamond();
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner({0, 1});
      if (std::string(step) == "capture") {
        net.engines[1]->refuses = {"capture"};
      } else {
        cuda->fail[step] = 3;
      }
      for (int seed = 0; seed < 5; ++seed) {
        CHECK(runner->why_not_captured().empty());
        CHECK(right(*runner, net, cuda, seed));
      }
      CHECK_FALSE(runner->why_not_captured().empty());
      cuda->calls.clear();
      CHECK(right(*runner, net, cuda, 6));
      CHECK(cuda->count("begin_capture") == 0);
    }
    check_clean(*cuda);
  }
}
