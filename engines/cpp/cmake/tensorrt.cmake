# The backend of TensorRT or TensorRT-RTX. How requests run is built and tested everywhere, on doubles; what calls NVIDIA's
# libraries only where FindTensorRT.cmake finds them.
target_sources(
  plainconv
  PRIVATE src/cuda_driver.cpp
          src/tensorrt_choice.cpp
          src/tensorrt_context.cpp
          src/tensorrt_lane.cpp
          src/tensorrt_log.cpp
          src/tensorrt_program.cpp
          src/tensorrt_replay.cpp
          src/tensorrt_runner.cpp
          src/tensorrt_waits.cpp)
target_link_libraries(plainconv PRIVATE ${CMAKE_DL_LIBS})

find_package(TensorRT)
if(TensorRT_FOUND)
  target_sources(plainconv PRIVATE src/cuda_runtime.cpp src/tensorrt_backend.cpp src/tensorrt_runtime.cpp)
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
    PRIVATE tests/test_cuda.cpp tests/test_tensorrt_choice.cpp tests/test_tensorrt_log.cpp
            tests/test_tensorrt_program.cpp tests/test_tensorrt_runner.cpp)
  if(TensorRT_FOUND)
    target_sources(plainconv-tests PRIVATE tests/test_tensorrt_runtime.cpp)
  endif()
endif()
