// Networks whole and in parts, on doubles: order, copies, graphs, callers' memory, threads, and what goes wrong.
#include <doctest/doctest.h>

#include <thread>

#include "doubles.hpp"
#include "recording_tensorrt.hpp"

namespace {

using plainconv::EngineError;
using plainconv::Memory;

/// A caller's tensor, on the host or on a device.
class CallersTensor {
 public:
  CallersTensor(std::shared_ptr<RecordingCuda> cuda, std::vector<float> values, int memory)
      : cuda_(std::move(cuda)), host_(std::move(values)), shape_{static_cast<std::int64_t>(host_.size()) / row, row} {
    if (memory != plainconv::host_memory) {
      const plainconv::UsingDevice back(*cuda_, memory);
      device_ =
          plainconv::Handle(*cuda_, memory, cuda_->allocate(host_.size() * sizeof(float)), &plainconv::Cuda::free);
      cuda_->callers.insert(device_.value());
      std::memcpy(data(), host_.data(), host_.size() * sizeof(float));
    }
  }
  [[nodiscard]] plainconv::Tensor view() {
    auto tensor = plainconv::output(std::span(data(), host_.size()), shape_);
    tensor.memory = device_.value() == 0 ? Memory::host : Memory::device;
    return tensor;
  }
  [[nodiscard]] std::vector<float> values() { return {data(), data() + host_.size()}; }

 private:
  float* data() { return device_.value() == 0 ? host_.data() : RecordingCuda::at<float>(device_.value()); }

  std::shared_ptr<RecordingCuda> cuda_;
  std::vector<float> host_;
  std::vector<std::int64_t> shape_;
  plainconv::Handle device_;
};

std::vector<float> values_of(std::int64_t batch, int seed) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < batch * row; ++i) {
    values.push_back(static_cast<float>((seed * 31 + i * 7) % 101));
  }
  return values;
}

/// One call; where `on_gpu` says so (bit i of input i, then of output i) with tensors in the memory of a device.
struct Result {
  std::vector<std::vector<float>> found;
  std::vector<std::vector<float>> wanted;
  [[nodiscard]] bool right() const { return found == wanted; }
};

Result called(plainconv::Runner& runner, const RecordedNetwork& net, const std::shared_ptr<RecordingCuda>& cuda,
              std::int64_t batch, int seed, unsigned on_gpu = 0, int device = 0) {
  std::vector<std::vector<float>> given;
  std::vector<CallersTensor> inputs;
  std::vector<CallersTensor> outputs;
  std::vector<plainconv::ConstTensor> reads;
  std::vector<plainconv::Tensor> writes;
  unsigned bit = 1;
  for (std::size_t i = 0; i < net.manifest.inputs.size(); ++i, bit <<= 1U) {
    given.push_back(values_of(batch, seed + static_cast<int>(i)));
    inputs.emplace_back(cuda, given.back(), (on_gpu & bit) != 0 ? device : plainconv::host_memory);
  }
  for (std::size_t i = 0; i < net.manifest.outputs.size(); ++i, bit <<= 1U) {
    outputs.emplace_back(cuda, std::vector<float>(given[0].size(), -1.F),
                         (on_gpu & bit) != 0 ? device : plainconv::host_memory);
  }
  for (auto& input : inputs) {
    const auto view = input.view();
    reads.push_back({view.dtype, view.shape, view.bytes, view.memory});
  }
  std::ranges::transform(outputs, std::back_inserter(writes), &CallersTensor::view);
  runner.run(reads, writes);
  Result result{{}, net.reference(given)};
  std::ranges::transform(outputs, std::back_inserter(result.found), &CallersTensor::values);
  return result;
}

bool right(plainconv::Runner& runner, const RecordedNetwork& net, const std::shared_ptr<RecordingCuda>& cuda, int seed,
           std::int64_t batch = 2) {
  return called(runner, net, cuda, batch, seed).right();
}

std::shared_ptr<RecordingCuda> a_cuda(unsigned seed = 0) { return std::make_shared<RecordingCuda>(seed); }

