#include "metrics.hpp"

#include <algorithm>
#include <charconv>
#include <functional>

#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::array seconds_bounds = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                       0.2,    0.5,   1.0,   2.0,   5.0,  10.0, 30.0};
constexpr std::array rows_bounds = {1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0};
constexpr std::array<std::string_view, 4> times = {"queue", "compute_input", "compute_infer", "compute_output"};
constexpr std::array<std::string_view, 4> reasons = {"REJECTED", "CANCELED", "BACKEND", "OTHER"};
constexpr std::int64_t thousand = 1000;

std::int64_t ns_of(Seconds seconds) { return std::chrono::duration_cast<std::chrono::nanoseconds>(seconds).count(); }

/// Names of models have no character that would have to be escaped; see places.hpp.
std::string labels_of(std::string_view model, std::string_view reason = "") {
  return text(R"(model=")", model, R"(",version="1")", reason.empty() ? "" : text(R"(,reason=")", reason, "\""));
}

void append_head(std::string& all, std::string_view name, std::string_view help, std::string_view type) {
  all += text("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

template <class T>
void append_line(std::string& all, std::string_view name, const std::string& labels, T value) {
  all += text(name, "{", labels, "} ", value, "\n");
}

}  // namespace

Metrics::Counts::Counts() : request(seconds_bounds), queue(seconds_bounds), compute(seconds_bounds), rows(rows_bounds) {
  for (const std::string_view reason : reasons) {
    failed.emplace(reason, 0);
  }
}

void Metrics::answered(std::string_view protocol, std::string_view status) {
  const std::scoped_lock lock(mutex_);
  ++answers_[{std::string(protocol), std::string(status)}];
}

void Metrics::ran(const std::string& model, std::int64_t rows, Seconds took) {
  const std::scoped_lock lock(mutex_);
  Counts& counts = counts_[model];
  Runs& runs = counts.runs[rows];
  ++runs.count;
  runs.ns += ns_of(took);
  counts.compute.observe(took.count());
  counts.rows.observe(static_cast<double>(rows));
}

void Metrics::succeeded(const std::string& model, const Times& took) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const std::scoped_lock lock(mutex_);
  Counts& counts = counts_[model];
  ++counts.succeeded;
  counts.success_ns += ns_of(took.total);
  counts.last_ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::array parts = {took.queued, took.joined, took.computed, took.parted};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    counts.times_ns.at(i) += ns_of(parts.at(i));
  }
  counts.request.observe(took.total.count());
  counts.queue.observe(took.queued.count());
}

void Metrics::failed(const std::string& model, std::string_view reason, Seconds took) {
  const std::scoped_lock lock(mutex_);
  Counts& counts = counts_[model];
  ++counts.failed[std::string(reason)];
  counts.failure_ns += ns_of(took);
}

std::string Metrics::statistics(const std::string& model) const {
  const std::scoped_lock lock(mutex_);
  const auto found = counts_.find(model);
  const Counts none;
  const Counts& counts = found == counts_.end() ? none : found->second;
  const auto duration = [](std::uint64_t count, std::int64_t ns) {
    return plainconv::text(R"({"count":)", count, R"(,"ns":)", ns, "}");
  };
  std::uint64_t rows = 0;
  std::uint64_t runs = 0;
  std::uint64_t failures = 0;
  std::string batches;
  for (const auto& [size, those] : counts.runs) {
    rows += static_cast<std::uint64_t>(size) * those.count;
    runs += those.count;
    batches += plainconv::text(batches.empty() ? "" : ",", R"({"batch_size":)", size, R"(,"compute_infer":)",
                               duration(those.count, those.ns), "}");
  }
  for (const auto& [reason, count] : counts.failed) {
    failures += count;
  }
  std::string all = plainconv::text(R"({"name":")", model, R"(","version":"1","last_inference":)", counts.last_ms,
                                    R"(,"inference_count":)", rows, R"(,"execution_count":)", runs,
                                    R"(,"inference_stats":{"success":)", duration(counts.succeeded, counts.success_ns),
                                    R"(,"fail":)", duration(failures, counts.failure_ns));
  for (std::size_t i = 0; i < times.size(); ++i) {
    all += plainconv::text(",\"", times.at(i), "\":", duration(counts.succeeded, counts.times_ns.at(i)));
  }
  return all + plainconv::text(R"(},"batch_stats":[)", batches, "]}");
}

