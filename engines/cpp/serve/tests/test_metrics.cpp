#include <doctest/doctest.h>

#include "doubles.hpp"
#include "metrics.hpp"

using plainconv::serve::Loaded;
using plainconv::serve::Metrics;
using plainconv::serve::Seconds;

TEST_CASE("what was counted is told as Prometheus reads it") {
  Metrics metrics;
  metrics.ran("tiny", 3, Seconds(0.004));
  metrics.succeeded("tiny", {Seconds(0.5), Seconds(0.25), Seconds(0.001), Seconds(0.004), Seconds(0.002)});
  metrics.failed("tiny", "REJECTED", Seconds(0.25));
  metrics.failed("", "OTHER", Seconds(0));
  metrics.answered("http", "200");
  metrics.answered("http", "200");
  metrics.answered("http", "404");
  const std::array loaded = {Loaded{"new", 0, false}, Loaded{"tiny", 7, true}};
  const std::string text = metrics.text(loaded);
  for (const std::string& line : std::vector<std::string>{
           "nv_inference_request_success{model=\"tiny\",version=\"1\"} 1\n",
           "nv_inference_request_failure{model=\"tiny\",version=\"1\",reason=\"REJECTED\"} 1\n",
           "nv_inference_request_failure{model=\"tiny\",version=\"1\",reason=\"BACKEND\"} 0\n",
           "nv_inference_request_failure{model=\"\",version=\"1\",reason=\"OTHER\"} 1\n",
           "nv_inference_count{model=\"tiny\",version=\"1\"} 3\n",
           "nv_inference_exec_count{model=\"tiny\",version=\"1\"} 1\n",
           "nv_inference_request_duration_us{model=\"tiny\",version=\"1\"} 500000\n",
           "nv_inference_queue_duration_us{model=\"tiny\",version=\"1\"} 250000\n",
           "nv_inference_compute_input_duration_us{model=\"tiny\",version=\"1\"} 1000\n",
           "nv_inference_compute_infer_duration_us{model=\"tiny\",version=\"1\"} 4000\n",
           "nv_inference_compute_output_duration_us{model=\"tiny\",version=\"1\"} 2000\n",
           "nv_inference_count{model=\"new\",version=\"1\"} 0\n",
           "plainconv_model_ready{model=\"new\",version=\"1\"} 0\n",
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

TEST_CASE("what was counted of a model is told as Triton's clients ask for it") {
  Metrics metrics;
  metrics.ran("m", 2, Seconds(0.5));
  metrics.ran("m", 2, Seconds(0.5));
  metrics.ran("m", 1, Seconds(0.25));
  metrics.succeeded("m", {Seconds(1), Seconds(0.25), Seconds(0), Seconds(0.5), Seconds(0)});
  metrics.failed("m", "OTHER", Seconds(0.125));
  const std::string all = metrics.statistics("m");
  for (const char* part :
       {R"("inference_count":5)", R"("execution_count":3)", R"("success":{"count":1,"ns":1000000000})",
        R"("fail":{"count":1,"ns":125000000})", R"("queue":{"count":1,"ns":250000000})",
        R"({"batch_size":2,"compute_infer":{"count":2,"ns":1000000000}})"}) {
    CAPTURE(part);
    CHECK(contains(all, part));
  }
  CHECK(contains(metrics.statistics("none"), R"("inference_count":0)"));
}