/// Nothing went against a rule and everything was given back.
void check_clean(const RecordingCuda& cuda) {
  CHECK(cuda.broken() == "");
  CHECK(cuda.empty());
}

/// What a call throws.
std::string refused(plainconv::Runner& runner, const RecordedNetwork& net, const std::shared_ptr<RecordingCuda>& cuda,
                    std::int64_t batch = 2, unsigned on_gpu = 0, int device = 0) {
  const auto error = thrown_by<EngineError>([&] { (void)called(runner, net, cuda, batch, 1, on_gpu, device); });
  CHECK(error.find('\n') == std::string::npos);
  return error;
}

}  // namespace

TEST_CASE("a whole network runs on one stream without an event, then as a graph") {
  const auto cuda = a_cuda();
  auto net = whole();
  {
    const auto runner = net.runner(cuda, {0});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    const std::vector<std::string> wanted = {"to device", "to device", "execute", "to host", "to host"};
    std::vector<std::string> found;
    std::ranges::copy_if(cuda->calls, std::back_inserter(found), [](const std::string& name) {
      return name != "use_device" && name != "shape" && name != "address";
    });
    CHECK(found == wanted);
    CHECK(right(*runner, net, cuda, 2));  // on contexts of its own
    CHECK(right(*runner, net, cuda, 3));  // captured
    CHECK(cuda->graphs() == 1);
    for (int seed = 4; seed < 8; ++seed) {
      cuda->calls.clear();
      CHECK(right(*runner, net, cuda, seed));
      CHECK(cuda->calls == std::vector<std::string>{"launch"});
    }
    CHECK(cuda->count("create_event") == 0);
  }
  check_clean(*cuda);
}

TEST_CASE("between input and output nothing waits: parts are enqueued, and streams wait by events") {
  const auto cuda = a_cuda();
  auto net = diamond();
  net.why_not_captured = "no";
  {
    const auto runner = net.runner(cuda, {0, 1});
    CHECK(right(*runner, net, cuda, 1));
    cuda->calls.clear();
    cuda->hold = true;
    std::thread caller([&] { CHECK(right(*runner, net, cuda, 2)); });
    for (;;) {  // all of it is enqueued while nothing has run
      const std::scoped_lock lock(cuda->mutex);
      if (cuda->count("to host") == 1) {
        break;
      }
    }
    {
      const std::scoped_lock lock(cuda->mutex);
      CHECK(cuda->count("execute") == 3);
      CHECK(cuda->count("to device") == 2);
      CHECK(cuda->count("to peer") == 2);
      cuda->hold = false;
    }
    caller.join();
  }
  check_clean(*cuda);
}

TEST_CASE("tensors in GPU memory are read and written in place") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{0}}, std::pair{&diamond, std::vector{0, 1}}}) {
    const auto cuda = a_cuda(3);
    auto net = make();
    const unsigned all = (1U << (net.manifest.inputs.size() + net.manifest.outputs.size())) - 1U;
    {
      const auto runner = net.runner(cuda, devices);
      for (int seed = 0; seed < 5; ++seed) {
        cuda->calls.clear();
        CHECK(called(*runner, net, cuda, 3, seed, all).right());
        CHECK(cuda->count("to device") + cuda->count("to host") == 0);
      }
      for (unsigned some = 0; some <= all; ++some) {
        CHECK(called(*runner, net, cuda, 2, static_cast<int>(some), some).right());
      }
    }
    check_clean(*cuda);
  }
}

