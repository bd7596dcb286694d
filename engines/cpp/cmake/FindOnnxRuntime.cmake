# Finds ONNX Runtime: headers and library.
#
# Headers: ONNXRUNTIME_INCLUDE_DIR, or what cmake/onnxruntime_headers.sh put into build/onnxruntime, or the system's.
# Library: ONNXRUNTIME_LIBRARY, or that of the onnxruntime wheel of PLAINCONV_PYTHON, or the system's.
#
# A wheel has the library under its full version only, and programs ask for its SONAME: the build folder gets a link.
set(PLAINCONV_PYTHON "" CACHE FILEPATH "A Python that has the onnxruntime wheel")

find_path(
  ONNXRUNTIME_INCLUDE_DIR onnxruntime_cxx_api.h
  HINTS ${CMAKE_CURRENT_SOURCE_DIR}/build/onnxruntime/usr/include/onnxruntime
  PATH_SUFFIXES onnxruntime)

if(NOT ONNXRUNTIME_LIBRARY AND PLAINCONV_PYTHON)
  set(find_library_of_wheel
      "import importlib.util, pathlib"
      "spec = importlib.util.find_spec('onnxruntime')"
      "capi = pathlib.Path(spec.origin).parent / 'capi' if spec else pathlib.Path('/nonexistent')"
      "print(*sorted(capi.glob('libonnxruntime.so.*'))[:1])")
  list(JOIN find_library_of_wheel "\n" find_library_of_wheel)
  execute_process(
    COMMAND ${PLAINCONV_PYTHON} -c "${find_library_of_wheel}"
    OUTPUT_VARIABLE OnnxRuntime_wheel
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(OnnxRuntime_wheel MATCHES "libonnxruntime\\.so\\.([0-9]+)([0-9.]*)$")
    set(OnnxRuntime_VERSION ${CMAKE_MATCH_1}${CMAKE_MATCH_2})
    set(OnnxRuntime_link ${CMAKE_BINARY_DIR}/onnxruntime-${OnnxRuntime_VERSION}/libonnxruntime.so.${CMAKE_MATCH_1})
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/onnxruntime-${OnnxRuntime_VERSION})
    file(CREATE_LINK ${OnnxRuntime_wheel} ${OnnxRuntime_link} SYMBOLIC)
  endif()
endif()
if(OnnxRuntime_link)
  set(OnnxRuntime_location ${OnnxRuntime_link})
else()
  find_library(ONNXRUNTIME_LIBRARY onnxruntime)
  set(OnnxRuntime_location ${ONNXRUNTIME_LIBRARY})
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OnnxRuntime
  REQUIRED_VARS OnnxRuntime_location ONNXRUNTIME_INCLUDE_DIR
  VERSION_VAR OnnxRuntime_VERSION
  REASON_FAILURE_MESSAGE "headers by cmake/onnxruntime_headers.sh, the library by -DPLAINCONV_PYTHON=.venv/bin/python")

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::OnnxRuntime)
  add_library(OnnxRuntime::OnnxRuntime SHARED IMPORTED)
  set_target_properties(OnnxRuntime::OnnxRuntime PROPERTIES IMPORTED_LOCATION ${OnnxRuntime_location}
                                                            INTERFACE_INCLUDE_DIRECTORIES ${ONNXRUNTIME_INCLUDE_DIR})
endif()
