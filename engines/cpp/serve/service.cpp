#include "service.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "refusals.hpp"
#include "rest_codec.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

/// Each of them by `shown`, between commas.
template <class Range, class F>
std::string list_of(const Range& range, F shown) {
  std::string all;
  for (const auto& each : range) {
    all += text(all.empty() ? "" : ",", shown(each));
  }
  return all;
}

/// The sizes of a shape from axis `first` on, -1 for an open one.
std::string sizes_of(const TensorSpec& spec, std::size_t first) {
  return list_of(std::span(spec.shape).subspan(first), [](const Axis& axis) {
    const auto* fixed = std::get_if<std::int64_t>(&axis);
    return std::to_string(fixed == nullptr ? -1 : *fixed);
  });
}

std::string metadata_of(std::span<const TensorSpec> specs) {
  return list_of(specs, [](const TensorSpec& spec) {
    return text(R"({"name":)", json_text(spec.name), R"(,"datatype":")", datatype_of(spec.dtype), R"(","shape":[)",
                sizes_of(spec, 0), "]}");
  });
}

std::string config_of(std::span<const TensorSpec> specs, bool is_batched) {
  return list_of(specs, [&](const TensorSpec& spec) {
    return text(R"({"name":)", json_text(spec.name), R"(,"data_type":"TYPE_)", datatype_of(spec.dtype), R"(","dims":[)",
                sizes_of(spec, is_batched ? 1 : 0), "]}");
  });
}

}  // namespace

std::string_view program_version() noexcept { return PLAINCONV_VERSION; }

void check_version(std::string_view version) {
  if (!version.empty() && version != model_version) {
    throw unknown(text("there is no version ", as_sent(version), " of the model; wanted ", model_version, ", or none"));
  }
}

Service::Service(Store& store, const ServeOptions& options, Metrics& metrics)
    : store_(store), options_(options), metrics_(metrics) {
  if (options.shared_memory) {
    regions_.emplace();
  }
}

void Service::check_repository() const {
  if (!options_.repository) {
    throw forbidden("this server does not offer the repository API");
  }
}

Regions& Service::regions() {
  if (!regions_) {
    throw forbidden("this server does not offer shared memory; start it with --shared-memory");
  }
  return *regions_;
}

Service::Room::~Room() {
  const std::scoped_lock lock(service_.mutex_);
  service_.pending_ -= size_;
  const auto own = service_.pending_of_.find(peer_);
  if (own != service_.pending_of_.end() && (own->second -= size_) == 0) {
    service_.pending_of_.erase(own);
  }
}

void Service::Room::grow(std::size_t size) {
  const std::size_t most = service_.options_.max_pending;
  {
    const std::scoped_lock lock(service_.mutex_);
    if (service_.pending_ != size_ && service_.pending_ + size > most) {
      throw too_many("the requests under way fill this server's memory; try again later");
    }
    const auto own = service_.pending_of_.find(peer_);
    const std::size_t held = own == service_.pending_of_.end() ? 0 : own->second;
    if (held != size_ && held + size > most - most / kept) {
      throw too_many("the requests under way from this address fill its share of the memory; try again later");
    }
  }
  hold(size);
}

void Service::Room::hold(std::size_t size) {
  const std::scoped_lock lock(service_.mutex_);
  size_ += size;
  service_.pending_ += size;
  service_.pending_of_[peer_] += size;
}

std::string Service::server_metadata() const {
  return text(R"({"name":"plainconv","version":")", program_version(),
              R"(","extensions":["binary_tensor_data","model_configuration","statistics")",
              options_.repository ? R"(,"model_repository")" : "",
              options_.shared_memory ? R"(,"system_shared_memory")" : "", "]}");
}

std::string Service::models() const { return text(R"({"models":[)", list_of(store_.ready(), json_text), "]}"); }

std::string Service::model_metadata(std::string_view name, std::string_view version) const {
  check_version(version);
  const auto model = store_.use(name);
  return text(R"({"name":)", json_text(name), R"(,"versions":[")", model_version, R"("],"platform":")",
              model->platform(), R"(","inputs":[)", metadata_of(model->network().inputs()), R"(],"outputs":[)",
              metadata_of(model->network().outputs()), "]}");
}

std::string Service::model_ready(std::string_view name, std::string_view version) const {
  try {
    check_version(version);
    (void)store_.use(name);
  } catch (const Refused& refused) {
    constexpr int not_found = 404;
    if (refused.status() == not_found) {  // Triton's answer, and so what its clients expect
      throw bad_request(refused.what());
    }
    throw unavailable("the model is not loaded");
  }
  return text(R"({"name":)", json_text(name), R"(,"ready":true})");
}

std::string Service::config(std::string_view name, std::string_view version) const {
  check_version(version);
  const auto model = store_.use(name);
  const bool is_batched = model->has_batch();
  const std::string delay =
      text(R"(,"dynamic_batching":{"max_queue_delay_microseconds":)", options_.max_delay.count(), "}");
  return text(R"({"name":)", json_text(name), R"(,"platform":")", model->platform(),
              R"(","version_policy":{"latest":{"num_versions":1}},"max_batch_size":)",
              is_batched ? options_.max_batch : 0, R"(,"input":[)", config_of(model->network().inputs(), is_batched),
              R"(],"output":[)", config_of(model->network().outputs(), is_batched), R"(],"instance_group":[{"name":)",
              json_text(name), R"(,"count":)", options_.workers, R"(,"kind":")",
              model->network().backend() == "onnxruntime" ? "KIND_CPU" : "KIND_GPU", "\"}]", is_batched ? delay : "",
              "}");
}

