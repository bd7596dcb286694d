#include <doctest/doctest.h>

#include "access_log.hpp"

using plainconv::serve::trace_of;

TEST_CASE("the trace that a request is part of") {
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const std::string span = "00f067aa0ba902b7";
  for (const std::string& parent : {"00-" + trace + "-" + span + "-01", "cc-" + trace + "-" + span + "-01-more"}) {
    const auto found = trace_of(parent, "a=b");
    CHECK((found.trace_id == trace && found.span_id == span && found.state == "a=b"));
  }
  CHECK(trace_of("00-" + trace + "-" + span + "-01", std::string(513, 'a')).state.empty());
  CHECK(trace_of("00-" + trace + "-" + span + "-01", "a\x01").state.empty());
}

TEST_CASE("what is no trace") {
  const std::string trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  const std::string span = "00f067aa0ba902b7";
  for (const std::string& parent :
       {std::string(), std::string(55, '-'), "ff-" + trace + "-" + span + "-01", "00-" + trace + "-" + span + "-01x",
        "00-" + std::string(32, '0') + "-" + span + "-01", "00-" + trace + "-" + std::string(16, '0') + "-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" + span + "-01", "00-" + trace + "_" + span + "-01",
        "00-" + trace + "-" + span + "-0"}) {
    CAPTURE(parent);
    CHECK(trace_of(parent, "a=b").trace_id.empty());
  }
}
