#include "metrics.hpp"

#include <algorithm>
#include <charconv>

#include "text.hpp"

namespace plainconv::serve {
namespace {

/// An integer as one, up to 17 digits.
std::string digits_of(double value) {
  constexpr int most_digits = 17;
  std::array<char, 32> digits{};
  return {
      digits.data(),
      std::to_chars(digits.data(), digits.data() + digits.size(), value, std::chars_format::general, most_digits).ptr};
}

/// Names of models have no character that would have to be escaped; see model_name_of.
std::string labels_of(std::string_view model, std::string_view reason = "") {
  return text(R"(model=")", model, R"(",version="1")", reason.empty() ? "" : text(R"(,reason=")", reason, "\""));
}

void append_head(std::string& all, std::string_view name, std::string_view help, std::string_view type) {
  all += text("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

}  // namespace

std::vector<double> Metrics::second_bounds() {
  return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30};
}

void Metrics::answered(int status) {
  const std::scoped_lock lock(mutex_);
  ++answers_[status];
}

void Metrics::ran(std::int64_t count, Seconds took) {
  const std::scoped_lock lock(mutex_);
  counts_[rows] += static_cast<double>(count);
  counts_[runs] += 1;
  counted_[rows] = counted_[runs] = true;
  compute_.observe(took.count());
  rows_.observe(static_cast<double>(count));
}

void Metrics::succeeded(Seconds total, Seconds queued, Seconds computed) {
  constexpr double microseconds = 1e6;
  const std::scoped_lock lock(mutex_);
  counts_[success] += 1;
  counts_[request_us] += total.count() * microseconds;
  counts_[queue_us] += queued.count() * microseconds;
  counts_[compute_us] += computed.count() * microseconds;
  counted_[success] = counted_[request_us] = counted_[queue_us] = counted_[compute_us] = true;
  request_.observe(total.count());
  queue_.observe(queued.count());
}

void Metrics::failed(bool is_known, std::string_view reason) {
  const std::scoped_lock lock(mutex_);
  failures_[{is_known ? model_ : "", std::string(reason)}] += 1;
}

std::string Metrics::text(std::size_t waiting, bool is_ready) const {
  std::string all;
  const std::string labels = labels_of(model_);
  const std::scoped_lock lock(mutex_);
  const auto counter = [&](std::string_view name, std::string_view help, Counter which) {
    append_head(all, name, help, "counter");
    if (counted_.at(which)) {
      all += plainconv::text(name, "{", labels, "} ", digits_of(counts_.at(which)), "\n");
    }
  };
  counter("nv_inference_request_success", "Requests that got a result", success);
  append_head(all, "nv_inference_request_failure", "Requests that got none, by reason", "counter");
  for (const auto& [key, count] : failures_) {
    all += plainconv::text("nv_inference_request_failure{", labels_of(key.first, key.second), "} ", digits_of(count),
                           "\n");
  }
  counter("nv_inference_count", "Rows computed", rows);
  counter("nv_inference_exec_count", "Runs of the model", runs);
  counter("nv_inference_request_duration_us", "Microseconds of all requests, from their decoding to their result",
          request_us);
  counter("nv_inference_queue_duration_us", "Microseconds that requests waited", queue_us);
  counter("nv_inference_compute_infer_duration_us", "Microseconds of the runs that requests were in", compute_us);
  append_head(all, "nv_inference_pending_request_count", "Requests that wait now", "gauge");
  all += plainconv::text("nv_inference_pending_request_count{", labels, "} ", waiting, "\n");
  append_head(all, "plainconv_model_ready", "Whether a model that is loaded can compute", "gauge");
  all += plainconv::text("plainconv_model_ready{", labels, "} ", is_ready ? 1 : 0, "\n");
  for (const Histogram* histogram : {&request_, &queue_, &compute_, &rows_}) {
    histogram->append(all, labels);
  }
  append_head(all, "plainconv_answers_total", "Answers of any kind", "counter");
  for (const auto& [status, count] : answers_) {
    all += plainconv::text(R"(plainconv_answers_total{protocol="http",status=")", status, R"("} )", count, "\n");
  }
  return all;
}

Metrics::Histogram::Histogram(std::string_view name, std::string_view help, std::vector<double> bounds)
    : name_(name), help_(help), bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Metrics::Histogram::observe(double value) {
  ++counts_[static_cast<std::size_t>(std::ranges::lower_bound(bounds_, value) - bounds_.begin())];
  sum_ += value;
  ++count_;
}

void Metrics::Histogram::append(std::string& all, const std::string& labels) const {
  append_head(all, name_, help_, "histogram");
  if (count_ == 0) {
    return;
  }
  std::uint64_t so_far = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    so_far += counts_[i];
    const std::string bound = i < bounds_.size() ? decimal(bounds_[i]) : "+Inf";
    all += plainconv::text(name_, R"(_bucket{le=")", bound, R"(",)", labels, "} ", so_far, "\n");
  }
  all +=
      plainconv::text(name_, "_count{", labels, "} ", count_, "\n", name_, "_sum{", labels, "} ", decimal(sum_), "\n");
}

}  // namespace plainconv::serve
