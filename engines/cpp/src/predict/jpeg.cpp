// JPEG: its markers up to the first scan, and its pixels by libjpeg-turbo.
#include <array>
#include <csetjmp>
#include <cstdio>
#include <string>
// after <cstdio>
#include <jpeglib.h>

#include "predict/decoders.hpp"
#include "predict/orientation.hpp"
#include "predict/reader.hpp"

namespace plainconv {
namespace {

constexpr unsigned first_marker = 0xC0;
constexpr unsigned start_of_scan = 0xDA;
constexpr unsigned app1 = 0xE1;
constexpr std::string_view exif_name("Exif\0\0", 6);
constexpr std::string_view xmp_name("http://ns.adobe.com/xap/1.0/\0", 29);

bool is_alone(unsigned marker) {  // no bytes of its own follow it
  return marker == 0xC8 || (marker >= 0xD0 && marker <= 0xD9) || (marker >= 0xF0 && marker <= 0xFD);
}

bool is_frame(unsigned marker) {
  return (marker >= first_marker && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) ||
         marker == 0xDE;
}

/// Take the size of a frame; false where it is of a kind that is not read.
bool take_frame(std::span<const std::byte> frame, ImageHead& head) {
  if (frame.size() < 6) {
    return false;
  }
  const auto bits = number_of(frame, 1);
  const auto channels = number_of(frame.subspan(5), 1);
  head.height = number_of(frame.subspan(1), 2);
  head.width = number_of(frame.subspan(3), 2);
  return bits == 8 && (channels == 1 || channels == 3 || channels == 4);
}

struct Failure {
  jpeg_error_mgr manager;
  std::jmp_buf out;
};

[[noreturn]] void fail(j_common_ptr jpeg) {
  std::longjmp(reinterpret_cast<Failure*>(jpeg->err)->out, 1);  // NOLINT: it is the first member; libjpeg is C
}

void say_nothing(j_common_ptr /*jpeg*/) {}

/// libjpeg, and the row that goes with it. Nothing between `setjmp` and `longjmp` has a destructor.
struct Decoder {
  jpeg_decompress_struct jpeg{};
  Failure failure{};
  jpeg_source_mgr source{};

  Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  Decoder(Decoder&&) = delete;
  Decoder& operator=(Decoder&&) = delete;
  ~Decoder() { jpeg_destroy_decompress(&jpeg); }

  /// Begin, on a file of which nothing more will come: what is cut short suspends.
  bool start(std::span<const std::byte> file) {
    jpeg.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = fail;
    failure.manager.output_message = say_nothing;
    if (setjmp(failure.out) != 0) {  // NOLINT(*-err52-cpp)
      return false;
    }
    jpeg_create_decompress(&jpeg);
    jpeg.src = &source;
    source.init_source = [](j_decompress_ptr) {};
    source.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
    source.skip_input_data = [](j_decompress_ptr each, long count) {
      const auto most = static_cast<long>(each->src->bytes_in_buffer);
      const auto skipped = static_cast<std::size_t>(count < most ? count : most);
      each->src->next_input_byte += skipped;  // NOLINT(*-pointer-arithmetic)
      each->src->bytes_in_buffer -= skipped;
    };
    source.resync_to_restart = jpeg_resync_to_restart;
    source.term_source = [](j_decompress_ptr) {};
    source.next_input_byte = reinterpret_cast<const JOCTET*>(file.data());  // NOLINT(*-reinterpret-cast)
    source.bytes_in_buffer = file.size();
    if (jpeg_read_header(&jpeg, TRUE) != JPEG_HEADER_OK) {
      return false;
    }
    const bool is_gray = jpeg.num_components == 1;
    jpeg.out_color_space = is_gray ? JCS_GRAYSCALE : jpeg.num_components == 3 ? JCS_RGB : JCS_CMYK;
    return jpeg_start_decompress(&jpeg) != FALSE;
  }

  /// All rows, `stride` bytes each.
  bool read(std::uint8_t* row, std::size_t stride) {
    if (setjmp(failure.out) != 0) {  // NOLINT(*-err52-cpp)
      return false;
    }
    while (jpeg.output_scanline < jpeg.output_height) {
      if (jpeg_read_scanlines(&jpeg, &row, 1) != 1) {
        return false;
      }
      row += stride;  // NOLINT(*-pointer-arithmetic)
    }
    (void)jpeg_finish_decompress(&jpeg);
    return true;
  }
};

/// Inks, which Adobe's files have inverted, to RGB.
void rgb_of_inks(Image& image) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < image.bytes.size(); i += 4) {
    const int paper = image.bytes[i + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      const int share = (255 - image.bytes[i + c]) * paper + 128;
      image.bytes[at++] = static_cast<std::uint8_t>(paper - (((share >> 8) + share) >> 8));
    }
  }
  image.bytes.resize(at);
  image.channels = 3;
}

}  // namespace

std::optional<ImageHead> head_of_jpeg(std::span<const std::byte> file) {
  if (!text_in(file).starts_with("\xFF\xD8\xFF")) {
    return std::nullopt;
  }
  ImageHead head{"JPEG"};
  std::string exif;
  std::string xmp;
  bool has_frame = false;
  ByteReader bytes(file.subspan(2));
  while (bytes.has(2)) {
    if (number_of(bytes.take(1), 1) != 0xFF) {
      continue;
    }
    unsigned marker = 0xFF;
    while (marker == 0xFF && bytes.has(1)) {
      marker = number_of(bytes.take(1), 1);
    }
    if (marker == 0 || marker == 0xFF || is_alone(marker)) {
      continue;
    }
    if (marker < first_marker || !bytes.has(2)) {
      return std::nullopt;
    }
    const std::size_t size = number_of(bytes.take(2), 2);
    if (size < 2 || !bytes.has(size - 2)) {
      return std::nullopt;
    }
    const auto block = bytes.take(size - 2);
    const std::string_view said = text_in(block);
    if (is_frame(marker)) {
      has_frame = true;
      if (!take_frame(block, head)) {
        return std::nullopt;
      }
    } else if (marker == app1 && said.starts_with(exif_name)) {
      exif += said.substr(exif_name.size());
    } else if (marker == app1 && said.starts_with(xmp_name)) {
      xmp = said.substr(xmp_name.size());
    } else if (marker == start_of_scan) {
      break;
    }
  }
  if (!has_frame || head.width == 0) {
    return std::nullopt;
  }
  const auto turned = orientation_of_exif(std::as_bytes(std::span(exif)));
  head.orientation = turned ? *turned : orientation_of_xmp(xmp).value_or(1);
  return head;
}

bool decode_jpeg(std::span<const std::byte> file, Image& image) {
  Decoder decoder;
  if (!decoder.start(file) || decoder.jpeg.output_height != static_cast<JDIMENSION>(image.height) ||
      decoder.jpeg.output_width != static_cast<JDIMENSION>(image.width)) {
    return false;
  }
  image.channels = decoder.jpeg.out_color_components;
  const auto stride = static_cast<std::size_t>(image.width * image.channels);
  image.bytes.resize(stride * static_cast<std::size_t>(image.height));
  if (!decoder.read(image.bytes.data(), stride)) {
    return false;
  }
  if (image.channels == 4) {
    rgb_of_inks(image);
  }
  return true;
}

}  // namespace plainconv
