#include "npy.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>

#include "text.hpp"

namespace plainconv {
namespace {

static_assert(std::endian::native == std::endian::little, "the elements are written as they lie in memory");

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::size_t most_header = 1U << 16U;
constexpr std::size_t most_axes = 64;  // NumPy's own limit
constexpr std::string_view remedy = "write it by numpy.save";

struct Descr {
  std::string_view text;
  DType dtype;
};

constexpr std::array<Descr, 9> descrs = {{
    {"|b1", DType::bool_},
    {"|i1", DType::int8},
    {"|u1", DType::uint8},
    {"<i4", DType::int32},
    {"<i8", DType::int64},
    {"<f2", DType::float16},
    {"<V2", DType::bfloat16},
    {"<f4", DType::float32},
    {"<f8", DType::float64},
}};

/// What the header says; nothing where a key is missing.
struct Header {
  std::optional<std::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<std::vector<std::int64_t>> shape;
};

/// Reads the header, which is the text of a Python dict.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : rest_(text) {}

  Header read() {
    Header header;
    expect('{');
    while (!take('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && !header.descr) {
        header.descr = string();
      } else if (key == "fortran_order" && !header.fortran_order) {
        header.fortran_order = boolean();
      } else if (key == "shape" && !header.shape) {
        header.shape = shape();
      } else {
        refuse();
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip();
    if (!rest_.empty() || !header.descr || !header.fortran_order || !header.shape) {
      refuse();
    }
    return header;
  }

 private:
  [[noreturn]] static void refuse() {
    throw Error(text("its header is not {'descr': …, 'fortran_order': …, 'shape': …}; ", remedy));
  }
  void skip() {
    const auto end = rest_.find_first_not_of(" \n");
    rest_.remove_prefix(std::min(end, rest_.size()));
  }
  bool take(char wanted) {
    skip();
    if (!rest_.starts_with(wanted)) {
      return false;
    }
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted)) {
      refuse();
    }
  }
  std::string_view string() {
    skip();
    const char quote = rest_.empty() ? '\0' : rest_.front();
    const auto end = quote == '\'' || quote == '"' ? rest_.find(quote, 1) : std::string_view::npos;
    if (end == std::string_view::npos) {
      refuse();
    }
    const std::string_view value = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return value;
  }
  bool boolean() {
    skip();
    for (const bool value : {true, false}) {
      const std::string_view word = value ? "True" : "False";
      if (rest_.starts_with(word)) {
        rest_.remove_prefix(word.size());
        return value;
      }
    }
    refuse();
  }
  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!take(')')) {
      skip();
      std::int64_t size = 0;
      const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), size);
      if (error != std::errc() || size < 0 || sizes.size() == most_axes) {
        refuse();
      }
      sizes.push_back(size);
      rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
      const bool comma = take(',');
      if (!comma) {
        expect(')');
        if (sizes.size() == 1) {
          refuse();  // (3) is an integer
        }
        break;
      }
    }
    return sizes;
  }

  std::string_view rest_;
};

/// Bytes of the elements; nothing where no memory holds them.
std::optional<std::size_t> bytes_of(const std::vector<std::int64_t>& shape, DType dtype) {
  std::size_t bytes = size_of(dtype);
  for (const std::int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes)) {
      return std::nullopt;
    }
  }
  return bytes;
}

/// The dtype that NumPy writes like this.
DType dtype_of_descr(std::string_view descr) {
  if (descr == "|V2") {
    return DType::bfloat16;
  }
  const auto* found = std::ranges::find(descrs, descr, &Descr::text);
  if (found == descrs.end()) {
    std::vector<std::string> names;
    std::ranges::transform(descrs, std::back_inserter(names), [](const Descr& each) { return std::string(each.text); });
    throw Error(text("its dtype is ", repr(cut(descr, 60)), ", wanted one of ", joined(names, ", "), "; convert it"));
  }
  return found->dtype;
}

