// The border between the row-wise kernels' bindings (compiled once) and their code (once per instruction set).
#pragma once

#include <cstdint>

#include "dispatch.h"

namespace transom {

// Pairs (i, i + half) of every head of one token turn by the angle whose cosine and sine are given.
struct Rotation {
  const float* cosine;  // [half]
  const float* sine;    // [half]
  int64_t half;
};

struct ElementwiseKernels {
  // out[width] = x / sqrt(mean(x^2) + epsilon) * weight
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t width, float* out);
  // x[width] += update, then the norm of the sum
  void (*add_rms_norm)(float* x, const float* update, const float* weight, float epsilon, int64_t width, float* out);
  // heads[num_heads][head_dim], in place
  void (*rotate)(float* heads, int64_t num_heads, int64_t head_dim, const Rotation& rotation);
  // out[width] = silu(gate[width]) * up[width]
  void (*swiglu)(const float* gate, const float* up, int64_t width, float* out);
  // The same with gelu, in its approximation by tanh.
  void (*geglu)(const float* gate, const float* up, int64_t width, float* out);
  // x[width] = cap * tanh(x / cap), in place
  void (*soft_cap)(float* x, float cap, int64_t width);
  // out[width] = exp(x - max(x)) / sum(exp(x - max(x)))
  void (*softmax)(const float* x, int64_t width, float* out);
  // out[width] = bias + the sum over taps of inputs[tap][width] * weight[tap][width]; bias may be null
  void (*short_conv)(const float* const* inputs, int64_t num_taps, const float* weight, const float* bias,
                     int64_t width, float* out);
};

TRANSOM_DECLARE_PER_ISA(ElementwiseKernels, elementwise_kernels)

}  // namespace transom
