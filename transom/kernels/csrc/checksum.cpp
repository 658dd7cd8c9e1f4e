// CRC-32C in four lanes: by the processor's own instruction where the instruction set has it, else by tables.
#include "checksum.h"

#include <cstring>

#if defined(__SSE4_2__)
#include <nmmintrin.h>
#endif

namespace transom::TRANSOM_ISA {
namespace {

constexpr size_t kWordBytes = 8;
constexpr size_t kGroupBytes = 4 * kWordBytes;

#if defined(__SSE4_2__)

inline uint32_t step(uint32_t crc, uint64_t word) { return static_cast<uint32_t>(_mm_crc32_u64(crc, word)); }

#else

constexpr uint32_t kPolynomial = 0x82F63B78;  // Castagnoli, bits reversed

struct Tables {
  uint32_t after[kWordBytes][256];  // after[k][b]: what byte b contributes when k bytes of the word follow it

  constexpr Tables() : after{} {
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t crc = byte;
      for (auto& table : after) table[byte] = crc = shifted_by_a_byte(crc);
    }
  }

  static constexpr uint32_t shifted_by_a_byte(uint32_t crc) {
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0);
    return crc;
  }
};
constexpr Tables kTables;

inline uint32_t step(uint32_t crc, uint64_t word) {
  word ^= crc;
  uint32_t result = 0;
  for (size_t i = 0; i < kWordBytes; ++i) result ^= kTables.after[kWordBytes - 1 - i][(word >> (8 * i)) & 0xFF];
  return result;
}

#endif

// At most eight bytes as a little-endian word.
inline uint64_t word_at(const std::byte* data, size_t num_bytes = kWordBytes) {
  uint64_t word = 0;
  std::memcpy(&word, data, num_bytes);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

struct Lanes {
  uint32_t crc[4] = {0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF};

  void take_groups(const std::byte* data, size_t num_groups) {
    uint32_t a = crc[0], b = crc[1], c = crc[2], d = crc[3];
    for (const std::byte* end = data + num_groups * kGroupBytes; data != end; data += kGroupBytes) {
      a = step(a, word_at(data));
      b = step(b, word_at(data + kWordBytes));
      c = step(c, word_at(data + 2 * kWordBytes));
      d = step(d, word_at(data + 3 * kWordBytes));
    }
    crc[0] = a, crc[1] = b, crc[2] = c, crc[3] = d;
  }

  // Less than a group; the last word may be cut.
  void take_tail(const std::byte* data, size_t num_bytes) {
    for (int lane = 0; num_bytes > 0; ++lane) {
      const size_t size = num_bytes < kWordBytes ? num_bytes : kWordBytes;
      crc[lane] = step(crc[lane], word_at(data, size));
      data += size;
      num_bytes -= size;
    }
  }

  uint64_t joined(int lane) const { return ~crc[lane] | static_cast<uint64_t>(~crc[lane + 1]) << 32; }
};

Checksum checksum(const std::byte* data, size_t num_bytes) {
  const size_t num_groups = num_bytes / kGroupBytes;
  Lanes lanes;
  lanes.take_groups(data, num_groups);
  lanes.take_tail(data + num_groups * kGroupBytes, num_bytes % kGroupBytes);
  lanes.crc[0] = step(lanes.crc[0], num_bytes);
  return {lanes.joined(0), lanes.joined(2)};
}

}  // namespace

extern const ChecksumKernels checksum_kernels = {&checksum};

}  // namespace transom::TRANSOM_ISA
