#include <algorithm>
#include <cstring>
#include <set>

#include "onnxruntime/backend.hpp"
#include "onnxruntime/session.hpp"
#include "pool.hpp"
#include "split_choice.hpp"
#include "text.hpp"
#include "workers.hpp"

namespace plainconv {
namespace {

using Sessions = std::vector<std::unique_ptr<OnnxSession>>;

/// The names of the free axes that the inputs of the network fix.
std::set<std::string> free_axes(const std::vector<TensorRecord>& inputs) {
  std::set<std::string> names;
  for (const TensorRecord& spec : inputs) {
    for (const Axis& axis : spec.shape) {
      if (const auto* name = std::get_if<std::string>(&axis)) {
        names.insert(*name);
      }
    }
  }
  return names;
}

bool is_known(const TensorSpec& spec, const std::set<std::string>& free) {
  return std::ranges::all_of(spec.shape, [&](const Axis& axis) {
    const auto* name = std::get_if<std::string>(&axis);
    return name == nullptr || free.contains(*name);
  });
}

/// One call at a time through all parts. What the parts make between them stays allocated for the next call of the
/// same shapes, and a part's result goes straight into the caller's memory.
class Call : public Request {
 public:
  Call(const Schedule& schedule, const Sessions& sessions, const std::set<std::string>& free, std::size_t inputs)
      : Request(schedule),
        schedule_(schedule),
        sessions_(sessions),
        bound_inputs_(inputs),
        reads_(inputs),
        shapes_(inputs),
        bound_outputs_(schedule.results.size()),
        steps_(schedule.steps.size()) {
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const auto& outputs = sessions[i]->outputs();
      steps_[i].reads.resize(sessions[i]->inputs().size());
      steps_[i].makes.resize(outputs.size());
      for (const TensorSpec& spec : outputs) {
        steps_[i].made.emplace_back(nullptr);
        steps_[i].keeps.push_back(is_known(spec, free));
      }
    }
  }

  /// `outputs` may be empty: then the results are `result(i)`.
  void begin(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) {
    options_.UnsetTerminate();
    bool same = clean_;
    clean_ = false;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      reads_[i] = bound_inputs_[i].of(inputs[i].dtype, inputs[i].shape, inputs[i].bytes);
      same = same && std::ranges::equal(shapes_[i], inputs[i].shape);
      shapes_[i].assign(inputs[i].shape.begin(), inputs[i].shape.end());
    }
    for (StepValues& step : steps_) {
      for (std::size_t i = 0; i < step.made.size(); ++i) {
        if (!same || !step.keeps[i]) {
          step.made[i] = Ort::Value(nullptr);
        }
        step.makes[i] = step.made[i];
      }
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (const auto& from = schedule_.results[i]; from.step) {
        steps_[*from.step].makes[from.index] =
            bound_outputs_[i].of(outputs[i].dtype, outputs[i].shape, outputs[i].bytes);
      }
    }
  }

  void run(std::size_t step) override {
    StepValues& own = steps_[step];
    const auto& sources = schedule_.steps[step].sources;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      own.reads[i] = sources[i].step ? steps_[*sources[i].step].makes[sources[i].index] : reads_[sources[i].index];
    }
    const auto keep = [&] {
      for (std::size_t i = 0; i < own.makes.size(); ++i) {
        if (own.makes[i] != nullptr && own.is_new[i]) {
          own.made[i] = Ort::Value(own.makes[i]);
        }
      }
    };
    own.is_new.assign(own.makes.size(), false);
    for (std::size_t i = 0; i < own.makes.size(); ++i) {
      own.is_new[i] = own.makes[i] == nullptr;
    }
    try {
      sessions_[step]->run(options_, own.reads, own.makes);
    } catch (const EngineError& error) {
      keep();
      throw EngineError(text("part ", schedule_.steps[step].part->name, ": ", error.what()));
    }
    keep();
  }

  void stop() noexcept override {
    if (OrtStatus* failed = Ort::GetApi().RunOptionsSetTerminate(options_)) {  // then the steps run to their end
      Ort::GetApi().ReleaseStatus(failed);
    }
  }

  /// All of it ran: what it made may be used again.
  void ended() noexcept { clean_ = true; }

  [[nodiscard]] Array result(std::size_t index, DType dtype) const {
    const Source& from = schedule_.results[index];
    return array_of(steps_[*from.step].made[from.index], dtype);
  }

 private:
  struct StepValues {
    std::vector<const OrtValue*> reads;
    std::vector<OrtValue*> makes;  // the caller's memory, what was made in an earlier call, or null
    std::vector<Ort::Value> made;  // owned
    std::vector<bool> keeps;       // whether its shape follows from those of the inputs
    std::vector<bool> is_new;
  };

  const Schedule& schedule_;
  const Sessions& sessions_;
  Ort::RunOptions options_;
  std::vector<BoundValue> bound_inputs_;
  std::vector<const OrtValue*> reads_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<BoundValue> bound_outputs_;
  std::vector<StepValues> steps_;
  bool clean_ = false;
};

