// What this library calls of TensorRT, and of TensorRT-RTX, so that its tests need no headers of NVIDIA's: the layout
// of objects and the positions in virtual tables are those of TensorRT's libraries.
#pragma once

#include <cstdint>
#include <new>

#include "cuda_runtime_api.h"

namespace nvinfer1 {

struct Dims {
  static constexpr std::int32_t MAX_DIMS = 8;
  std::int32_t nbDims;
  std::int64_t d[MAX_DIMS];
};

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC, kON_PROFILE_CHANGE, kUSER_MANAGED };

/// A virtual table, whose second call destroys it, and an implementation that begins with a virtual table.
class Object {
 public:
  static void operator delete(Object* self, std::destroying_delete_t) {
    reinterpret_cast<void (*const*)(Object*)>(self->table_)[1](self);
  }

 protected:
  template <int Slot, class Result, class... Arguments>
  Result call(Arguments... arguments) const {
    void* const* table = *static_cast<void* const* const*>(implementation_);
    return reinterpret_cast<Result (*)(void*, Arguments...)>(table[Slot])(implementation_, arguments...);
  }

 private:
  void* table_;
  void* implementation_;
};

class IExecutionContext : public Object {
 public:
  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t on) { return call<16, bool>(profile, on); }
  bool setInputShape(const char* name, const Dims& dims) { return call<20, bool>(name, &dims); }
  Dims getTensorShape(const char* name) const { return call<21, Dims>(name); }
  bool setTensorAddress(const char* name, void* data) { return call<23, bool>(name, data); }
  bool enqueueV3(cudaStream_t stream) { return call<36, bool>(stream); }
  void setDeviceMemoryV2(void* memory, std::int64_t size) { call<48, void>(memory, size); }
#ifdef PLAINCONV_TENSORRT_RTX
  bool isStreamCapturable(cudaStream_t stream) const { return call<52, bool>(stream); }
#endif
};

class IHostMemory : public Object {
 public:
  void* data() const { return call<2, void*>(); }
  std::size_t size() const { return call<3, std::size_t>(); }
};

#ifdef PLAINCONV_TENSORRT_RTX
class IRuntimeCache : public Object {
 public:
  IHostMemory* serialize() const { return call<2, IHostMemory*>(); }
  bool deserialize(const void* data, std::size_t size) { return call<3, bool>(data, size); }
};

enum class CudaGraphStrategy : std::int32_t { kDISABLED, kWHOLE_GRAPH_CAPTURE };
enum class DynamicShapesKernelSpecializationStrategy : std::int32_t { kLAZY, kEAGER, kNONE };
enum class EngineValidity : std::int32_t { kVALID, kSUBOPTIMAL, kINVALID };

class IRuntimeConfig : public Object {
 public:
  using Kernels = DynamicShapesKernelSpecializationStrategy;
  IRuntimeCache* createRuntimeCache() const { return call<5, IRuntimeCache*>(); }
  bool setRuntimeCache(const IRuntimeCache& cache) { return call<6, bool>(&cache); }
  bool setDynamicShapesKernelSpecializationStrategy(Kernels kernels) { return call<8, bool>(kernels); }
  Kernels getDynamicShapesKernelSpecializationStrategy() const { return call<9, Kernels>(); }
  bool setCudaGraphStrategy(CudaGraphStrategy graphs) { return call<10, bool>(graphs); }
  CudaGraphStrategy getCudaGraphStrategy() const { return call<11, CudaGraphStrategy>(); }
};
#endif

class ICudaEngine : public Object {
 public:
  IExecutionContext* createExecutionContext(ExecutionContextAllocationStrategy where) {
    return call<5, IExecutionContext*>(where);
  }
  std::int32_t getNbIOTensors() const { return call<26, std::int32_t>(); }
  const char* getIOTensorName(std::int32_t at) const { return call<27, const char*>(at); }
  std::int64_t getDeviceMemorySizeV2() const { return call<44, std::int64_t>(); }
#ifdef PLAINCONV_TENSORRT_RTX
  IExecutionContext* createExecutionContext(IRuntimeConfig* config) { return call<47, IExecutionContext*>(config); }
  IRuntimeConfig* createRuntimeConfig() { return call<48, IRuntimeConfig*>(); }
#endif
};

class IRuntime : public Object {
 public:
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) { return call<3, ICudaEngine*>(data, size); }
#ifdef PLAINCONV_TENSORRT_RTX
  EngineValidity getEngineValidity(const void* data, std::int64_t size, std::uint64_t* causes) const {
    return call<24, EngineValidity>(data, size, causes);
  }
#endif
};

}  // namespace nvinfer1

extern "C" {
void* createInferRuntime_INTERNAL(void* logger, std::int32_t version) noexcept;
std::int32_t getInferLibMajorVersion() noexcept;
std::int32_t getInferLibMinorVersion() noexcept;
std::int32_t getInferLibPatchVersion() noexcept;
std::int32_t getInferLibBuildVersion() noexcept;
}

namespace nvinfer1 {
inline IRuntime* createInferRuntime(ILogger& logger) {
  return static_cast<IRuntime*>(createInferRuntime_INTERNAL(&logger, 0));
}
}  // namespace nvinfer1
