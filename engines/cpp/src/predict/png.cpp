// PNG: its chunks, and its pixels by libpng. How samples become 8-bit colours is Pillow's way.
#include <png.h>

#include <array>
#include <csetjmp>
#include <cstring>
#include <string>
#include <vector>

#include "predict/decoders.hpp"
#include "predict/orientation.hpp"
#include "predict/reader.hpp"

namespace plainconv {
namespace {

constexpr std::string_view signature("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view xmp_name("XML:com.adobe.xmp\0", 18);

bool is_word(std::string_view name) {
  return std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  });
}

bool is_known(unsigned bits, unsigned color) {
  switch (color) {
    case PNG_COLOR_TYPE_GRAY: return bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16;
    case PNG_COLOR_TYPE_PALETTE: return bits == 1 || bits == 2 || bits == 4 || bits == 8;
    case PNG_COLOR_TYPE_RGB:
    case PNG_COLOR_TYPE_GRAY_ALPHA:
    case PNG_COLOR_TYPE_RGB_ALPHA: return bits == 8 || bits == 16;
    default: return false;
  }
}

/// The checksum of a chunk, over its name and data.
std::uint32_t checksum_of(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0xFFFFFFFF;
  for (const std::byte each : bytes) {
    sum ^= std::to_integer<std::uint32_t>(each);
    for (int bit = 0; bit < 8; ++bit) {
      sum = (sum >> 1U) ^ ((sum & 1U) != 0 ? 0xEDB88320U : 0U);
    }
  }
  return ~sum;
}

/// libpng reading a file that is in memory. Nothing between `setjmp` and `longjmp` has a destructor.
struct Decoder {
  png_structp png = nullptr;
  png_infop info = nullptr;
  int bits = 8;  // of a sample in the file
  ByteReader bytes;

  explicit Decoder(std::span<const std::byte> file) : bytes(file) {}
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  Decoder(Decoder&&) = delete;
  Decoder& operator=(Decoder&&) = delete;
  ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }

  bool start() {
    png = png_create_read_struct(
        PNG_LIBPNG_VER_STRING, nullptr, [](png_structp each, png_const_charp) { png_longjmp(each, 1); },
        [](png_structp, png_const_charp) {});
    info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr || setjmp(png_jmpbuf(png)) != 0) {  // NOLINT(*-err52-cpp)
      return false;
    }
    png_set_crc_action(png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);  // those before the pixels have been checked
    png_set_read_fn(png, this, [](png_structp each, png_bytep to, std::size_t count) {
      auto& from = static_cast<Decoder*>(png_get_io_ptr(each))->bytes;
      if (!from.has(count)) {
        png_error(each, "cut short");
      }
      std::memcpy(to, from.take(count).data(), count);
    });
    png_read_info(png, info);
    bits = png_get_bit_depth(png, info);
    png_set_packing(png);  // samples of less than a byte in a byte each
    (void)png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return true;
  }

  bool read(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png)) != 0) {  // NOLINT(*-err52-cpp)
      return false;
    }
    png_read_image(png, rows);
    return true;
  }
};