TEST_CASE("tensors in memory that the engine cannot take are refused in one line") {
  const auto cuda = a_cuda();
  auto net = whole();
  {
    const auto runner = net.runner(cuda, {0});
    CHECK(refused(*runner, net, cuda, 2, 1, 1) == "input a is on GPU 1, the engine on GPU 0; copy it there first");
    CHECK(refused(*runner, net, cuda, 2, 4, 1) == "output y is on GPU 1, the engine on GPU 0; copy it there first");
    const plainconv::UsingDevice home(*cuda, 0);
    const auto odd = cuda->allocate(512) + 32;
    std::vector<float> host(8);
    const std::array<std::int64_t, 2> shape{2, row};
    auto a = plainconv::input(std::span<const float>(RecordingCuda::at<float>(odd), 8), shape, Memory::device);
    const auto b = plainconv::input(std::span<const float>(host), shape);
    const auto ask = [&] { return thrown_by<EngineError>([&] { (void)runner->run_to_arrays(std::array{a, b}); }); };
    CHECK(ask() == "input a begins at an address that is no multiple of 256, as the engine wants; give a copy");
    a = plainconv::input(std::span<const float>(host), shape, Memory::device);
    CHECK(ask() == "input a is not in GPU memory, as its Memory says; give it as Memory::host");
    cuda->free(odd - 32);
    CHECK(right(*runner, net, cuda, 1));
  }
  check_clean(*cuda);
}

TEST_CASE("a runner that is on the CPU refuses tensors in GPU memory") {
  const auto net = copying_network();
  std::array<float, 8> x{};
  std::array<float, 8> y{};
  const std::array<std::int64_t, 2> shape{2, 4};
  auto in = plainconv::input(std::span<const float>(x), shape);
  auto out = plainconv::output(std::span<float>(y), shape, Memory::device);
  const auto ask = [&] { return thrown_by<EngineError>([&] { net.run({&in, 1}, {&out, 1}); }); };
  CHECK(ask() == "output y is on the GPU, and this runner is on the CPU; copy it to the host");
  in.memory = Memory::device;
  CHECK(ask() == "input x is on the GPU, and this runner is on the CPU; copy it to the host");
  CHECK(thrown_by<EngineError>([&] { (void)net.run({&in, 1}); }) == ask());
}

TEST_CASE("any schedule gives what the network does, in whatever order its work runs") {
  std::mt19937 random(1);
  const auto below = [&](std::size_t most) { return random() % most; };
  for (int round = 0; round < 300; ++round) {
    RecordedNetwork net;
    net.add_input("a");
    net.add_input("b");
    std::vector<std::pair<std::optional<std::string>, std::string>> values = {{std::nullopt, "a"}, {std::nullopt, "b"}};
    const std::size_t parts = 1 + below(6);
    const std::size_t devices = 1 + below(3);
    for (std::size_t at = 0; at < parts; ++at) {
      auto reads = values;
      std::ranges::shuffle(reads, random);
      reads.resize(1 + below(std::min<std::size_t>(reads.size(), 3)));
      const std::string name = "p" + std::to_string(at);
      std::vector<std::string> writes;
      for (std::size_t k = 0; k < 1 + below(2); ++k) {
        writes.push_back("v" + std::to_string(at) + std::to_string(k));
        values.emplace_back(name, writes.back());
      }
      net.add_part(name, static_cast<std::int64_t>(below(devices)), static_cast<std::int64_t>(below(2)), reads, writes);
    }
    for (const auto& [from, name] : values) {
      if (below(3) == 0 || net.manifest.outputs.empty()) {
        net.add_output(name, from);
      }
    }
    net.scratch = below(2) * 500;
    net.why_not_captured = below(3) == 0 ? "no" : "";
    if (below(2) == 0) {
      net.batches = {{1, 2}, {3, 4}};
    }
    const auto cuda = a_cuda(static_cast<unsigned>(round));
    std::vector<int> numbers;
    for (std::size_t i = 0; i < devices; ++i) {
      numbers.push_back(static_cast<int>(below(2) * i));
    }
    if (below(2) == 0) {
      cuda->peers.emplace();
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
          if (below(2) == 0) {
            cuda->peers->insert({i, j});
          }
        }
      }
    }
    {
      const auto runner = net.runner(cuda, numbers);
      const unsigned ends = 1U << (2 + net.manifest.outputs.size());
      const std::array<unsigned, 3> masks = {0, static_cast<unsigned>(below(ends)), ends - 1};
      for (int seed = 0; seed < 10; ++seed) {
        CHECK(called(*runner, net, cuda, static_cast<std::int64_t>(1 + 2 * below(2)), seed, masks.at(below(3)),
                     numbers[0])
                  .right());
      }
      CHECK(runner->why_not_captured() == net.why_not_captured);
    }
    check_clean(*cuda);
  }
}

