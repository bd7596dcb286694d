#include "service.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "batch_axis.hpp"
#include "input_checks.hpp"
#include "refusals.hpp"
#include "rest_codec.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

constexpr std::string_view lost = "its device was lost";

constexpr std::size_t most_name = 128;

bool is_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

bool is_mark(char c) noexcept { return std::string_view("_.+-").find(c) != std::string_view::npos; }

std::string metadata_of(std::span<const TensorSpec> specs) {
  std::string all = "[";
  for (const TensorSpec& spec : specs) {
    all += text(&spec == specs.data() ? "" : ",", R"({"name":)", json_text(spec.name), R"(,"datatype":")",
                datatype_of(spec.dtype), R"(","shape":[)");
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      const auto* fixed = std::get_if<std::int64_t>(&spec.shape[i]);
      all += text(i == 0 ? "" : ",", fixed == nullptr ? -1 : *fixed);
    }
    all += "]}";
  }
  return all + "]";
}

/// Run it once on zeros, where no axis is free but the batch.
void warm_up(const Network& network, bool has_batch) {
  std::vector<Array> arrays;
  for (const TensorSpec& spec : network.inputs()) {
    Array& array = arrays.emplace_back(Array{spec.dtype, {}, {}});
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      const auto* fixed = std::get_if<std::int64_t>(&spec.shape[i]);
      if (fixed == nullptr && !(has_batch && i == 0)) {
        return;
      }
      array.shape.push_back(fixed == nullptr ? 1 : *fixed);
    }
    array.bytes.resize(
        std::accumulate(array.shape.begin(), array.shape.end(), size_of(spec.dtype), std::multiplies<>()));
  }
  std::vector<ConstTensor> inputs;
  inputs.reserve(arrays.size());
  for (const Array& array : arrays) {
    inputs.push_back({array.dtype, array.shape, array.bytes});
  }
  (void)network.run(inputs);
}

}  // namespace

std::string model_name_of(const std::string& wanted, const std::string& network) {
  std::string name = wanted;
  if (name.empty()) {
    for (const char c : network) {
      if (is_letter(c) || is_mark(c)) {
        name += c;
      } else if (name.empty() || name.back() != '\0') {
        name += '\0';  // one for each run of others
      }
    }
    std::ranges::replace(name, '\0', '_');
    const auto first = name.find_first_not_of("_.+-");
    name = first == std::string::npos ? "model" : name.substr(first, name.find_last_not_of("_.+-") + 1 - first);
    name.resize(std::min(name.size(), most_name));
  }
  const bool is_right = !name.empty() && name.size() <= most_name && is_letter(name.front()) &&
                        std::ranges::all_of(name, [](char c) { return is_letter(c) || is_mark(c); });
  if (!is_right) {
    throw Error(text(repr(name), " is no name of a model; wanted letters, digits and _ . + - after the first"));
  }
  return name;
}

/// What a request is in, from its body to its outputs.
struct Service::Memory {
  Body body;
  InferRequest request;
  std::vector<std::vector<std::int64_t>> shapes;  // of the outputs
  Body outputs;
};

Service::Room::Room(Service& service, std::size_t size) : service_(service), size_(size) {
  const std::size_t others = service.pending_.fetch_add(size);
  if (others != 0 && others + size > service.options_.max_pending) {
    service.pending_ -= size;
    throw too_many("the requests under way fill this server's memory; try again later");
  }
}

Service::Service(const Network& network, const ServeOptions& options, Batcher::Complain complain)
    : network_(network),
      options_(options),
      name_(model_name_of(options.name, network.name())),
      complain_(std::move(complain)),
      checks_({network.inputs().begin(), network.inputs().end()}, {network.outputs().begin(), network.outputs().end()}),
      has_batch_(has_batch_axis(network.inputs(), network.outputs())),
      metrics_(name_),
      batcher_(
          network, {has_batch_ ? options.max_batch : 0, options.max_delay, options.max_queue, options.workers},
          [this](std::int64_t rows, Seconds took) { metrics_.ran(rows, took); }, complain_) {
  warm_up(network, has_batch_);
}

void Service::check(std::string_view model, std::optional<std::string_view> version) const {
  if (version && *version != model_version) {
    throw unknown(
        text("there is no version ", as_sent(*version), " of the model; wanted ", model_version, ", or none"));
  }
  if (model != name_) {
    throw unknown(text("there is no model ", as_sent(model), "; see /v2/models"));
  }
}

bool Service::is_lost() const {
  if (!network_.lost()) {
    return false;
  }
  if (!has_complained_.exchange(true)) {
    complain_(text("model ", name_, ": ", lost, "; it is not ready any more: start the server again"));
  }
  return true;
}

