#include "predict/image.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "text.hpp"
#ifdef PLAINCONV_IMAGES
#include "predict/decoders.hpp"
#endif

namespace plainconv {
namespace {

constexpr std::uint8_t white = 255;
/// Bytes of a file: more than the most pixels take with nothing compressed. A device may give them without end.
constexpr std::size_t most_bytes = std::size_t{1} << 30;

/// a / 255, rounded, of 0 to 255·255.
int divided(int a) { return (((a + 128) >> 8) + a + 128) >> 8; }

/// On white, where it is clear.
void make_opaque(Image& image) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < image.bytes.size(); i += 4) {
    const int share = image.bytes[i + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      image.bytes[at++] = static_cast<std::uint8_t>(divided(white * (white - share) + image.bytes[i + c] * share));
    }
  }
  image.bytes.resize(at);
  image.channels = 3;
}

/// RGB to shades by ITU-R 601-2, or shades to RGB.
void make(Image& image, std::int64_t channels) {
  if (image.channels == channels) {
    return;
  }
  std::vector<std::uint8_t> made;
  made.reserve(static_cast<std::size_t>(image.height * image.width * channels));
  for (std::size_t i = 0; i < image.bytes.size(); i += static_cast<std::size_t>(image.channels)) {
    if (channels == 3) {
      made.insert(made.end(), 3, image.bytes[i]);
    } else {
      const unsigned shade = image.bytes[i] * 19595U + image.bytes[i + 1] * 38470U + image.bytes[i + 2] * 7471U;
      made.push_back(static_cast<std::uint8_t>((shade + 0x8000U) >> 16U));
    }
  }
  image.bytes = std::move(made);
  image.channels = channels;
}

/// As EXIF says to hold it: 2 mirrored, 3 upside down, 4 both; 5 to 8 the same with rows and columns exchanged.
void turn(Image& image, int orientation) {
  const bool is_crossed = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_below = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image turned{is_crossed ? image.width : image.height, is_crossed ? image.height : image.width, image.channels, {}};
  turned.bytes.reserve(image.bytes.size());
  for (std::int64_t y = 0; y < turned.height; ++y) {
    for (std::int64_t x = 0; x < turned.width; ++x) {
      const std::int64_t row = is_crossed ? x : y;
      const std::int64_t column = is_crossed ? y : x;
      const std::int64_t at =
          (from_below ? image.height - 1 - row : row) * image.width + (from_right ? image.width - 1 - column : column);
      const auto pixel = image.bytes.begin() + at * image.channels;
      turned.bytes.insert(turned.bytes.end(), pixel, pixel + image.channels);
    }
  }
  image = std::move(turned);
}

Upright finished(Image image, std::string said, std::string_view color) {
  if (image.channels == 4) {
    make_opaque(image);
  }
  make(image, color == "gray" ? 1 : 3);
  said += color == "gray" ? ", gray" : color == "rgb" ? ", RGB" : ", BGR";
  return {std::move(image), std::move(said)};
}

std::string said_of(std::string_view kind, std::int64_t width, std::int64_t height) {
  return text(kind, " of ", width, "×", height);
}

}  // namespace

ImageHead head_of(std::span<const std::byte> file, std::string_view name, std::int64_t most) {
#ifdef PLAINCONV_IMAGES
  std::optional<ImageHead> head = head_of_png(file);
  if (!head) {
    head = head_of_jpeg(file);
  }
  if (!head) {
    throw ImageError(text(name, " is no image that can be read; give one of PNG, JPEG"));
  }
  if (head->height != 0 && head->width > most / head->height) {
    throw ImageError(text("the image has more than ", most, " pixels; give a smaller one"), true);
  }
  return *head;
#else
  (void)file;
  (void)most;
  throw EngineError(text(name, " cannot be decoded: this library was built without libpng and libjpeg; give pixels"));
#endif
}

Upright upright(std::span<const std::byte> file, const ImageHead& head, std::string_view color) {
  Image image{head.height, head.width, 3, {}};
  bool is_sound = false;
#ifdef PLAINCONV_IMAGES
  is_sound = head.kind == "PNG" ? decode_png(file, image) : decode_jpeg(file, image);
#else
  (void)file;
#endif
  if (!is_sound) {
    throw ImageError(text("the ", head.kind, " file is damaged, or cut short; send the whole file"));
  }
  std::string said = said_of(head.kind, head.width, head.height);
  if (head.orientation >= 2 && head.orientation <= 8) {
    turn(image, head.orientation);
    said += ", turned upright";
  }
  return finished(std::move(image), std::move(said), color);
}

Upright upright(const Pixels& pixels, std::string_view color) {
  const auto is_side = [](std::int64_t side) { return side > 0 && side <= INT32_MAX; };
  const auto size = static_cast<std::uint64_t>(pixels.height) * static_cast<std::uint64_t>(pixels.width) *
                    static_cast<std::uint64_t>(pixels.channels);
  const bool fits = is_side(pixels.height) && is_side(pixels.width) && (pixels.channels == 1 || pixels.channels == 3) &&
                    pixels.bytes.size() == size;
  Image image{pixels.height, pixels.width, pixels.channels, {}};
  if (!fits) {
    throw ImageError(text("the image is ", pixels.bytes.size(), " bytes for ", pixels.height, "×", pixels.width, "×",
                          pixels.channels, ", wanted height × width × 3, RGB, or × 1"));
  }
  image.bytes.assign(pixels.bytes.begin(), pixels.bytes.end());
  return finished(std::move(image), said_of("image", pixels.width, pixels.height), color);
}

std::vector<std::byte> bytes_of_image(const std::filesystem::path& file) {
  std::error_code code;
  const bool is_folder = std::filesystem::is_directory(file, code);
  errno = 0;
  std::ifstream stream(file, std::ios::binary);
  if (is_folder || !stream.is_open()) {
    throw ImageError(text(file.native(), " cannot be read (",
                          std::generic_category().message(is_folder ? EISDIR : errno), "); wanted an image file"));
  }
  std::vector<std::byte> bytes;
  for (std::size_t read = 0; stream && bytes.size() <= most_bytes;) {
    bytes.resize(std::min(std::max<std::size_t>(2 * read, 1 << 20), most_bytes + 1));
    stream.read(reinterpret_cast<char*>(bytes.data() + read),  // NOLINT(*-reinterpret-cast): bytes are characters
                static_cast<std::streamsize>(bytes.size() - read));
    read += static_cast<std::size_t>(stream.gcount());
    bytes.resize(read);
  }
  if (bytes.size() > most_bytes) {
    throw ImageError(text(file.native(), " cannot be read (larger than ", most_bytes, " bytes); wanted an image file"));
  }
  return bytes;
}

}  // namespace plainconv
