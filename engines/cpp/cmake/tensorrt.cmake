# The backend of TensorRT or TensorRT-RTX. How requests run is built and tested everywhere, on doubles; what calls NVIDIA's
# libraries only where FindTensorRT.cmake finds them.
target_sources(
  plainconv
  PRIVATE src/cuda/cuda_driver.cpp
          src/tensorrt/choice.cpp
          src/tensorrt/context.cpp
          src/tensorrt/kernel_cache.cpp
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
            tests/tensorrt/test_kernel_cache.cpp
            tests/tensorrt/test_log.cpp
            tests/tensorrt/test_validity.cpp)
  if(TensorRT_FOUND)
    add_executable(plainconv-tests-nvidia $<TARGET_OBJECTS:plainconv-doctest> tests/tensorrt/test_runtime.cpp) # on NVIDIA's own libraries
    target_include_directories(plainconv-tests-nvidia PRIVATE src tests)
    target_link_libraries(plainconv-tests-nvidia PRIVATE plainconv plainconv_options doctest::doctest)
    add_test(NAME plainconv-tests-nvidia COMMAND plainconv-tests-nvidia)
  endif()
endif()

# Tests of all that meets TensorRT and CUDA, on stand-ins for both libraries: by headers of the tests' own, or NVIDIA's.
set(PLAINCONV_STANDIN_HEADERS ${CMAKE_CURRENT_SOURCE_DIR}/tests/standin/include
    CACHE STRING "Folders of NvInferRuntime.h and cuda_runtime_api.h for the tests on stand-ins")
function(plainconv_on_standins target)
  target_include_directories(${target} PRIVATE src tests)
  target_include_directories(${target} SYSTEM BEFORE PRIVATE ${PLAINCONV_STANDIN_HEADERS})
  target_link_libraries(${target} PRIVATE plainconv plainconv_options doctest::doctest nlohmann_json::nlohmann_json
                                          OnnxRuntime::OnnxRuntime)
  target_precompile_headers(${target} PRIVATE <doctest/doctest.h> "tests/network.hpp")
endfunction()
function(plainconv_tests_on_standins target)
  add_executable(${target} ${ARGN} $<TARGET_OBJECTS:plainconv-standins> src/cuda/cuda_runtime.cpp
                           src/tensorrt/runtime.cpp $<TARGET_OBJECTS:plainconv-doctest>
                           tests/tensorrt/test_bundles.cpp)
  plainconv_on_standins(${target})
  add_test(NAME ${target} COMMAND ${target})
  set_tests_properties(${target} PROPERTIES ENVIRONMENT
                                            TSAN_OPTIONS=suppressions=${CMAKE_CURRENT_SOURCE_DIR}/tests/tsan.supp)
endfunction()
set(standin_library ${CMAKE_CURRENT_SOURCE_DIR}/../../tests/helpers/standin_library/standin.cpp)
if(TARGET plainconv-tests AND OnnxRuntime_FOUND AND EXISTS ${standin_library}) # in a checkout, that is
  add_library(
    plainconv-standins OBJECT
    tests/calls.cpp
    tests/network.cpp
    tests/standin/cudart.cpp
    tests/standin/gpus.cpp
    tests/standin/library.cpp
    tests/tensorrt/test_threads.cpp
    ${standin_library})
  plainconv_on_standins(plainconv-standins)
  plainconv_tests_on_standins(
    plainconv-tests-tensorrt
    tests/cuda/test_cuda_runtime.cpp
    tests/tensorrt/test_lane.cpp
    tests/tensorrt/test_loading.cpp
    tests/tensorrt/test_program.cpp
    tests/tensorrt/test_replay.cpp
    tests/tensorrt/test_runner.cpp
    tests/tensorrt/test_waits.cpp)
  plainconv_tests_on_standins(plainconv-tests-rtx tests/tensorrt/test_rtx.cpp)
  target_compile_definitions(plainconv-tests-rtx PRIVATE PLAINCONV_TENSORRT_RTX)
endif()
