#include <doctest/doctest.h>

#include <cstring>

#include "doubles.hpp"
#include "npy.hpp"

namespace {

std::string npy(const std::string& header, std::size_t elements, char major = '\x01') {
  std::string all = "\x93NUMPY";
  all += major;
  all += '\0';
  for (int i = 0; i < (major == '\x01' ? 2 : 4); ++i) {
    all += static_cast<char>((header.size() >> (8 * i)) & 0xFFU);
  }
  return all + header + std::string(elements, '\0');
}

std::string refused(const std::string& bytes) {
  return thrown_by<plainconv::Error>([&] { (void)plainconv::array_of_npy(bytes); });
}

}  // namespace

TEST_CASE("arrays survive their .npy file") {
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{}, {3}, {0, 2}, {2, 3, 4}}) {
    plainconv::Array array{plainconv::DType::float32, shape, {}};
    std::size_t count = 1;
    for (const auto size : shape) {
      count *= static_cast<std::size_t>(size);
    }
    array.bytes.assign(4 * count, std::byte{7});
    const std::string bytes = plainconv::npy_of_array(array);
    CHECK((bytes.size() - array.bytes.size()) % 64 == 0);
    const auto again = plainconv::array_of_npy(bytes);
    CHECK(again.shape == shape);
    CHECK(again.bytes == array.bytes);
  }
}

TEST_CASE("headers that Python takes are taken") {
  CHECK(refused(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", 24)).empty());
  CHECK(refused(npy("{\"shape\":(2,),\"descr\":\"<i8\",\"fortran_order\":False}\n", 16, '\x02')).empty());
  CHECK(refused(npy("{'descr': '|b1', 'fortran_order': False, 'shape': ()}\n", 1)).empty());
}

TEST_CASE("what is no such file is refused in one line") {
  const std::string good = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n", 4);
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK(!refused(good.substr(0, size)).empty());
  }
  CHECK(contains(refused(good + "x"), "5 bytes of elements, wanted 4"));
  const auto header = [](const std::string& descr, const std::string& order, const std::string& shape) {
    return refused(npy("{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + "}\n", 4));
  };
  CHECK(contains(header("'>f4'", "False", "(1,)"), "its dtype is '>f4', wanted one of |b1"));
  CHECK(contains(header("'<f4'", "True", "(1,)"), "Fortran order"));
  for (const char* shape : {"(1)", "(-1,)", "(1,,)", "[1]", "(1", "1", "(99999999999999999999,)", "(1L,)"}) {
    CHECK(contains(header("'<f4'", "False", shape), "its header is not"));
  }
  CHECK(contains(header("'<f4'", "False", "(4611686018427387904, 4611686018427387904)"), "more than any memory"));
  CHECK(contains(refused(npy("{'descr': '|b1', 'fortran_order': False, 'shape': (1,)}\n", 0) + "\x02"), "bool"));
  CHECK(contains(refused("\x93NUMPY\x03" + good.substr(7)), "version 3.0"));
}
