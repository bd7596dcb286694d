#include <doctest/doctest.h>

#include "doubles.hpp"
#include "metrics.hpp"

using plainconv::serve::Metrics;
using plainconv::serve::Seconds;

TEST_CASE("what was counted is told as Prometheus reads it") {
  Metrics metrics("tiny");
  metrics.ran(3, Seconds(0.004));
  metrics.succeeded(Seconds(0.5), Seconds(0.25), Seconds(0.004));
  metrics.failed(true, "REJECTED");
  metrics.failed(false, "OTHER");
  metrics.answered(200);
  metrics.answered(200);
  metrics.answered(404);
  const std::string text = metrics.text(7, true);
  for (const std::string& line : std::vector<std::string>{
           "nv_inference_request_success{model=\"tiny\",version=\"1\"} 1\n",
           "nv_inference_request_failure{model=\"tiny\",version=\"1\",reason=\"REJECTED\"} 1\n",
           "nv_inference_request_failure{model=\"\",version=\"1\",reason=\"OTHER\"} 1\n",
           "nv_inference_count{model=\"tiny\",version=\"1\"} 3\n",
           "nv_inference_exec_count{model=\"tiny\",version=\"1\"} 1\n",
           "nv_inference_request_duration_us{model=\"tiny\",version=\"1\"} 500000\n",
           "nv_inference_queue_duration_us{model=\"tiny\",version=\"1\"} 250000\n",
           "nv_inference_pending_request_count{model=\"tiny\",version=\"1\"} 7\n",
           "plainconv_model_ready{model=\"tiny\",version=\"1\"} 1\n",
           "plainconv_batch_rows_bucket{le=\"2.0\",model=\"tiny\",version=\"1\"} 0\n",
           "plainconv_batch_rows_bucket{le=\"4.0\",model=\"tiny\",version=\"1\"} 1\n",
           "plainconv_batch_rows_bucket{le=\"+Inf\",model=\"tiny\",version=\"1\"} 1\n",
           "plainconv_request_seconds_bucket{le=\"0.5\",model=\"tiny\",version=\"1\"} 1\n",
           "plainconv_request_seconds_sum{model=\"tiny\",version=\"1\"} 0.5\n",
           "plainconv_answers_total{protocol=\"http\",status=\"200\"} 2\n",
           "plainconv_answers_total{protocol=\"http\",status=\"404\"} 1\n",
           "# TYPE nv_inference_pending_request_count gauge\n",
           "# TYPE plainconv_compute_seconds histogram\n",
       }) {
    CAPTURE(line);
    CHECK(contains(text, line));
  }
}

TEST_CASE("what was not counted yet has a description alone") {
  const std::string text = Metrics("m").text(0, false);
  CHECK(contains(text, "# TYPE nv_inference_request_success counter\n"));
  CHECK_FALSE(contains(text, "nv_inference_request_success{"));
  CHECK(contains(text, "plainconv_model_ready{model=\"m\",version=\"1\"} 0\n"));
}
