// One lane of a network, whole or in parts, each a TensorRT engine: its streams, on one GPU or several, and how a call
// runs.
//
// One thread enqueues all of a request, and waits once, for its end. Between, streams wait for one another by events: a
// part runs when what it reads is there, and a value that another GPU needs is copied beside the parts that run
// meanwhile. Requests of one lane follow one another, so that none finds a buffer still in use; those of several
// overlap.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tensorrt/profiles.hpp"
#include "tensorrt/program.hpp"
#include "tensorrt/ready.hpp"
#include "tensorrt/replay.hpp"
#include "tensorrt/resources.hpp"

namespace plainconv {

class Lane;

/// What the lanes of a runner share; `split` is what `schedule`, and that what `layout`, refers to.
///
/// `parts` are those of the schedule, in its order. What has not ended `timeout` after it was enqueued is given up.
struct LaneShared {
  LaneShared() = default;
  LaneShared(const LaneShared&) = delete;
  LaneShared& operator=(const LaneShared&) = delete;
  LaneShared(LaneShared&&) = delete;
  LaneShared& operator=(LaneShared&&) = delete;
  ~LaneShared();

  std::shared_ptr<Cuda> cuda;
  SplitRecord split;
  Schedule schedule;
  std::optional<Layout> layout;
  std::vector<PartEngine> parts;
  std::map<int, Handle> probes;  // of each device a stream that nothing uses: to ask whether it still works
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::vector<Profile> profiles;
  std::chrono::duration<double> timeout = std::chrono::seconds(60);
  std::mutex one_at_a_time;  // of those that ask engines for contexts

  std::mutex mutex;
  std::vector<std::unique_ptr<Lane>> given_up;  // that could not be made, as something does not end
};

/// Buffers for the largest shapes of every value, allocated once, and the streams. For one thread at a time.
///
/// A context of every part per optimization profile runs whatever comes, and `Replay` what comes again: all of a
/// request is then one CUDA graph, whose branches are the streams. Parts of one stream share scratch memory.
class Lane : private Sequencer {
 public:
  /// Throws EngineError where memory does not suffice, or an engine refuses the shapes of its own profiles.
  ///
  /// The first device of the layout is in use before.
  [[nodiscard]] static std::unique_ptr<Lane> make(LaneShared& shared);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  Lane(Lane&&) = delete;
  Lane& operator=(Lane&&) = delete;
  /// All must have `ended`.
  ~Lane() override;

  /// The shapes of the outputs, for checked inputs. Throws EngineError where no profile covers them.
  [[nodiscard]] std::vector<Shape> shapes_of_outputs(std::span<const ConstTensor> inputs);

  /// Run once on checked tensors. The first device of the layout is in use before.
  ///
  /// Throws EngineError where a part refuses, once nothing is under way any more; LostError where that takes too long
  /// or a GPU is lost. The lane cannot be used again then, and what was under way may go on.
  void run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs);

  /// Whether nothing is under way any more, for which at most that time is waited; on a lost GPU nothing is.
  [[nodiscard]] bool ended(std::chrono::duration<double> patience) noexcept;

  /// Why calls are not replayed as CUDA graphs; empty where they are.
  [[nodiscard]] const std::string& why_not_captured() const noexcept { return replay_->why_not(); }

 private:
  using Clock = std::chrono::steady_clock;

  explicit Lane(LaneShared& shared);
  void acquire();
  [[nodiscard]] std::string why_no_captures() const;

  [[nodiscard]] const ShapesOfCall& shapes_of(std::span<const ConstTensor> inputs);
  [[nodiscard]] std::vector<Shape> known_shapes(std::size_t profile, std::vector<Shape> inputs);
  [[nodiscard]] std::vector<std::size_t> largest();

  void enqueue(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs, const ShapesOfCall& shapes);
  [[nodiscard]] Contexts fresh(const Call& call, const ShapesOfCall& shapes) override;
  void sequence(Contexts& contexts, const Call& call, const ShapesOfCall& shapes, bool captured) override;
  void check_capturable(const Contexts& contexts) override;
  void bind(Contexts& contexts, const Call& call, const ShapesOfCall& shapes);
  [[nodiscard]] Contexts new_contexts(std::size_t profile, bool repeats);

  void wait_for_end();
  void wait_for_all();
  Clock::duration wait(std::span<const Address> streams, Clock::duration spin);
  void clear_up(const std::string& error);
  [[nodiscard]] std::string overdue() const;
  [[nodiscard]] std::vector<std::string> late() const;
  [[nodiscard]] std::string failed(const EngineError& error) const;

  // What is given back goes from the last to the first.
  LaneShared& shared_;
  Cuda& cuda_;
  const Layout& layout_;
  Resources held_;
  std::vector<TensorSpec> specs_;  // of each value
  ReadyPrograms programs_;
  std::map<Track, std::pair<Address, std::size_t>> scratch_;
  std::vector<Address> staged_;  // page-locked, of each input, then of each output
  std::vector<Contexts> contexts_;
  std::map<std::vector<std::int64_t>, ShapesOfCall> shapes_;
  Address home_stream_ = 0;
  Call call_;                        // of the last `run`, as are those that follow
  const Ready* enqueued_ = nullptr;  // how much of which program, where it is no graph
  std::size_t count_ = 0;
  Clock::duration took_{};  // the last wait for a request
  std::unique_ptr<Replay> replay_;
};

/// Never give back what a GPU that hangs may still use: to free it would wait for that GPU.
void keep_for_ever(std::shared_ptr<void> thing);

}  // namespace plainconv
