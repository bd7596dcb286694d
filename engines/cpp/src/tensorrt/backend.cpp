#include "tensorrt/backend.hpp"

#include "tensorrt/loading.hpp"

namespace plainconv {

std::optional<Loaded> load_by_tensorrt(const Bundle& bundle, const Options& options, Reasons& reasons) {
  const Here here{.backend = std::string(tensorrt_name), .version = runtime_version()};
  return load_engines(bundle, options, here, {.cuda = cuda_runtime, .engine = engine_of_bytes}, reasons);
}

}  // namespace plainconv