TEST_CASE("every wait is needed: without it two pieces of work meet on the same memory, or the host reads too early") {
  auto net = diamond();
  net.why_not_captured = "no";
  const auto schedule = schedule_of(net.split, net.manifest);
  const auto program = program_of(plainconv::Layout(schedule, {0, 1}, 2), {false, false, false});
  std::set<std::size_t> last;
  std::size_t wait = 0;
  std::size_t needed = 0;
  for (std::size_t at = 0; at < program.works.size(); ++at) {
    for (const std::size_t other : program.works[at].after) {
      ++wait;
      if (at + 1 == program.works.size()) {
        last.insert(wait);
      } else if (other != 0) {  // the beginning of a first request has nothing before it
        const auto cuda = a_cuda();
        cuda->forgotten = {wait};
        ++needed;
        const auto runner = net.runner(cuda, {0, 1});
        (void)right(*runner, net, cuda, 1);
        CHECK(contains(cuda->broken(), "neither waits for the other"));
      }
    }
  }
  CHECK(needed >= 6);
  int wrong = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    const auto cuda = a_cuda(seed);
    cuda->forgotten = last;
    const auto runner = net.runner(cuda, {0, 1});
    wrong += right(*runner, net, cuda, 1) && cuda->astray.empty() ? 0 : 1;
    cuda->drain();
  }
  CHECK(wrong > 0);
}

TEST_CASE("peer access is enabled once each way; where there is none the host is between") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0, 1});
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("reach") == 2);
  }
  cuda->peers = std::set<std::pair<int, int>>{{1, 0}};
  {
    const auto runner = net.runner(cuda, {0, 1});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("to peer") == 1);
    CHECK(cuda->count("to host") == 2);
  }
  cuda->peers.reset();
  cuda->fail["reach"] = 2;
  {
    const auto runner = net.runner(cuda, {0, 1});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("to peer") == 0);
  }
  {
    const auto runner = net.runner(cuda, {2, 2});
    cuda->calls.clear();
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->count("to peer") + cuda->count("reach") + cuda->count("can_reach") == 0);
  }
  check_clean(*cuda);
}

TEST_CASE("shapes that no profile covers are refused before anything is enqueued") {
  auto net = diamond();
  net.batches = {{1, 1}, {3, 4}};
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0, 1});
    cuda->calls.clear();
    CHECK(refused(*runner, net, cuda, 2) ==
          "a [2, 4], b [2, 4] is in no optimization profile of the engine (profile 0: a [1, 4] to [1, 4], b [1, 4] to "
          "[1, 4]; profile 1: a [3, 4] to [4, 4], b [3, 4] to [4, 4]); split it, or build the engine for it");
    CHECK(cuda->count("execute") == 0);
    for (int seed = 0; seed < 8; ++seed) {
      CHECK(right(*runner, net, cuda, seed, 1 + seed % 2 * 3));
    }
  }
  check_clean(*cuda);
}

TEST_CASE("graphs are bounded: those not used for longest go") {
  auto net = whole();
  net.batches = {{1, 40}};
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0});
    for (int batch = 1; batch <= 20; ++batch) {
      for (int again = 0; again < 4; ++again) {
        CHECK(right(*runner, net, cuda, again, batch));
      }
    }
    CHECK(cuda->graphs() == 16);
    CHECK(net.engines[0]->contexts == 17);
  }
  check_clean(*cuda);
}

