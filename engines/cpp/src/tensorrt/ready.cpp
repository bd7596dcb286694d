#include "tensorrt/ready.hpp"

namespace plainconv {

ReadyPrograms::ReadyPrograms(const Layout& layout, Resources& held)
    : layout_(layout), held_(held), on_gpu_(layout.inputs() + layout.outputs()) {}

const Ready& ReadyPrograms::ready_for(const Call& call) {
  for (std::size_t i = 0; i < on_gpu_.size(); ++i) {
    on_gpu_[i] = call.addresses[i] != 0;
  }
  auto found = ready_.find(on_gpu_);
  if (found == ready_.end()) {
    found = ready_.emplace(on_gpu_, new_ready(on_gpu_)).first;
  }
  const Ready& ready = found->second;
  placed_.assign(ready.addresses.begin(), ready.addresses.end());
  for (std::size_t i = 0; i < call.addresses.size(); ++i) {
    if (call.addresses[i] != 0) {
      placed_[ready.program.ends[i]] = call.addresses[i];
    }
  }
  return ready;
}

Ready ReadyPrograms::new_ready(const std::vector<bool>& on_gpu) {
  Ready ready{.program = program_of(layout_, on_gpu), .streams = {}, .events = {}, .addresses = {}};
  std::map<Track, std::size_t> counts;
  for (const Work& work : ready.program.works) {
    ready.streams.push_back(held_.stream(work.track));
    ready.events.push_back(work.marked ? held_.event(work.track, ++counts[work.track]) : 0);
  }
  for (const Slot& slot : ready.program.slots) {
    const auto found = addresses_.find(slot);
    ready.addresses.push_back(found == addresses_.end() ? 0 : found->second);
  }
  held_.use(layout_.home());
  return ready;
}

}  // namespace plainconv
