// What a request enqueues, read as text.
#include <doctest/doctest.h>

#include "doubles.hpp"
#include "network.hpp"
#include "tensorrt/program.hpp"
#include "text.hpp"

namespace {

using plainconv::text;

/// "at: what [after …]" of each work.
std::vector<std::string> shown(const plainconv::Program& program) {
  std::vector<std::string> lines;
  for (const auto& work : program.works) {
    std::string line = text("gpu", work.track.device, " ");
    if (work.step) {
      line += text("part ", *work.step);
    } else if (work.copy) {
      const auto& from = program.slots[work.copy->first];
      const auto& to = program.slots[work.copy->second];
      line += text("value ", from.value, " ", from.memory, " to ", to.memory, to.passed ? " passed" : "");
    } else {
      line += "-";
    }
    for (const auto at : work.after) {
      line += text(" <", at);
    }
    lines.push_back(line);
  }
  return lines;
}

struct Planned {
  explicit Planned(SplitNetwork of, std::vector<int> devices)
      : net(std::move(of)), schedule(schedule_of(net.split, net.manifest)), layout(schedule, std::move(devices), 2) {}
  SplitNetwork net;
  plainconv::Schedule schedule;
  plainconv::Layout layout;
};

}  // namespace

TEST_CASE("of a whole network: copies in, the engine, copies out, all on one stream") {
  const Planned plan(whole(), {3});
  CHECK(shown(program_of(plan.layout, {false, false, false, false})) ==
        std::vector<std::string>{"gpu3 -", "gpu3 value 0 -1 to 3", "gpu3 value 1 -1 to 3", "gpu3 part 0",
                                 "gpu3 value 2 3 to -1", "gpu3 value 3 3 to -1", "gpu3 -"});
  CHECK(shown(program_of(plan.layout, {true, true, true, true})) ==
        std::vector<std::string>{"gpu3 -", "gpu3 part 0", "gpu3 -"});
}

TEST_CASE("of parts: each value goes where it is wanted as soon as it is made") {
  Planned plan(diamond(), {0, 1});
  const std::vector<std::string> wanted = {"gpu0 -",
                                           "gpu0 value 0 -1 to 0 <0",
                                           "gpu0 value 1 -1 to 0",
                                           "gpu0 part 0 <1",
                                           "gpu0 value 2 0 to 1 <0 <3",
                                           "gpu1 part 1 <0 <4",
                                           "gpu1 value 4 1 to 0 <0 <5",
                                           "gpu0 part 2 <2 <6",
                                           "gpu0 value 5 0 to -1 <7",
                                           "gpu0 - <8"};
  auto found = shown(program_of(plan.layout, {false, false, false}));
  for (auto& line : found) {  // the first wait of a new stream is for the beginning, others may stand for it
    const auto at = line.find(" <0 <");
    line = at == std::string::npos ? line : line.erase(at, 3);
  }
  auto expected = wanted;
  for (auto& line : expected) {
    const auto at = line.find(" <0 <");
    line = at == std::string::npos ? line : line.erase(at, 3);
  }
  CHECK(found.size() == expected.size());
  for (std::size_t i = 0; i + 1 < std::min(found.size(), expected.size()); ++i) {
    CHECK(found[i] == expected[i]);
  }
  CHECK(plan.layout.ways() == std::set<plainconv::Way>{{0, 1}, {1, 0}});
  plan.layout.let_reach_only({{1, 0}});
  const auto by_host = shown(program_of(plan.layout, {true, true, true}));
  const auto has = [&](const std::string& what) {
    return std::ranges::any_of(by_host, [&](const std::string& line) { return contains(line, what); });
  };
  CHECK(has("value 2 0 to -1"));
  CHECK(has("value 2 -1 to 1"));
  CHECK(has("value 4 1 to 0"));
  CHECK_FALSE(has("value 2 0 to 1"));
}

TEST_CASE("an output that is an input is copied for the caller") {
  SplitNetwork net;
  net.add_input("a");
  net.add_input("b");
  net.add_part("p0", 0, 0, {{std::nullopt, "a"}}, {"v0"});
  net.add_output("b", std::nullopt);
  net.add_output("v0", "p0");
  const Planned plan(net, {0});
  const auto lines = shown(program_of(plan.layout, {true, true, true, true}));
  CHECK(std::ranges::count(lines, "gpu0 value 1 0 to 0 passed") == 1);
  const auto program = program_of(plan.layout, {false, false, false, false});
  CHECK(program.ends[1] == program.ends[2]);
}