std::string Metrics::text(std::span<const Loaded> loaded) const {
  std::string all;
  const std::scoped_lock lock(mutex_);
  const Counts none;
  std::map<std::string, const Counts*> models;
  for (const Loaded& each : loaded) {
    models.emplace(each.name, &none);
  }
  for (const auto& [name, counts] : counts_) {
    models[name] = &counts;
  }
  const auto counter = [&](std::string_view name, std::string_view help,
                           const std::function<std::int64_t(const Counts&)>& of) {
    append_head(all, name, help, "counter");
    for (const auto& [model, counts] : models) {
      if (!model.empty()) {
        append_line(all, name, labels_of(model), of(*counts));
      }
    }
  };
  counter("nv_inference_request_success", "Requests that got a result",
          [](const Counts& counts) { return static_cast<std::int64_t>(counts.succeeded); });
  append_head(all, "nv_inference_request_failure", "Requests that got none, by reason", "counter");
  for (const auto& [model, counts] : models) {
    for (const auto& [reason, count] : counts->failed) {
      if (!model.empty() || count != 0) {
        append_line(all, "nv_inference_request_failure", labels_of(model, reason), count);
      }
    }
  }
  counter("nv_inference_count", "Rows computed", [](const Counts& counts) {
    std::int64_t rows = 0;
    for (const auto& [size, runs] : counts.runs) {
      rows += size * static_cast<std::int64_t>(runs.count);
    }
    return rows;
  });
  counter("nv_inference_exec_count", "Runs of the model", [](const Counts& counts) {
    std::uint64_t all_runs = 0;
    for (const auto& [size, runs] : counts.runs) {
      all_runs += runs.count;
    }
    return static_cast<std::int64_t>(all_runs);
  });
  counter("nv_inference_request_duration_us", "Microseconds of all requests, from their decoding to their result",
          [](const Counts& counts) { return counts.success_ns / thousand; });
  constexpr std::array<std::string_view, 4> help = {"Microseconds that requests waited",
                                                    "Microseconds that putting the inputs of their runs together took",
                                                    "Microseconds of the runs that requests were in",
                                                    "Microseconds that taking the outputs of their runs apart took"};
  for (std::size_t i = 0; i < times.size(); ++i) {
    counter(plainconv::text("nv_inference_", times.at(i), "_duration_us"), help.at(i),
            [i](const Counts& counts) { return counts.times_ns.at(i) / thousand; });
  }
  append_head(all, "nv_inference_pending_request_count", "Requests that wait now", "gauge");
  for (const Loaded& each : loaded) {
    append_line(all, "nv_inference_pending_request_count", labels_of(each.name), each.waiting);
  }
  append_head(all, "plainconv_model_ready", "Whether a model that is loaded can compute", "gauge");
  for (const Loaded& each : loaded) {
    append_line(all, "plainconv_model_ready", labels_of(each.name), each.is_ready ? 1 : 0);
  }
  const auto histogram = [&](std::string_view name, std::string_view said, Histogram Counts::*member) {
    append_head(all, name, said, "histogram");
    for (const auto& [model, counts] : counts_) {
      (counts.*member).append(all, name, labels_of(model));
    }
  };
  histogram("plainconv_request_seconds", "Of a request with a result", &Counts::request);
  histogram("plainconv_queue_seconds", "That a request waited", &Counts::queue);
  histogram("plainconv_compute_seconds", "Of a run of the model", &Counts::compute);
  histogram("plainconv_batch_rows", "Rows of a run of the model", &Counts::rows);
  append_head(all, "plainconv_answers_total", "Answers of any kind", "counter");
  for (const auto& [key, count] : answers_) {
    const auto& [protocol, status] = key;
    append_line(all, "plainconv_answers_total",
                plainconv::text(R"(protocol=")", protocol, R"(",status=")", status, "\""), count);
  }
  return all;
}

void Metrics::Histogram::observe(double value) {
  ++counts_[static_cast<std::size_t>(std::ranges::lower_bound(bounds_, value) - bounds_.begin())];
  sum_ += value;
  ++count_;
}

void Metrics::Histogram::append(std::string& all, std::string_view name, const std::string& labels) const {
  if (count_ == 0) {
    return;
  }
  std::uint64_t so_far = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    so_far += counts_[i];
    const std::string bound = i < bounds_.size() ? decimal(bounds_[i]) : "+Inf";
    all += plainconv::text(name, R"(_bucket{le=")", bound, R"(",)", labels, "} ", so_far, "\n");
  }
  append_line(all, plainconv::text(name, "_count"), labels, count_);
  append_line(all, plainconv::text(name, "_sum"), labels, decimal(sum_));
}

}  // namespace plainconv::serve
