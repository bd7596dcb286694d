#include "batcher.hpp"

#include <algorithm>
#include <cstring>
#include <new>

#include "batch_axis.hpp"
#include "text.hpp"

namespace plainconv::serve {
namespace {

std::string seconds_of(Seconds seconds) {
  const auto all = std::chrono::duration_cast<std::chrono::milliseconds>(seconds).count();
  std::string rest = std::to_string(all % 1000);
  return text(all / 1000, ".", std::string(3 - rest.size(), '0'), rest);
}

/// Of `bytes`, which are of `all` rows.
std::size_t bytes_of_rows(std::size_t bytes, std::int64_t rows, std::int64_t all) noexcept {
  return bytes / static_cast<std::size_t>(std::max<std::int64_t>(all, 1)) * static_cast<std::size_t>(rows);
}

}  // namespace

/// Memory of one thread, which grows to the largest batch that it meets.
struct Batcher::Scratch {
  struct Slot {
    std::vector<std::int64_t> shape;
    std::vector<std::max_align_t> memory;

    std::span<std::byte> bytes(std::size_t size) {
      memory.resize(std::max(memory.size(), size / sizeof(std::max_align_t) + 1));
      return std::as_writable_bytes(std::span(memory)).first(size);
    }
  };
  std::vector<Slot> inputs;
  std::vector<Slot> outputs;
};

Batcher::Batcher(const Network& network, const BatchRules& rules, Observe observe, Complain complain)
    : network_(network), rules_(rules), observe_(std::move(observe)), complain_(std::move(complain)) {
  for (int i = 0; i < rules_.threads; ++i) {
    threads_.emplace_back([this] { work(); });
  }
}

Batcher::~Batcher() {
  {
    const std::scoped_lock lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

std::size_t Batcher::waiting() const {
  const std::scoped_lock lock(mutex_);
  return queue_.size();
}

void Batcher::submit(const std::shared_ptr<Job>& job) {
  {
    const std::scoped_lock lock(mutex_);
    if (queue_.size() >= rules_.max_queue) {
      throw too_many(text(rules_.max_queue, " requests wait for this model already; try again later"));
    }
    job->arrived_ = Clock::now();
    queue_.push_back(job);
  }
  changed_.notify_all();
}

bool Batcher::is_done(const Job& job) const {
  const std::scoped_lock lock(mutex_);
  if (job.refused_) {
    throw Refused(*job.refused_);
  }
  return job.done_;
}

void Batcher::abandon(const std::shared_ptr<Job>& job) {
  const std::scoped_lock lock(mutex_);
  job->abandoned_ = true;
  job->when_done = nullptr;
  if (const auto at = std::ranges::find(queue_, job); at != queue_.end()) {
    queue_.erase(at);
  }
  changed_.notify_all();
}

void Batcher::work() {
  Scratch scratch{std::vector<Scratch::Slot>(network_.inputs().size()),
                  std::vector<Scratch::Slot>(network_.outputs().size())};
  for (Batch batch = next(); !batch.empty(); batch = next()) {
    run(batch, scratch);
  }
}

Batcher::Batch Batcher::next() {
  const std::scoped_lock turn(turn_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || !queue_.empty(); });
    if (queue_.empty()) {
      return {};
    }
    auto first = std::move(queue_.front());
    queue_.pop_front();
    Batch batch = gathered(lock, std::move(first));
    std::erase_if(batch, [](const std::shared_ptr<Job>& job) { return job->abandoned_; });
    if (!batch.empty()) {
      return batch;
    }
  }
}

Batcher::Batch Batcher::gathered(std::unique_lock<std::mutex>& lock, std::shared_ptr<Job> first) {
  const auto until = first->arrived_ + rules_.max_delay;
  std::int64_t rows = first->rows;
  Batch batch = {std::move(first)};
  while (rows < rules_.most_rows) {
    const auto fellow = std::ranges::find_if(
        queue_, [&](const std::shared_ptr<Job>& job) { return same_tails(job->inputs, batch.front()->inputs); });
    if (fellow != queue_.end()) {
      if (rows + (*fellow)->rows > rules_.most_rows) {
        break;
      }
      rows += (*fellow)->rows;
      batch.push_back(std::move(*fellow));
      queue_.erase(fellow);
      continue;
    }
    if (closing_ || batch.front()->abandoned_ || Clock::now() >= until) {
      break;
    }
    changed_.wait_until(lock, until);
  }
  return batch;
}

void Batcher::run(const Batch& gathered, Scratch& scratch) {
  const auto start = Clock::now();
  Batch batch;
  for (const auto& job : gathered) {
    job->queued = start - job->arrived_;
    if (job->deadline <= start) {
      finish({job}, late(text("the request waited ", seconds_of(job->queued), " s, until its time was up")));
    } else {
      batch.push_back(job);
    }
  }
  if (batch.empty()) {
    return;
  }
  try {
    if (batch.size() == 1) {
      compute_alone(*batch.front());
    } else {
      compute(batch, scratch);
    }
  } catch (const std::exception& error) {
    if (batch.size() == 1) {
      finish(batch, refusal_of(error));
      return;
    }
    for (const auto& job : batch) {
      run({job}, scratch);
    }
    return;
  }
  std::int64_t rows = 0;
  for (const auto& job : batch) {
    rows += job->rows;
  }
  observe_(rows, batch.front()->computed);
  for (const auto& job : batch) {
    job->joined = batch.front()->joined;
    job->computed = batch.front()->computed;
    job->parted = batch.front()->parted;
    job->batch_rows = rows;
  }
  finish(batch, std::nullopt);
}

void Batcher::finish(const Batch& batch, const std::optional<Refused>& refused) {
  const std::scoped_lock lock(mutex_);
  for (const auto& job : batch) {
    job->refused_ = refused;
    job->done_ = true;
    if (job->when_done) {
      job->when_done();
    }
  }
}

void Batcher::compute_alone(Job& job) const {
  const auto start = Clock::now();
  if (job.outputs.empty()) {
    job.made = network_.run(job.inputs);
  } else {
    network_.run(job.inputs, job.outputs);
  }
  job.computed = Clock::now() - start;
}

void Batcher::compute(const Batch& batch, Scratch& scratch) const {
  Job& first = *batch.front();
  const auto start = Clock::now();
  std::int64_t rows = 0;
  for (const auto& job : batch) {
    rows += job->rows;
  }
  std::vector<ConstTensor> inputs;
  for (std::size_t i = 0; i < first.inputs.size(); ++i) {
    const ConstTensor& like = first.inputs[i];
    Scratch::Slot& slot = scratch.inputs[i];
    slot.shape.assign(like.shape.begin(), like.shape.end());
    slot.shape.front() = rows;
    const auto bytes = slot.bytes(bytes_of_rows(like.bytes.size(), rows, first.rows));
    auto* to = bytes.data();
    for (const auto& job : batch) {
      to = std::copy(job->inputs[i].bytes.begin(), job->inputs[i].bytes.end(), to);
    }
    inputs.push_back({like.dtype, slot.shape, bytes});
  }
  const auto joined = Clock::now();
  std::vector<Array> made;
  std::vector<Tensor> outputs;
  if (first.outputs.empty()) {
    made = network_.run(inputs);
    for (Array& array : made) {
      if (array.shape.front() != rows) {
        throw EngineError(text("an output has ", array.shape.front(), " rows, wanted ", rows));
      }
      outputs.push_back({array.dtype, array.shape, array.bytes});
    }
  } else {
    for (std::size_t i = 0; i < first.outputs.size(); ++i) {
      const Tensor& like = first.outputs[i];
      Scratch::Slot& slot = scratch.outputs[i];
      slot.shape.assign(like.shape.begin(), like.shape.end());
      slot.shape.front() = rows;
      outputs.push_back({like.dtype, slot.shape, slot.bytes(bytes_of_rows(like.bytes.size(), rows, first.rows))});
    }
    network_.run(inputs, outputs);
  }
  const auto ran = Clock::now();
  std::int64_t done = 0;
  for (const auto& job : batch) {
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const std::size_t bytes_of_row = bytes_of_rows(outputs[i].bytes.size(), 1, rows);
      const auto own = outputs[i].bytes.subspan(bytes_of_row * static_cast<std::size_t>(done),
                                                bytes_of_row * static_cast<std::size_t>(job->rows));
      if (job->outputs.size() == outputs.size()) {
        std::ranges::copy(own, job->outputs[i].bytes.begin());
      } else {
        Array& array = job->made.emplace_back(
            Array{outputs[i].dtype, {outputs[i].shape.begin(), outputs[i].shape.end()}, {own.begin(), own.end()}});
        array.shape.front() = job->rows;
      }
    }
    done += job->rows;
  }
  first.joined = joined - start;
  first.computed = ran - joined;
  first.parted = Clock::now() - ran;
}

Refused Batcher::refusal_of(const std::exception& error) const {
  complain_(text("a request could not be run: ", error.what()));
  const bool is_memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
                         std::string_view(error.what()).find("out of memory") != std::string_view::npos;
  return failed(is_memory ? "the server has too little memory for this request; send a smaller batch"
                          : "the model could not be run on this request");
}

}  // namespace plainconv::serve