/// The header's text, which is taken from the front of `bytes`.
std::string_view taken_header(std::string_view& bytes) {
  const std::string_view version = bytes.substr(0, std::min<std::size_t>(bytes.size(), magic.size() + 2));
  if (!version.starts_with(magic) || version.size() != magic.size() + 2) {
    throw Error(text("it is no .npy file; ", remedy));
  }
  const int major = static_cast<unsigned char>(version[magic.size()]);
  const int minor = static_cast<unsigned char>(version[magic.size() + 1]);
  if ((major != 1 && major != 2) || minor != 0) {
    throw Error(text("it is a .npy file of version ", major, ".", minor, ", wanted 1.0 or 2.0; ", remedy));
  }
  bytes.remove_prefix(version.size());
  const std::size_t digits = major == 1 ? 2 : 4;
  std::size_t size = 0;
  for (std::size_t i = 0; i < std::min(digits, bytes.size()); ++i) {
    size |= std::size_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  }
  if (bytes.size() < digits || size > bytes.size() - digits) {
    throw Error(text("it ends within its header; ", remedy));
  }
  const std::string_view header = bytes.substr(digits, size);
  if (size > most_header || !header.ends_with('\n')) {
    throw Error(text("its header is longer than ", most_header, " bytes or has no end; ", remedy));
  }
  bytes.remove_prefix(digits + size);
  return header;
}

}  // namespace

Array array_of_npy(std::string_view bytes) {
  Header header = HeaderReader(taken_header(bytes)).read();
  const DType dtype = dtype_of_descr(*header.descr);
  if (*header.fortran_order) {
    throw Error("its elements are in Fortran order, wanted C order; save numpy.ascontiguousarray of it");
  }
  const auto wanted = bytes_of(*header.shape, dtype);
  if (wanted != bytes.size()) {
    throw Error(text("it has ", bytes.size(), " bytes of elements, wanted ",
                     wanted ? std::to_string(*wanted) : "more than any memory holds", " for shape ",
                     shown(*header.shape), "; ", remedy));
  }
  if (dtype == DType::bool_ && std::ranges::any_of(bytes, [](char c) { return c != 0 && c != 1; })) {
    throw Error(text("it has a bool that is neither 0 nor 1; ", remedy));
  }
  Array array{dtype, std::move(*header.shape), std::vector<std::byte>(bytes.size())};
  if (!bytes.empty()) {
    std::memcpy(array.bytes.data(), bytes.data(), bytes.size());
  }
  return array;
}

std::string npy_of_array(const Array& array) {
  const auto* descr = std::ranges::find(descrs, array.dtype, &Descr::dtype);
  if (descr == descrs.end()) {
    throw Error(text("a .npy file cannot hold ", name_of(array.dtype), "; take another output"));
  }
  std::string sizes;
  for (std::size_t i = 0; i < array.shape.size(); ++i) {
    sizes += text(i == 0 ? "" : ", ", array.shape[i]);
  }
  sizes += array.shape.size() == 1 ? "," : "";
  std::string header = text("{'descr': '", descr->text, "', 'fortran_order': False, 'shape': (", sizes, "), }");
  // NumPy pads so that the elements begin at a multiple of 64, and leaves room for the first axis to grow to 21 digits
  constexpr std::size_t alignment = 64;
  constexpr std::size_t growth = 21;
  if (!array.shape.empty()) {
    header.append(growth - std::to_string(array.shape.front()).size(), ' ');
  }
  const std::size_t before = magic.size() + 4;
  header.append(alignment - (before + header.size() + 1) % alignment, ' ');
  header += '\n';
  std::string all(magic);
  all += '\x01';
  all += '\x00';
  all += static_cast<char>(header.size() & 0xFFU);
  all += static_cast<char>(header.size() >> 8U);
  all += header;
  const auto* data = reinterpret_cast<const char*>(array.bytes.data());  // NOLINT(*-reinterpret-cast): bytes as chars
  return all.append(data, array.bytes.size());
}

}  // namespace plainconv