std::string Service::server_metadata() {
  return R"({"name":"plainconv","version":"","extensions":["binary_tensor_data"]})";
}

std::string Service::model_metadata() const {
  const std::string_view platform = network_.backend() == "onnxruntime" ? "onnxruntime_onnx" : "tensorrt_plan";
  return text(R"({"name":)", json_text(name_), R"(,"versions":[")", model_version, R"("],"platform":")", platform,
              R"(","inputs":)", metadata_of(network_.inputs()), R"(,"outputs":)", metadata_of(network_.outputs()), "}");
}

Reply Service::infer(std::string_view model, std::string_view version, Body body,
                     std::optional<std::size_t> json_length, const std::function<bool()>& is_left, Facts& facts) {
  const bool is_known = model == name_;
  facts.model = is_known ? name_ : "";
  facts.bytes_in = body.bytes.size();
  try {
    check(model, version.empty() ? std::nullopt : std::optional(version));
    if (is_lost()) {
      throw unavailable(text("model ", name_, " cannot compute any more (", lost, ")"));
    }
    return answered(std::move(body), json_length, is_left, facts);
  } catch (const Refused& refused) {
    metrics_.failed(is_known, refused.reason());
    throw;
  }
}

Reply Service::answered(Body body, std::optional<std::size_t> json_length, const std::function<bool()>& is_left,
                        Facts& facts) {
  const auto memory = std::make_shared<Memory>();
  memory->body = std::move(body);
  memory->request = decoded(memory->body.bytes, json_length);
  const InferRequest& request = memory->request;
  facts.id = request.id;
  const auto start = Clock::now();
  const auto job = std::make_shared<Job>();
  for (const SentTensor* input : checked_inputs(request.inputs, network_.inputs())) {
    job->inputs.push_back({*input->datatype->dtype, input->shape, input->bytes});
  }
  const auto chosen = chosen_outputs(request, network_.outputs());
  check_rows(*job);
  job->rows = has_batch_ ? job->inputs.front().shape.front() : 1;
  job->timeout = std::min(request.timeout.value_or(options_.timeout), options_.timeout);
  job->deadline = start + std::chrono::duration_cast<Clock::duration>(job->timeout);
  give_outputs(*job, *memory);
  job->memory = memory;
  batcher_.submit(job);
  batcher_.wait(job, is_left);
  metrics_.succeeded(Clock::now() - start, job->queued, job->computed);
  facts.rows = job->rows;
  facts.queued = job->queued;
  facts.computed = job->computed;
  facts.batch_rows = job->batch_rows;
  Reply reply;
  std::vector<SentOutput> outputs;
  for (const Chosen& each : chosen) {
    const TensorSpec& spec = network_.outputs()[each.index];
    const auto shape = job->outputs.empty() ? job->made[each.index].shape : job->outputs[each.index].shape;
    const std::span<const std::byte> bytes =
        job->outputs.empty() ? std::span<const std::byte>(job->made[each.index].bytes) : job->outputs[each.index].bytes;
    outputs.push_back({spec.name, spec.dtype, shape, bytes.size(), each.binary, bytes});
    if (each.binary) {
      reply.tensors.push_back(bytes);
    }
  }
  reply.json = encoded(name_, model_version, request.id, outputs);
  reply.memory = job;
  return reply;
}

void Service::check_rows(const Job& job) const {
  if (has_batch_ && job.inputs.front().shape.front() > options_.max_batch) {
    throw bad_request(text("the request has ", job.inputs.front().shape.front(), " rows, this server takes up to ",
                           options_.max_batch, "; split it"));
  }
}

void Service::give_outputs(Job& job, Memory& memory) const {
  auto shapes = checks_.shapes(job.inputs);
  if (!shapes) {
    return;  // they are known after the run
  }
  memory.shapes = std::move(*shapes);
  std::vector<std::size_t> sizes;
  std::size_t all = 0;
  for (std::size_t i = 0; i < memory.shapes.size(); ++i) {
    const auto& shape = memory.shapes[i];
    sizes.push_back(
        std::accumulate(shape.begin(), shape.end(), size_of(checks_.outputs()[i].dtype), std::multiplies<>()));
    all += (sizes.back() + alignment - 1) / alignment * alignment;
  }
  memory.outputs = body_of(all, 0);
  std::size_t start = 0;
  for (std::size_t i = 0; i < memory.shapes.size(); ++i) {
    job.outputs.push_back(
        {checks_.outputs()[i].dtype, memory.shapes[i], memory.outputs.bytes.subspan(start, sizes[i])});
    start += (sizes[i] + alignment - 1) / alignment * alignment;
  }
}

}  // namespace plainconv::serve
