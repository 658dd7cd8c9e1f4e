// The element types of weights, and how ggml's quantised ones lie in a row of a file.
#pragma once

#include <cstdint>

namespace transom {

enum class WeightType { f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs };

constexpr int kNumWeightTypes = 15;

// A row is a sequence of blocks: block_bytes for block_size weights.
struct WeightTypeFacts {
  const char* name;
  int64_t block_size;
  int64_t block_bytes;
};

constexpr WeightTypeFacts kWeightTypeFacts[kNumWeightTypes] = {
    {"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},     {"q8_0", 32, 34},   {"q4_0", 32, 18},
    {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},   {"q2_k", 256, 84},  {"q3_k", 256, 110},
    {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210}, {"iq4_nl", 32, 18}, {"iq4_xs", 256, 136},
};

constexpr const WeightTypeFacts& facts_of(WeightType type) { return kWeightTypeFacts[static_cast<int>(type)]; }

constexpr bool is_quantized(WeightType type) { return facts_of(type).block_size > 1; }

// in_features must be a multiple of the type's block size.
constexpr int64_t row_bytes(WeightType type, int64_t in_features) {
  return in_features / facts_of(type).block_size * facts_of(type).block_bytes;
}

// Calls visit.operator()<type>() for a quantised type, which so becomes a template argument.
template <class Visit>
auto visit_quantized(WeightType type, const Visit& visit) {
  switch (type) {
    case WeightType::q4_0:
      return visit.template operator()<WeightType::q4_0>();
    case WeightType::q4_1:
      return visit.template operator()<WeightType::q4_1>();
    case WeightType::q5_0:
      return visit.template operator()<WeightType::q5_0>();
    case WeightType::q5_1:
      return visit.template operator()<WeightType::q5_1>();
    case WeightType::q2_k:
      return visit.template operator()<WeightType::q2_k>();
    case WeightType::q3_k:
      return visit.template operator()<WeightType::q3_k>();
    case WeightType::q4_k:
      return visit.template operator()<WeightType::q4_k>();
    case WeightType::q5_k:
      return visit.template operator()<WeightType::q5_k>();
    case WeightType::q6_k:
      return visit.template operator()<WeightType::q6_k>();
    case WeightType::iq4_nl:
      return visit.template operator()<WeightType::iq4_nl>();
    case WeightType::iq4_xs:
      return visit.template operator()<WeightType::iq4_xs>();
    default:
      return visit.template operator()<WeightType::q8_0>();
  }
}

}  // namespace transom