TEST_CASE("a capture that fails leaves the call right, and after three there are no more") {
  for (const char* step : {"begin_capture", "end_capture", "capture"}) {
    auto net = diamond();
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(cuda, {0, 1});
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

TEST_CASE("whichever call of CUDA fails, opening or running: one line, nothing leaks, and the next request is right") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{0}}, std::pair{&diamond, std::vector{0, 1}}}) {
    std::size_t failed = 0;
    for (std::size_t at = 1;; ++at) {
      auto net = make();
      net.scratch = 300;
      const auto cuda = a_cuda(static_cast<unsigned>(at));
      std::unique_ptr<plainconv::TensorRTRunner> runner;
      cuda->fail_at = at;
      bool all_right = true;
      const auto error = thrown_by<EngineError>([&] {
        runner = net.runner(cuda, devices);
        for (int seed = 0; seed < 4; ++seed) {
          all_right = right(*runner, net, cuda, seed) && all_right;
        }
      });
      if (cuda->failed.empty()) {
        break;
      }
      failed += error.empty() ? 0 : 1;
      CAPTURE(cuda->failed);
      CHECK(error.find('\n') == std::string::npos);
      const bool is_lost = cuda->failed == "idle";  // who cannot ask whether work has ended can free nothing
      CHECK(contains(error, "a GPU failed while ") == is_lost);
      if (runner != nullptr && !is_lost) {
        for (int seed = 4; seed < 7; ++seed) {
          all_right = right(*runner, net, cuda, seed) && all_right;
        }
      }
      CHECK(all_right);
      runner.reset();
      CHECK(cuda->broken() == "");
      CHECK((is_lost || cuda->empty()));
    }
    CHECK(failed > 40);
  }
}

TEST_CASE("a part that refuses is named, and the next request runs") {
  for (std::size_t part = 0; part < 3; ++part) {
    for (int calls = 0; calls < 3; ++calls) {
      auto net = diamond();
      const auto cuda = a_cuda();
      {
        const auto runner = net.runner(cuda, {0, 1});
        for (int seed = 0; seed < calls; ++seed) {
          CHECK(right(*runner, net, cuda, seed));
        }
        net.engines[part]->refuses = {"execute"};
        for (int again = 0; again < 2; ++again) {
          CHECK(contains(refused(*runner, net, cuda),
                         plainconv::text("part p", part, " on GPU ", part == 1 ? 1 : 0, ": the engine did not run")));
          CHECK_FALSE(cuda->busy());
        }
        net.engines[part]->refuses = {"shape"};
        CHECK(contains(refused(*runner, net, cuda, 4), "the engine does not take "));
        net.engines[part]->refuses = {};
        for (int seed = 0; seed < 5; ++seed) {
          CHECK(right(*runner, net, cuda, seed, 4));
        }
      }
      check_clean(*cuda);
    }
  }
}

TEST_CASE("a part that does not suit from the start is named, and nothing stays") {
  for (const auto& [refuses, message] :
       {std::pair{"context", "part p1 on GPU 1: the engine gives no execution context"},
        std::pair{"data", "part p1 on GPU 1: the shape of v2 depends on the data"},
        std::pair{"shape", "part p1 on GPU 1: the engine does not take v0 of shape [4, 4]"}}) {
    auto net = diamond();
    net.engines = {std::make_shared<EngineFacts>(), std::make_shared<EngineFacts>(), std::make_shared<EngineFacts>()};
    net.engines[1]->refuses = {refuses};
    const auto cuda = a_cuda();
    CHECK(contains(thrown_by<EngineError>([&] { (void)net.runner(cuda, {0, 1}); }), message));
    CHECK(cuda->device() == 0);
    check_clean(*cuda);
  }
}

TEST_CASE("a part that refuses its buffers is named, and the next request runs") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0, 1});
    net.engines[1]->refuses = {"address"};
    CHECK(refused(*runner, net, cuda) == "part p1 on GPU 1: the engine takes no buffer for v0; build it again");
    net.engines[1]->refuses = {};
    CHECK(right(*runner, net, cuda, 1));
  }
  check_clean(*cuda);
}

