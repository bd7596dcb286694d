// What the server counts, in the text that Prometheus reads. Names and their meaning are those of the Python server.
//
//     nv_inference_request_success, nv_inference_request_failure{reason}    requests
//     nv_inference_count, nv_inference_exec_count                           rows, and runs: their ratio is the mean
//     batch nv_inference_request_duration_us, nv_inference_queue_duration_us, nv_inference_compute_infer_duration_us
//     nv_inference_pending_request_count                                    how many wait now
//     plainconv_model_ready                                                 0 once a device was lost
//
// Histograms beside them: plainconv_request_seconds, plainconv_queue_seconds, plainconv_compute_seconds (of a run) and
// plainconv_batch_rows, and plainconv_answers_total by protocol and status. No request makes a new label of a model.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "options.hpp"

namespace plainconv::serve {

inline constexpr std::string_view metrics_type = "text/plain; version=0.0.4; charset=utf-8";

/// The counters of one server. From any thread. `model` is its name, "" for one that there is not.
class Metrics {
 public:
  explicit Metrics(std::string model) : model_(std::move(model)) {}

  /// Count an answer to anything, of that status.
  void answered(int status);
  /// Count a run of the model.
  void ran(std::int64_t count, Seconds took);
  /// Count a request with a result: from its decoding to its result, its wait, its run.
  void succeeded(Seconds total, Seconds queued, Seconds computed);
  /// Count a request without one, of the model or of none that there is.
  void failed(bool is_known, std::string_view reason);

  /// All of it, as Prometheus reads it; `waiting` is how many requests wait, `is_ready` whether the model can compute.
  [[nodiscard]] std::string text(std::size_t waiting, bool is_ready) const;

 private:
  class Histogram {
   public:
    Histogram(std::string_view name, std::string_view help, std::vector<double> bounds);
    void observe(double value);
    void append(std::string& all, const std::string& labels) const;

   private:
    std::string_view name_;
    std::string_view help_;
    std::vector<double> bounds_;
    std::vector<std::uint64_t> counts_;  // not more than each bound alone; the last: beyond all
    double sum_ = 0;
    std::uint64_t count_ = 0;
  };
  enum Counter : std::uint8_t { success, rows, runs, request_us, queue_us, compute_us };

  [[nodiscard]] static std::vector<double> second_bounds();

  std::string model_;
  mutable std::mutex mutex_;
  std::array<double, 6> counts_{};
  std::array<bool, 6> counted_{};
  std::map<std::pair<std::string, std::string>, double> failures_;  // by model and reason
  std::map<int, std::uint64_t> answers_;                            // by status
  Histogram request_{"plainconv_request_seconds", "Of a request with a result", second_bounds()};
  Histogram queue_{"plainconv_queue_seconds", "That a request waited", second_bounds()};
  Histogram compute_{"plainconv_compute_seconds", "Of a run of the model", second_bounds()};
  Histogram rows_{"plainconv_batch_rows", "Rows of a run of the model", {1, 2, 4, 8, 16, 32, 64, 128}};
};

}  // namespace plainconv::serve
