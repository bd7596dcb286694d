// What the server counts, in the text that Prometheus reads. Names and their meaning are those of the Python server.
//
//     nv_inference_request_success, nv_inference_request_failure{reason}    requests
//     nv_inference_count, nv_inference_exec_count                           rows, and runs: their ratio is the mean
//     batch nv_inference_request_duration_us, nv_inference_queue_duration_us      of requests with a result
//     nv_inference_compute_input_duration_us, …_infer_…, …_output_…         of the runs they were in, and before and
//     after nv_inference_pending_request_count                                    how many wait now
//
// Histograms beside them: plainconv_request_seconds, plainconv_queue_seconds, plainconv_compute_seconds (of a run) and
// plainconv_batch_rows; plainconv_answers_total by protocol and status; plainconv_model_ready, 0 once a device was
// lost. A model has label values only once it is loaded: no request makes a new one.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "options.hpp"

namespace plainconv::serve {

inline constexpr std::string_view metrics_type = "text/plain; version=0.0.4; charset=utf-8";

/// What took how long, of a request with a result.
struct Times {
  Seconds total{0};
  Seconds queued{0};
  Seconds joined{0};
  Seconds computed{0};
  Seconds parted{0};
};

/// A model that is loaded: how many requests wait for it, and whether it can compute.
struct Loaded {
  std::string name;
  std::size_t waiting = 0;
  bool is_ready = true;
};

/// The counters of one server. From any thread. `model` is a name, "" for one that there is not.
class Metrics {
 public:
  /// Count an answer to anything, of that status.
  void answered(std::string_view protocol, std::string_view status);
  /// Count a run of a model.
  void ran(const std::string& model, std::int64_t rows, Seconds took);
  /// Count a request with a result.
  void succeeded(const std::string& model, const Times& times);
  /// Count a request without one.
  void failed(const std::string& model, std::string_view reason, Seconds took);

  /// What was counted of a model, as Triton's clients ask for it, in JSON; times in nanoseconds.
  [[nodiscard]] std::string statistics(const std::string& model) const;
  /// All of it, as Prometheus reads it.
  [[nodiscard]] std::string text(std::span<const Loaded> loaded) const;

 private:
  class Histogram {
   public:
    explicit Histogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1) {}
    void observe(double value);
    void append(std::string& all, std::string_view name, const std::string& labels) const;

   private:
    std::span<const double> bounds_;     // of static storage
    std::vector<std::uint64_t> counts_;  // not more than each bound alone; the last: beyond all
    double sum_ = 0;
    std::uint64_t count_ = 0;
  };
  struct Runs {
    std::uint64_t count = 0;
    std::int64_t ns = 0;
  };
  struct Counts {
    Counts();
    std::uint64_t succeeded = 0;
    std::map<std::string, std::uint64_t, std::less<>> failed;  // by reason
    std::int64_t success_ns = 0;
    std::int64_t failure_ns = 0;
    std::array<std::int64_t, 4> times_ns{};  // queue, compute_input, compute_infer, compute_output
    std::map<std::int64_t, Runs> runs;       // by rows
    std::int64_t last_ms = 0;
    Histogram request;
    Histogram queue;
    Histogram compute;
    Histogram rows;
  };

  mutable std::mutex mutex_;
  std::map<std::string, Counts, std::less<>> counts_;  // by model
  std::map<std::pair<std::string, std::string>, std::uint64_t> answers_;
};

}  // namespace plainconv::serve