TEST_CASE("engines that are not those of the split are refused") {
  auto net = diamond();
  const auto cuda = a_cuda();
  const auto refuse = [&](std::size_t parts, std::vector<int> devices, const std::string& tensor) {
    return thrown_by<EngineError>([&] {
      std::vector<plainconv::PartEngine> made;
      for (std::size_t at = 0; at < parts; ++at) {
        auto facts = std::make_shared<EngineFacts>();
        std::ranges::transform(net.split.parts[at].inputs, std::back_inserter(facts->ins),
                               &plainconv::TensorRecord::name);
        facts->outs = {tensor};
        made.push_back({net.split.parts[at].name,
                        0,
                        0,
                        {},
                        plainconv::OnDevice<plainconv::Engine>(new RecordingEngine(cuda, facts), {cuda.get(), 0})});
      }
      const plainconv::TensorRTRunner runner(cuda, net.manifest, net.split, std::move(devices), std::move(made), {},
                                             std::chrono::seconds(1));
    });
  };
  CHECK(contains(refuse(2, {0, 0}, "v0"), "they are p0, p1, wanted p0, p1, p2"));
  CHECK(contains(refuse(3, {0}, "v0"), "the plan uses 2 devices, 1 are given"));
  CHECK(contains(refuse(3, {0, 2}, "v0"), "p1 is on GPU 0, wanted GPU 2"));
  CHECK(refuse(3, {0, 0}, "v0") ==
        "the engine of part p0 has tensors ['a', 'v0'], its bundle says ['a', 'v0', 'v1']; build it again");
  check_clean(*cuda);
}

TEST_CASE("what does not end is given up in time; the runner is lost, and frees nothing that a GPU may be at") {
  auto net = diamond();
  net.timeout = std::chrono::milliseconds(50);
  const auto cuda = a_cuda();
  std::vector<std::shared_ptr<EngineFacts>> engines;
  {
    const auto runner = net.runner(cuda, {0, 1});
    CHECK(right(*runner, net, cuda, 1));
    net.engines[1]->refuses = {"end"};
    CHECK(refused(*runner, net, cuda, 3) ==
          "the request did not end within 0.05 s: no end of p1 on GPU 1, p2 on GPU 0; load the bundle again, in a new "
          "process if the GPU still hangs");
    cuda->calls.clear();
    CHECK(contains(refused(*runner, net, cuda, 3), "the runner is lost: the request did not end within 0.05 s"));
    CHECK(cuda->calls.empty());
    engines = net.engines;
  }
  CHECK(cuda->count("free") + cuda->count("free_host") + cuda->count("destroy_stream") == 0);
  CHECK(std::ranges::all_of(engines, [](const auto& each) { return each->contexts > 0; }));
  CHECK(cuda->broken() == "");
}

TEST_CASE("a graph that does not end, and a whole network, say what is known") {
  for (const auto& [make, devices, message] :
       {std::tuple{&whole, std::vector{0}, "no end of the network, a CUDA graph;"},
        std::tuple{&diamond, std::vector{0, 1},
                   "no end of one of p0, p1, p2, a CUDA graph, which does not say of which;"}}) {
    auto net = make();
    net.timeout = std::chrono::milliseconds(50);
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(cuda, devices);
      for (int seed = 0; seed < 4; ++seed) {
        CHECK(right(*runner, net, cuda, seed));
      }
      cuda->hold = true;
      CHECK(contains(refused(*runner, net, cuda), message));
      cuda->hold = false;  // it ends after all: then everything can be given back
      cuda->drain();
    }
    check_clean(*cuda);
  }
}

TEST_CASE("a lane that cannot be made, as something never ends, keeps what it has") {
  auto net = diamond();
  net.timeout = std::chrono::milliseconds(50);
  const auto cuda = a_cuda();
  cuda->hold = true;
  CHECK(contains(thrown_by<EngineError>([&] {
                   (void)net.runner(cuda, {0, 1});
                 }),
                 "what it waits for has not ended, and no part has begun"));
  CHECK(cuda->count("free") + cuda->count("destroy_stream") == 0);
  CHECK(cuda->broken() == "");
}

