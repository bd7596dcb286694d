#include "tensorrt/resources.hpp"

#include <algorithm>

namespace plainconv {

void Resources::use(int device) {
  if (used_ != device) {
    used_.reset();
    cuda_.use_device(device);
    used_ = device;
  }
}

Address Resources::allocated(int memory, std::size_t size) {
  memory_.reserve(memory_.size() + 1);
  if (memory == host_memory) {
    memory_.emplace_back(cuda_, memory, cuda_.allocate_host(size), &Cuda::free_host);
  } else {
    use(memory);
    memory_.emplace_back(cuda_, memory, cuda_.allocate(size), &Cuda::free);
  }
  return memory_.back().value();
}

Address Resources::stream(const Track& track) {
  const auto found = std::ranges::find(streams_, track, &std::pair<Track, Handle>::first);
  if (found != streams_.end()) {
    return found->second.value();
  }
  use(track.device);
  streams_.reserve(streams_.size() + 1);
  stream_list_.reserve(stream_list_.size() + 1);
  streams_.emplace_back(track, Handle(cuda_, track.device, cuda_.create_stream(), &Cuda::destroy_stream));
  return stream_list_.emplace_back(streams_.back().second.value());
}

Address Resources::event(const Track& track, std::size_t number) {
  Handle& event = events_[{track, number}];
  if (event.value() == 0) {
    use(track.device);
    event = Handle(cuda_, track.device, cuda_.create_event(), &Cuda::destroy_event);
  }
  return event.value();
}

}  // namespace plainconv
