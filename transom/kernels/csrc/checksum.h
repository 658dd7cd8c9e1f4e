// 128-bit checksum of stored slots: finds damage, keeps no secrets.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.h"

namespace transom {

struct Checksum {
  uint64_t low = 0;   // lanes 0 and 1
  uint64_t high = 0;  // lanes 2 and 3
  bool operator==(const Checksum&) const = default;
};

struct ChecksumKernels {
  // Four CRC-32C (Castagnoli) side by side: word i, 8 bytes little-endian, belongs to lane i mod 4, which keeps the
  // processor's CRC unit busy. The last word is padded with zeros; the number of bytes follows as one more word of lane
  // 0. Any flipped bit, any burst of up to 32 bits changes it, and so does any truncation. Any thread.
  Checksum (*checksum)(const std::byte* data, size_t num_bytes);
};

TRANSOM_DECLARE_PER_ISA(ChecksumKernels, checksum_kernels)

inline Checksum checksum(const std::byte* data, size_t num_bytes) {
  return TRANSOM_PICK(checksum_kernels).checksum(data, num_bytes);
}

}  // namespace transom