class SplitRunner : public Runner {
 public:
  SplitRunner(const Bundle& bundle, SplitRecord split, const Options& options)
      : split_(std::move(split)),
        schedule_(schedule_of(split_, bundle.manifest)),
        timeout_(options.timeout),
        outputs_(specs_of(bundle.manifest.outputs)),
        sessions_(schedule_.steps.size()),
        workers_(schedule_, [&, cores = cores_of_places(schedule_.places, options.devices, usable_cores())](
                                std::size_t place) { start(place, bundle, options, cores[place]); }),
        calls_([this, free = free_axes(bundle.manifest.inputs), inputs = bundle.manifest.inputs.size()] {
          return std::make_unique<Call>(schedule_, sessions_, free, inputs);
        }) {}

  void run(std::span<const ConstTensor> inputs, std::span<const Tensor> outputs) override {
    const Pool<Call>::Lease call(calls_);
    call->begin(inputs, outputs);
    workers_.run(*call, timeout_);
    call->ended();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (const Source& from = schedule_.results[i]; !from.step) {
        check_size(i, outputs[i].shape, inputs[from.index].shape);
        std::memcpy(outputs[i].bytes.data(), inputs[from.index].bytes.data(), outputs[i].bytes.size());
      }
    }
  }

  std::vector<Array> run_to_arrays(std::span<const ConstTensor> inputs) override {
    const Pool<Call>::Lease call(calls_);
    call->begin(inputs, {});
    workers_.run(*call, timeout_);
    call->ended();
    std::vector<Array> arrays;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      if (const Source& from = schedule_.results[i]; from.step) {
        arrays.push_back(call->result(i, outputs_[i].dtype));
      } else {
        const ConstTensor& input = inputs[from.index];
        arrays.push_back(
            {input.dtype, {input.shape.begin(), input.shape.end()}, {input.bytes.begin(), input.bytes.end()}});
      }
    }
    return arrays;
  }

 private:
  /// Bind the calling thread to `cores` and load its parts, so that their weights lie near by.
  void start(std::size_t place, const Bundle& bundle, const Options& options, const Cores& cores) {
    const bool is_bound = bind(cores);
    const int threads = options.threads != 0 ? options.threads : static_cast<int>(cores.size());
    for (std::size_t i = 0; i < schedule_.steps.size(); ++i) {
      const PartRecord& part = *schedule_.steps[i].part;
      if (schedule_.steps[i].place != place) {
        continue;
      }
      try {
        sessions_[i] = std::make_unique<OnnxSession>(bundle, part.file, specs_of(part.inputs), specs_of(part.outputs),
                                                     threads, is_bound ? cores : Cores{});
      } catch (const EngineError& error) {
        throw EngineError(text("part ", part.name, ": ", error.what()));
      }
    }
  }

  void check_size(std::size_t output, std::span<const std::int64_t> found, std::span<const std::int64_t> wanted) const {
    if (!std::ranges::equal(found, wanted)) {
      throw EngineError(
          text("output ", outputs_[output].name, " has shape ", shown(found), ", wanted ", shown(wanted)));
    }
  }

  // In this order: the calls go first, their values before the sessions that made them.
  SplitRecord split_;
  Schedule schedule_;
  std::chrono::duration<double> timeout_;
  std::vector<TensorSpec> outputs_;
  Sessions sessions_;
  Workers workers_;
  Pool<Call> calls_;
};

}  // namespace

std::unique_ptr<Runner> split_by_onnxruntime(const Bundle& bundle, const SplitRecord& split, const Options& options) {
  Options of_split = options;
  of_split.devices = devices_for(split, options);
  return std::make_unique<SplitRunner>(bundle, split, of_split);
}

}  // namespace plainconv
