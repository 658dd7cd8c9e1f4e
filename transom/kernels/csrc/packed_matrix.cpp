#include "packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#include "dispatch.h"

namespace transom {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 40;

int64_t checked(int64_t out_features, int64_t in_features, WeightType type) {
  if (out_features < 1 || in_features < 1)
    throw std::invalid_argument("a matrix needs at least one row and one column");
  check_in_features(type, in_features);
  if (out_features > kMaxElements / in_features) throw std::bad_alloc();
  return out_features;
}

int64_t bytes_of_panel(WeightType type, int64_t in_features) {
  return is_quantized(type) ? quantized_panel_bytes(type, in_features) : kPanelRows * row_bytes(type, in_features);
}

// Copies source[K] to every 16th element of the panel. Elements are moved, not interpreted.
template <class Element>
void write_lane(const std::byte* source, int64_t begin, int64_t end, Element* panel, int64_t lane) {
  for (int64_t k = begin; k < end; ++k)
    std::memcpy(panel + k * kPanelRows + lane, source + k * sizeof(Element), sizeof(Element));
}

template <class Element>
void fill_panel(Element* panel, int64_t in_features, const std::byte* rows, int64_t first_lane, int64_t last_lane) {
  constexpr int64_t kStep = 128;  // keeps the written part of the panel in the first-level cache
  for (int64_t begin = 0; begin < in_features; begin += kStep) {
    const int64_t end = std::min(begin + kStep, in_features);
    for (int64_t lane = first_lane; lane < last_lane; ++lane) {
      const int64_t row_bytes = in_features * static_cast<int64_t>(sizeof(Element));
      write_lane(rows + (lane - first_lane) * row_bytes, begin, end, panel, lane);
    }
  }
}

}  // namespace

void check_in_features(WeightType type, int64_t in_features) {
  const WeightTypeFacts& facts = facts_of(type);
  if (in_features % facts.block_size == 0) return;
  throw std::invalid_argument("a " + std::string(facts.name) + " matrix needs a multiple of " +
                              std::to_string(facts.block_size) + " columns, not " + std::to_string(in_features));
}

int64_t packed_bytes(int64_t out_features, int64_t in_features, WeightType type) {
  const int64_t num_rows = checked(out_features, in_features, type);
  return (num_rows + kPanelRows - 1) / kPanelRows * bytes_of_panel(type, in_features);
}

PackedMatrix::PackedMatrix(int64_t out_features, int64_t in_features, WeightType type)
    : out_features_(checked(out_features, in_features, type)),
      in_features_(in_features),
      type_(type),
      panel_bytes_(bytes_of_panel(type, in_features)),
      memory_(allocate_huge(static_cast<size_t>(num_bytes()))) {}

void PackedMatrix::fill(int64_t first_row, const std::byte* rows, int64_t num_rows) {
  if (num_rows == 0) return;
  const int64_t bytes_per_row = row_bytes(type_, in_features_);
  const int64_t first_panel = first_row / kPanelRows;
  const int64_t last_panel = (first_row + num_rows - 1) / kPanelRows;
  share_out(last_panel - first_panel + 1, num_rows * in_features_, [&](int64_t index) {
    const int64_t top = (first_panel + index) * kPanelRows;
    const int64_t begin = std::max(first_row, top);
    const int64_t end = std::min(first_row + num_rows, top + kPanelRows);
    const std::byte* source = rows + (begin - first_row) * bytes_per_row;
    std::byte* target = memory_.get() + (first_panel + index) * panel_bytes_;
    if (is_quantized(type_)) {
      pack_quantized_rows(type_, in_features_, source, end - begin, begin - top, target);
    } else if (type_ == WeightType::f32) {
      fill_panel(reinterpret_cast<uint32_t*>(target), in_features_, source, begin - top, end - top);
    } else {
      fill_panel(reinterpret_cast<uint16_t*>(target), in_features_, source, begin - top, end - top);
    }
  });
}

}  // namespace transom