std::string Service::statistics(std::string_view name, std::string_view version) const {
  check_version(version);
  std::vector<std::string> names = {std::string(name)};
  if (name.empty()) {
    names = store_.ready();
  } else {
    (void)store_.use(name);
  }
  return text(R"({"model_stats":[)", list_of(names, [&](const std::string& each) { return metrics_.statistics(each); }),
              "]}");
}

std::string Service::index(bool ready_only) const {
  std::vector<IndexRow> rows = store_.index();
  std::erase_if(rows, [&](const IndexRow& row) { return ready_only && !row.is_ready; });
  return text("[",
              list_of(rows,
                      [](const IndexRow& row) {
                        return text(R"({"name":)", json_text(row.name), R"(,"version":"1","state":")",
                                    row.is_ready ? "READY" : "UNAVAILABLE", R"(","reason":)", json_text(row.reason),
                                    "}");
                      }),
              "]");
}

std::string Service::shared_memory_status(const std::string& region, bool by_name) {
  const std::string all = list_of(regions().status(region), [&](const auto& row) {
    return by_name ? text(json_text(row.first), ":", row.second) : row.second;
  });
  return by_name ? text(R"({"regions":{)", all, "}}") : text("[", all, "]");
}

Asked Service::read(std::string_view model, std::string_view version, Body body, std::optional<std::size_t> json_length,
                    Facts& facts) const {
  const auto start = Clock::now();
  facts.model = "";
  check_version(version);
  auto used = store_.use(model);
  facts.model = used->name();
  const auto held = std::make_shared<Held>();
  held->body = std::move(body);
  held->request = decoded(held->body.bytes, json_length, offers_shared_memory());
  facts.id = held->request.id;
  return {std::move(used), held, start};
}

void Service::prepare(Asked& asked, Room& room) {
  const Model& model = *asked.model;
  const Network& network = model.network();
  const auto& held = asked.held;
  InferRequest& request = held->request;
  if (regions_) {
    if (const std::size_t size = regions_->size_of(request, options_.max_body); size != 0) {
      room.grow(size);
      held->shared = regions_->fill(request);
    }
  }
  const auto job = std::make_shared<Job>();
  for (const SentTensor* input : checked_inputs(request.inputs, network.inputs())) {
    job->inputs.push_back({*input->datatype->dtype, input->shape, input->bytes});
  }
  asked.chosen = chosen_outputs(request, network.outputs());
  job->rows = model.has_batch() ? job->inputs.front().shape.front() : 1;
  if (model.has_batch() && job->rows > options_.max_batch) {
    throw bad_request(
        text("the request has ", job->rows, " rows, this server takes up to ", options_.max_batch, "; split it"));
  }
  job->timeout = std::min(request.timeout.value_or(options_.timeout), options_.timeout);
  job->deadline = asked.start + std::chrono::duration_cast<Clock::duration>(job->timeout);
  if (auto shapes = model.checks().shapes(job->inputs)) {  // else they are known after the run
    held->shapes = std::move(*shapes);
    std::vector<std::size_t> sizes;
    std::size_t all = 0;
    for (std::size_t i = 0; i < held->shapes.size(); ++i) {
      const auto& shape = held->shapes[i];
      sizes.push_back(
          std::accumulate(shape.begin(), shape.end(), size_of(network.outputs()[i].dtype), std::multiplies<>()));
      all += (sizes.back() + alignment - 1) / alignment * alignment;
    }
    held->outputs = body_of(all, 0);
    std::size_t at = 0;
    for (std::size_t i = 0; i < held->shapes.size(); ++i) {
      job->outputs.push_back({network.outputs()[i].dtype, held->shapes[i], held->outputs.bytes.subspan(at, sizes[i])});
      at += (sizes[i] + alignment - 1) / alignment * alignment;
    }
  }
  job->memory = held;
  asked.job = job;
}

void Service::put(Asked& asked) {
  if (std::ranges::none_of(asked.chosen, [](const Chosen& each) { return each.place.has_value(); })) {
    return;
  }
  const auto sent = outputs(asked);
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (auto& place = asked.chosen[i].place) {
      regions().put(sent[i].name, *place, sent[i].bytes);
    }
  }
}

std::vector<SentOutput> Service::outputs(const Asked& asked) {
  const Job& job = *asked.job;
  std::vector<SentOutput> outputs;
  for (const Chosen& each : asked.chosen) {
    const TensorSpec& spec = asked.model->network().outputs()[each.index];
    const auto shape = job.outputs.empty() ? job.made[each.index].shape : job.outputs[each.index].shape;
    const std::span<const std::byte> bytes =
        job.outputs.empty() ? std::span<const std::byte>(job.made[each.index].bytes) : job.outputs[each.index].bytes;
    outputs.push_back(
        {spec.name, spec.dtype, shape, bytes.size(), each.binary, bytes, each.place ? &*each.place : nullptr});
  }
  return outputs;
}

Reply Service::reply(const Asked& asked) {
  Reply reply;
  const auto sent = outputs(asked);
  for (const SentOutput& each : sent) {
    if (each.binary) {
      reply.tensors.push_back(each.bytes);
    }
  }
  reply.json = encoded(asked.model->name(), model_version, asked.held->request.id, sent);
  reply.memory = asked.job;
  return reply;
}

void Service::succeeded(const Asked& asked, Facts& facts) const {
  const Job& job = *asked.job;
  metrics_.succeeded(asked.model->name(),
                     {Clock::now() - asked.start, job.queued, job.joined, job.computed, job.parted});
  facts.rows = job.rows;
  facts.queued = job.queued;
  facts.computed = job.computed;
  facts.batch_rows = job.batch_rows;
}

}  // namespace plainconv::serve
