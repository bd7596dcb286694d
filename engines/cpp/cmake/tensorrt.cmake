# The backend of TensorRT or TensorRT-RTX. How requests run is built and tested everywhere, on doubles; what calls NVIDIA's
# libraries only where FindTensorRT.cmake finds them.
target_sources(
  plainconv
  PRIVATE src/cuda/cuda_driver.cpp
          src/tensorrt/choice.cpp
          src/tensorrt/context.cpp
          src/tensorrt/lane.cpp
          src/tensorrt/loading.cpp
          src/tensorrt/log.cpp
          src/tensorrt/profiles.cpp
          src/tensorrt/program.cpp
          src/tensorrt/ready.cpp
          src/tensorrt/replay.cpp
          src/tensorrt/resources.cpp
          src/tensorrt/runner.cpp
          src/tensorrt/validity.cpp
          src/tensorrt/waits.cpp)
target_link_libraries(plainconv PRIVATE ${CMAKE_DL_LIBS})

find_package(TensorRT)
if(TensorRT_FOUND)
  target_sources(plainconv PRIVATE src/cuda/cuda_runtime.cpp src/tensorrt/backend.cpp src/tensorrt/runtime.cpp)
  target_compile_definitions(plainconv PRIVATE PLAINCONV_TENSORRT)
  target_link_libraries(plainconv PRIVATE TensorRT::TensorRT)
  if(TensorRT_IS_RTX)
    target_compile_definitions(plainconv PRIVATE PLAINCONV_TENSORRT_RTX)
    list(APPEND plainconv_backends "tensorrt_rtx (headers ${TensorRT_VERSION})")
  else()
    list(APPEND plainconv_backends "tensorrt (headers ${TensorRT_VERSION})")
  endif()
endif()

if(TARGET plainconv-tests)
  target_sources(
    plainconv-tests
    PRIVATE tests/cuda/test_cuda_driver.cpp
            tests/tensorrt/test_choice.cpp
            tests/tensorrt/test_lane.cpp
            tests/tensorrt/test_loading.cpp
            tests/tensorrt/test_log.cpp
            tests/tensorrt/test_program.cpp
            tests/tensorrt/test_replay.cpp
            tests/tensorrt/test_runner.cpp
            tests/tensorrt/test_validity.cpp
            tests/tensorrt/test_waits.cpp)
  if(TensorRT_FOUND)
    target_sources(plainconv-tests PRIVATE tests/tensorrt/test_runtime.cpp)
  endif()
endif()
