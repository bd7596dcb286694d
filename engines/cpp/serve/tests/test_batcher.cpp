#include <doctest/doctest.h>

#include <atomic>
#include <numeric>
#include <thread>

#include "batch_axis.hpp"
#include "batcher.hpp"
#include "serving_doubles.hpp"

using plainconv::serve::Batcher;
using plainconv::serve::BatchRules;
using plainconv::serve::Clock;
using plainconv::serve::Job;
using plainconv::serve::Refused;

namespace {

constexpr std::chrono::seconds long_time(60);  // what nothing takes

struct Rows {
  std::vector<float> x;
  std::vector<float> y;
  std::array<std::int64_t, 2> of_x;
  std::array<std::int64_t, 2> of_y;
};

/// A request of rows that begin with these numbers, the other three columns 1, 2 and 3.
std::shared_ptr<Job> job_of(const std::vector<float>& firsts, bool is_shape_known = true) {
  const auto rows = std::make_shared<Rows>();
  const auto count = static_cast<std::int64_t>(firsts.size());
  rows->of_x = {count, 4};
  rows->of_y = {count, 1};
  for (const float first : firsts) {
    rows->x.insert(rows->x.end(), {first, 1, 2, 3});
  }
  rows->y.resize(firsts.size());
  auto job = std::make_shared<Job>();
  job->inputs = {plainconv::input(std::span<const float>(rows->x), rows->of_x)};
  if (is_shape_known) {
    job->outputs = {plainconv::output(std::span<float>(rows->y), rows->of_y)};
  }
  job->memory = rows;
  job->rows = count;
  job->timeout = long_time;
  job->deadline = Clock::now() + long_time;
  return job;
}

std::vector<float> result_of(const Job& job) {
  const std::span<const std::byte> bytes =
      job.outputs.empty() ? std::span<const std::byte>(job.made.at(0).bytes) : job.outputs[0].bytes;
  std::vector<float> y(bytes.size() / sizeof(float));
  std::memcpy(y.data(), bytes.data(), bytes.size());
  return y;
}

/// Wait until the job is done. Throws Refused where its run failed.
void wait(Batcher& batcher, const std::shared_ptr<Job>& job) {
  while (!batcher.is_done(*job)) {
    std::this_thread::yield();
  }
}

const auto silent = [](const std::string&) {};
const auto unseen = [](std::int64_t, plainconv::serve::Seconds) {};

}  // namespace

TEST_CASE("requests that wait share a run, in order, up to its rows") {
  for (const bool is_shape_known : {true, false}) {
    Gate gate;
    std::vector<std::int64_t> batches;
    const auto net = summing_network(&gate, &batches, is_shape_known ? plainconv::Axis(1) : plainconv::Axis("M"));
    std::vector<std::shared_ptr<Job>> jobs;
    std::atomic<std::int64_t> seen = 0;
    {
      Batcher batcher(
          net, {4, std::chrono::microseconds(0), 256, 1},
          [&](std::int64_t rows, plainconv::serve::Seconds) { seen += rows; }, silent);
      for (const std::vector<float>& rows : {std::vector<float>{0}, {1}, {2, 3}, {4}, {5, 6}, {7, 8, 9, 10}}) {
        jobs.push_back(job_of(rows, is_shape_known));
        batcher.submit(jobs.back());
        if (jobs.size() == 1) {
          gate.wait_for(1);  // the first runs alone, the others wait
        }
      }
      CHECK(batcher.waiting() == 5);
      gate.open();
      for (const auto& job : jobs) {
        wait(batcher, job);
      }
    }
    CHECK(batches == std::vector<std::int64_t>{1, 4, 2, 4});
    CHECK(seen == 11);
    CHECK(result_of(*jobs[2]) == std::vector<float>{8, 9});
    CHECK(result_of(*jobs[4]) == std::vector<float>{11, 12});
    CHECK(result_of(*jobs[5]) == std::vector<float>{13, 14, 15, 16});
    CHECK(jobs[3]->batch_rows == 4);
  }
}

