# Finds TensorRT, or where that is not asked for or not there TensorRT-RTX; and the CUDA runtime. This library is built
# with one of the two: both libraries export the same symbols.
#
# TensorRT_ROOT, TensorRT_RTX_ROOT: where NVIDIA's SDK is unpacked, as variables of CMake or of the environment. Of
# TensorRT-RTX also the folder of libtensorrt_rtx.so.1 in its wheel, which has no headers: TensorRT_INCLUDE_DIR is then
# a folder of TensorRT's published ones (include/ of github.com/NVIDIA/TensorRT).
# CUDA_ROOT: of the CUDA runtime, headers and library, where find_package(CUDAToolkit) does not find it.
#
# Result: TensorRT_FOUND, TensorRT_IS_RTX, TensorRT_VERSION, and the targets TensorRT::TensorRT and TensorRT::CudaRuntime.
set(TensorRT_ROOT "$ENV{TensorRT_ROOT}" CACHE PATH "TensorRT's SDK")
set(TensorRT_RTX_ROOT "$ENV{TensorRT_RTX_ROOT}" CACHE PATH "TensorRT-RTX's SDK, or the folder of the library in its wheel")
set(CUDA_ROOT "$ENV{CUDA_ROOT}" CACHE PATH "The CUDA runtime's headers and library")

set(TensorRT_suffixes lib lib64 targets/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu/lib)
if(TensorRT_ROOT OR NOT TensorRT_RTX_ROOT)
  find_library(TensorRT_LIBRARY nvinfer HINTS ${TensorRT_ROOT} PATH_SUFFIXES ${TensorRT_suffixes})
endif()
find_library(TensorRT_RTX_LIBRARY NAMES tensorrt_rtx libtensorrt_rtx.so.1 HINTS ${TensorRT_RTX_ROOT}
             PATH_SUFFIXES ${TensorRT_suffixes})
if(TensorRT_LIBRARY)
  set(TensorRT_IS_RTX FALSE)
  set(TensorRT_location ${TensorRT_LIBRARY})
  set(TensorRT_hint ${TensorRT_ROOT})
else()
  set(TensorRT_IS_RTX TRUE)
  set(TensorRT_location ${TensorRT_RTX_LIBRARY})
  set(TensorRT_hint ${TensorRT_RTX_ROOT})
endif()
if(TensorRT_ROOT AND TensorRT_RTX_ROOT)
  message(STATUS "TensorRT and TensorRT-RTX are both given: TensorRT is taken; for the other, leave TensorRT_ROOT out")
endif()
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TensorRT_hint} PATH_SUFFIXES include)
if(TensorRT_INCLUDE_DIR AND EXISTS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h)
  file(STRINGS ${TensorRT_INCLUDE_DIR}/NvInferVersion.h TensorRT_lines REGEX "_(MAJOR|MINOR|PATCH)[A-Z_]* [0-9]+")
  set(TensorRT_numbers "")
  foreach(which MAJOR MINOR PATCH)
    foreach(line IN LISTS TensorRT_lines)
      if(line MATCHES "define (TRT|NV_TENSORRT)_${which}(_ENTERPRISE|_RTX)? ([0-9]+)")
        list(APPEND TensorRT_numbers ${CMAKE_MATCH_3})
        break()
      endif()
    endforeach()
  endforeach()
  list(JOIN TensorRT_numbers "." TensorRT_VERSION)
endif()

if(NOT CUDA_ROOT)
  find_package(CUDAToolkit QUIET)
endif()
find_path(CUDA_RUNTIME_INCLUDE_DIR cuda_runtime_api.h HINTS ${CUDA_ROOT} ${CUDAToolkit_INCLUDE_DIRS}
          PATH_SUFFIXES include)
find_library(CUDA_RUNTIME_LIBRARY NAMES cudart_static cudart libcudart.so.13 libcudart.so.12
             HINTS ${CUDA_ROOT} ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorRT
  REQUIRED_VARS TensorRT_location TensorRT_INCLUDE_DIR CUDA_RUNTIME_INCLUDE_DIR CUDA_RUNTIME_LIBRARY
  VERSION_VAR TensorRT_VERSION
  REASON_FAILURE_MESSAGE
    "NVIDIA's SDK by -DTensorRT_ROOT=… or -DTensorRT_RTX_ROOT=…, the CUDA runtime by -DCUDA_ROOT=…")
mark_as_advanced(TensorRT_LIBRARY TensorRT_RTX_LIBRARY TensorRT_INCLUDE_DIR CUDA_RUNTIME_INCLUDE_DIR
                 CUDA_RUNTIME_LIBRARY)

if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::CudaRuntime UNKNOWN IMPORTED)
  set_target_properties(TensorRT::CudaRuntime PROPERTIES IMPORTED_LOCATION ${CUDA_RUNTIME_LIBRARY}
                                                         INTERFACE_INCLUDE_DIRECTORIES ${CUDA_RUNTIME_INCLUDE_DIR})
  if(CUDA_RUNTIME_LIBRARY MATCHES "static")
    target_link_libraries(TensorRT::CudaRuntime INTERFACE ${CMAKE_DL_LIBS} rt)
  endif()
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(
    TensorRT::TensorRT PROPERTIES IMPORTED_LOCATION ${TensorRT_location} INTERFACE_INCLUDE_DIRECTORIES
                                                                         ${TensorRT_INCLUDE_DIR})
  target_link_libraries(TensorRT::TensorRT INTERFACE TensorRT::CudaRuntime)
endif()