TEST_CASE("a GPU that is lost is named with what ran there") {
  auto net = diamond();
  net.timeout = std::chrono::milliseconds(200);
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0, 1});
    for (int seed = 0; seed < 4; ++seed) {
      CHECK(right(*runner, net, cuda, seed));
    }
    net.engines[1]->refuses = {"crash"};
    CHECK(contains(refused(*runner, net, cuda),
                   "GPU 1 failed while parts p1 ran there (CUDA failed (device 1: unspecified launch failure)"));
    CHECK(contains(refused(*runner, net, cuda), "the runner is lost: GPU 1 failed while parts p1 ran there"));
  }
  CHECK(cuda->broken() == "");
}

TEST_CASE("threads at the same time have lanes of their own, and each gets its own results") {
  for (const auto& [make, devices] : {std::pair{&whole, std::vector{1}}, std::pair{&diamond, std::vector{0, 1}}}) {
    auto net = make();
    net.scratch = 500;
    const auto cuda = a_cuda();
    {
      const auto runner = net.runner(cuda, devices);
      std::atomic<int> wrong = 0;
      std::vector<std::thread> threads;
      for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
          for (int round = 0; round < 25; ++round) {
            wrong += right(*runner, net, cuda, 100 * thread + round, 1 + round % 4) ? 0 : 1;
          }
        });
      }
      for (auto& thread : threads) {
        thread.join();
      }
      CHECK(wrong == 0);
      CHECK(runner->lanes() >= 1);
      CHECK(runner->lanes() <= 4);
    }
    check_clean(*cuda);
  }
}

TEST_CASE("a second call begins while the first still runs") {
  auto net = diamond();
  net.why_not_captured = "no";
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0, 1});
    std::thread first([&] { CHECK(right(*runner, net, cuda, 1)); });
    std::thread second([&] { CHECK(right(*runner, net, cuda, 2)); });
    first.join();
    second.join();
    cuda->calls.clear();
    cuda->hold = runner->lanes() == 2;
    std::thread third([&] { CHECK(right(*runner, net, cuda, 3)); });
    std::thread fourth([&] { CHECK(right(*runner, net, cuda, 4)); });
    while (cuda->hold) {
      const std::scoped_lock lock(cuda->mutex);
      cuda->hold = cuda->count("execute") < 6;
    }
    third.join();
    fourth.join();
  }
  check_clean(*cuda);
}

TEST_CASE("a thread that uses another GPU does so again afterwards") {
  auto net = diamond();
  const auto cuda = a_cuda();
  cuda->use_device(5);
  {
    const auto runner = net.runner(cuda, {0, 1});
    CHECK(cuda->device() == 5);
    CHECK(right(*runner, net, cuda, 1));
    CHECK(cuda->device() == 5);
    net.engines[1]->refuses = {"execute"};
    CHECK_FALSE(refused(*runner, net, cuda).empty());
    CHECK(cuda->device() == 5);
  }
  CHECK(cuda->device() == 5);
  check_clean(*cuda);
}

TEST_CASE("results come as new arrays where their shape is not known before") {
  auto net = diamond();
  const auto cuda = a_cuda();
  {
    const auto runner = net.runner(cuda, {0, 1});
    const auto a = values_of(3, 1);
    const auto b = values_of(3, 2);
    const std::array<std::int64_t, 2> shape{3, row};
    const auto arrays = runner->run_to_arrays(std::array{plainconv::input(std::span<const float>(a), shape),
                                                         plainconv::input(std::span<const float>(b), shape)});
    const auto wanted = net.reference({a, b})[0];
    CHECK(arrays.at(0).shape == std::vector<std::int64_t>{3, row});
    CHECK(std::memcmp(arrays[0].bytes.data(), wanted.data(), arrays[0].bytes.size()) == 0);
  }
  check_clean(*cuda);
}