TEST_CASE("each of many senders at once gets what belongs to its input") {
  const auto net = summing_network();
  Batcher batcher(net, {8, std::chrono::microseconds(200), 256, 2}, unseen, silent);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> senders;
  for (int sender = 0; sender < 8; ++sender) {
    senders.emplace_back([&, sender] {
      for (int i = 0; i < 50; ++i) {
        const auto first = static_cast<float>(sender * 1000 + i);
        const auto job = job_of(i % 3 == 0 ? std::vector{first, first + 1} : std::vector{first});
        batcher.submit(job);
        wait(batcher, job);
        wrong += result_of(*job)[0] == first + 6 ? 0 : 1;
      }
    });
  }
  for (auto& sender : senders) {
    sender.join();
  }
  CHECK(wrong == 0);
}

TEST_CASE("where a run of several fails, only what fails alone is refused") {
  Gate gate;
  const auto net = summing_network(&gate);
  std::vector<std::string> complaints;
  Batcher batcher(net, {8, std::chrono::microseconds(0), 256, 1}, unseen,
                  [&](const std::string& why) { complaints.push_back(why); });
  const auto first = job_of({0});
  batcher.submit(first);
  gate.wait_for(1);
  const std::array jobs{job_of({1}), job_of({-1}), job_of({2})};
  for (const auto& job : jobs) {
    batcher.submit(job);
  }
  gate.open();
  wait(batcher, first);
  wait(batcher, jobs[0]);
  CHECK(thrown_by<Refused>([&] { wait(batcher, jobs[1]); }) == "the model could not be run on this request");
  wait(batcher, jobs[2]);
  CHECK(result_of(*jobs[2]) == std::vector<float>{8});
  CHECK(complaints == std::vector<std::string>{"a request could not be run: the graph fails, at /a/path"});
}

TEST_CASE("a full queue, a deadline and a sender that leaves") {
  Gate gate;
  const auto net = summing_network(&gate);
  Batcher batcher(net, {0, std::chrono::microseconds(0), 2, 1}, unseen, silent);
  const auto running = job_of({0});
  batcher.submit(running);
  gate.wait_for(1);
  const auto late = job_of({1});
  late->deadline = Clock::now();
  const auto left = job_of({2});
  batcher.submit(late);
  batcher.submit(left);
  CHECK(thrown_by<Refused>([&] { batcher.submit(job_of({3})); }) ==
        "2 requests wait for this model already; try again later");
  std::atomic<int> told = 0;
  late->when_done = left->when_done = [&] { ++told; };
  batcher.abandon(late);
  CHECK(batcher.waiting() == 1);
  batcher.abandon(left);
  CHECK(batcher.waiting() == 0);
  const auto expired = job_of({4});
  expired->deadline = Clock::now();
  expired->when_done = [&] { told += 10; };
  batcher.submit(expired);
  gate.open();
  wait(batcher, running);
  CHECK(contains(thrown_by<Refused>([&] { wait(batcher, expired); }), "until its time was up"));
  while (told == 0) {
    std::this_thread::yield();
  }
  CHECK(told == 10);
  CHECK(result_of(*running) == std::vector<float>{6});
}

TEST_CASE("a batch waits for others no longer than it may") {
  std::vector<std::int64_t> batches;
  const auto net = summing_network(nullptr, &batches);
  Batcher batcher(net, {2, long_time, 256, 1}, unseen, silent);
  const std::array jobs{job_of({0}), job_of({1})};  // together they are full: nothing waits for a minute
  batcher.submit(jobs[0]);
  batcher.submit(jobs[1]);
  wait(batcher, jobs[0]);
  wait(batcher, jobs[1]);
  CHECK(batches == std::vector<std::int64_t>{2});
}

TEST_CASE("which networks have a batch axis") {
  using plainconv::Axis;
  using plainconv::DType;
  const auto has = [](std::vector<Axis> x, std::vector<Axis> y) {
    const std::array inputs{plainconv::TensorSpec{"x", DType::float32, std::move(x)}};
    const std::array outputs{plainconv::TensorSpec{"y", DType::float32, std::move(y)}};
    return plainconv::serve::has_batch_axis(inputs, outputs);
  };
  CHECK(has({"N", 3}, {"N"}));
  CHECK(has({"N", "H"}, {"N", "H"}));
  CHECK_FALSE(has({1, 3}, {1}));
  CHECK_FALSE(has({"N", 3}, {"M"}));
  CHECK_FALSE(has({"N", "N"}, {"N"}));
  CHECK_FALSE(has({"N", 3}, {3, "N"}));
  CHECK_FALSE(has({"N"}, {}));
}