/// How samples of a file become colours.
class Colours {
 public:
  Colours(png_structp png, png_infop info, int bits) : bits_(bits), type_(png_get_color_type(png, info)) {
    png_bytep alpha = nullptr;
    png_color_16p key = nullptr;
    int alphas = 0;
    has_key_ = png_get_tRNS(png, info, &alpha, &alphas, &key) != 0 && type_ != PNG_COLOR_TYPE_PALETTE &&
               !(type_ == PNG_COLOR_TYPE_GRAY && bits_ == 16);
    if (has_key_ && type_ == PNG_COLOR_TYPE_GRAY) {
      key_.fill(static_cast<std::uint8_t>(bits_ == 1 ? (key->gray != 0 ? 255 : 0) : key->gray));
    } else if (has_key_) {
      key_ = {static_cast<std::uint8_t>(key->red), static_cast<std::uint8_t>(key->green),
              static_cast<std::uint8_t>(key->blue)};
    }
    png_colorp palette = nullptr;
    int colors = 0;
    if (type_ == PNG_COLOR_TYPE_PALETTE && png_get_PLTE(png, info, &palette, &colors) != 0) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(colors); ++i) {
        const png_color& color = palette[i];  // NOLINT(*-pointer-arithmetic)
        palette_.at(i) = {color.red, color.green, color.blue, 255};
      }
      for (std::size_t i = 0; i < static_cast<std::size_t>(alphas); ++i) {
        palette_.at(i)[3] = alpha[i];  // NOLINT(*-pointer-arithmetic)
      }
    }
    is_clear_ = has_key_ || alphas > 0 || (type_ & PNG_COLOR_MASK_ALPHA) != 0;
  }

  /// 1: gray; 3: RGB; 4: with alpha.
  [[nodiscard]] std::int64_t channels() const noexcept { return is_clear_ ? 4 : type_ == PNG_COLOR_TYPE_GRAY ? 1 : 3; }
  /// Bytes of a pixel in the file.
  [[nodiscard]] std::size_t size() const noexcept { return samples() * (bits_ == 16 ? 2 : 1); }

  void convert(const std::uint8_t* from, std::uint8_t* to) const {  // NOLINTBEGIN(*-pointer-arithmetic)
    std::array<std::uint8_t, 4> rgba{};
    if (type_ == PNG_COLOR_TYPE_PALETTE) {
      rgba = palette_.at(*from);
    } else {
      const bool is_gray = (type_ & PNG_COLOR_MASK_COLOR) == 0;
      for (std::size_t c = 0; c < 3; ++c) {
        rgba.at(c) = sample(from, is_gray ? 0 : c);
      }
      const bool is_key = has_key_ && std::equal(key_.begin(), key_.end(), rgba.begin());
      rgba[3] = (type_ & PNG_COLOR_MASK_ALPHA) != 0 ? sample(from, samples() - 1) : is_key ? 0 : 255;
    }
    std::copy_n(rgba.begin(), channels(), to);
  }  // NOLINTEND(*-pointer-arithmetic)

 private:
  [[nodiscard]] std::size_t samples() const noexcept {
    return type_ == PNG_COLOR_TYPE_PALETTE
               ? 1
               : ((type_ & PNG_COLOR_MASK_COLOR) != 0 ? 3U : 1U) + ((type_ & PNG_COLOR_MASK_ALPHA) != 0 ? 1U : 0U);
  }

  /// In 8 bits: of 16-bit colours the high byte, of 16-bit shades of gray the nearest.
  [[nodiscard]] std::uint8_t sample(const std::uint8_t* from,
                                    std::size_t i) const {  // NOLINTBEGIN(*-pointer-arithmetic)
    if (bits_ == 16) {
      const unsigned deep = (unsigned{from[2 * i]} << 8U) | from[2 * i + 1];
      return static_cast<std::uint8_t>(type_ == PNG_COLOR_TYPE_GRAY ? (deep + 128) / 257 : deep >> 8U);
    }
    return static_cast<std::uint8_t>(from[i] * (255 / ((1 << bits_) - 1)));
  }  // NOLINTEND(*-pointer-arithmetic)

  int bits_;
  int type_;
  bool has_key_ = false;
  bool is_clear_ = false;
  std::array<std::uint8_t, 3> key_{};
  std::array<std::array<std::uint8_t, 4>, 256> palette_{};
};

}  // namespace

std::optional<ImageHead> head_of_png(std::span<const std::byte> file) {
  if (!text_in(file).starts_with(signature)) {
    return std::nullopt;
  }
  ImageHead head{"PNG"};
  std::optional<int> exif;
  std::optional<int> xmp;
  bool has_pixels = false;
  ByteReader chunks(file.subspan(signature.size()));
  while (chunks.has(8)) {
    const std::size_t size = number_of(chunks.take(4), 4);
    const auto chunk = chunks.peek(4 + size);  // its name and data
    const std::string_view name = text_in(chunk).substr(0, 4);
    const auto data = chunk.subspan(4);
    has_pixels = has_pixels || name == "IDAT";
    if (!is_word(name) || name == "IEND" || !chunks.has(4 + size + 4)) {
      break;
    }
    (void)chunks.take(4 + size);
    if (const auto sum = number_of(chunks.take(4), 4); !has_pixels && sum != checksum_of(chunk)) {
      break;
    }
    if (name == "IHDR" && size >= 13) {
      head.width = number_of(data, 4);
      head.height = number_of(data.subspan(4), 4);
      if (!is_known(number_of(data.subspan(8), 1), number_of(data.subspan(9), 1))) {
        break;
      }
    } else if (name == "eXIf") {
      exif = orientation_of_exif(data);
    } else if (name == "iTXt" && text_in(data).starts_with(xmp_name)) {
      xmp = orientation_of_xmp(text_in(data));
    }
  }
  if (!has_pixels || head.width == 0) {
    return std::nullopt;
  }
  head.orientation = exif.value_or(xmp.value_or(1));
  return head;
}

bool decode_png(std::span<const std::byte> file, Image& image) {
  Decoder decoder(file);
  if (!decoder.start()) {
    return false;
  }
  const Colours colours(decoder.png, decoder.info, decoder.bits);
  const auto height = static_cast<std::size_t>(image.height);
  const auto width = static_cast<std::size_t>(image.width);
  std::vector<std::uint8_t> samples(height * width * colours.size());
  std::vector<png_bytep> rows(height);
  for (std::size_t y = 0; y < height; ++y) {
    rows[y] = samples.data() + y * width * colours.size();  // NOLINT(*-pointer-arithmetic)
  }
  if (!decoder.read(rows.data())) {
    return false;
  }
  image.channels = colours.channels();
  const auto channels = static_cast<std::size_t>(image.channels);
  image.bytes.resize(height * width * channels);
  for (std::size_t i = 0; i < height * width; ++i) {
    colours.convert(&samples[i * colours.size()], &image.bytes[i * channels]);
  }
  return true;
}

}  // namespace plainconv
