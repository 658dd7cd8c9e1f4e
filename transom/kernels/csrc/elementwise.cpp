// Kernels that see one token's row at a time: norm, rotary embedding, gates, caps, softmax; and the few rows of a short
// convolution.
#include "elementwise.h"

#include <cmath>

#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

inline int lanes_left(int64_t left) { return left < kLanes ? static_cast<int>(left) : kLanes; }

// Sum of squares: lane l takes elements l, l + 16, ... in order; then the fixed tree.
float mean_square(const float* x, int64_t width) {
  f32x16 sum = zero();
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const f32x16 value = load(x + i);
    sum = fma(value, value, sum);
  }
  if (i < width) {
    const f32x16 value = load_first(x + i, lanes_left(width - i));
    sum = fma(value, value, sum);
  }
  return reduce_add(sum) / static_cast<float>(width);
}

void rms_norm(const float* x, const float* weight, float epsilon, int64_t width, float* out) {
  const f32x16 factor = broadcast(1.0f / std::sqrt(mean_square(x, width) + epsilon));
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, load(x + i) * factor * load(weight + i));
  if (i < width) {
    const int count = lanes_left(width - i);
    store_first(out + i, load_first(x + i, count) * factor * load_first(weight + i, count), count);
  }
}

void add_rms_norm(float* x, const float* update, const float* weight, float epsilon, int64_t width, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(x + i, load(x + i) + load(update + i));
  if (i < width) {
    const int count = lanes_left(width - i);
    store_first(x + i, load_first(x + i, count) + load_first(update + i, count), count);
  }
  rms_norm(x, weight, epsilon, width, out);
}

// (a, b) -> (a cos - b sin, b cos + a sin), each product and sum rounded, as Hugging Face's f32 code rounds them.
void rotate_head(float* head, const Rotation& rotation) {
  float* other = head + rotation.half;
  for (int64_t i = 0; i < rotation.half; i += kLanes) {
    const int count = lanes_left(rotation.half - i);
    const f32x16 cosine = load_first(rotation.cosine + i, count);
    const f32x16 sine = load_first(rotation.sine + i, count);
    const f32x16 a = load_first(head + i, count);
    const f32x16 b = load_first(other + i, count);
    store_first(head + i, a * cosine - b * sine, count);
    store_first(other + i, b * cosine + a * sine, count);
  }
}

void rotate(float* heads, int64_t num_heads, int64_t head_dim, const Rotation& rotation) {
  for (int64_t head = 0; head < num_heads; ++head) rotate_head(heads + head * head_dim, rotation);
}

inline f32x16 silu(f32x16 x) { return x / (broadcast(1.0f) + exp(zero() - x)); }

// x (1 + tanh(u)) / 2 is x / (1 + e^(-2 u)), where 2 u = x (2 sqrt(2 / pi) + 2 sqrt(2 / pi) 0.044715 x^2).
inline f32x16 gelu(f32x16 x) {
  const f32x16 twice_u = x * fma(x * x, broadcast(0.071354816f), broadcast(1.5957691f));
  return x / (broadcast(1.0f) + exp(zero() - twice_u));
}

template <class Activation>
void gated(const float* gate, const float* up, int64_t width, float* out, const Activation& activation) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, activation(load(gate + i)) * load(up + i));
  if (i < width) {
    const int count = lanes_left(width - i);
    store_first(out + i, activation(load_first(gate + i, count)) * load_first(up + i, count), count);
  }
}

void swiglu(const float* gate, const float* up, int64_t width, float* out) {
  gated(gate, up, width, out, [](f32x16 x) { return silu(x); });
}

void geglu(const float* gate, const float* up, int64_t width, float* out) {
  gated(gate, up, width, out, [](f32x16 x) { return gelu(x); });
}

void soft_cap(float* x, float cap, int64_t width) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const int count = lanes_left(width - i);
    store_first(x + i, broadcast(cap) * tanh(load_first(x + i, count) / broadcast(cap)), count);
  }
}

void softmax(const float* x, int64_t width, float* out) {
  f32x16 highest = broadcast(-__builtin_inff());
  for (int64_t i = 0; i < width; i += kLanes) {
    const int count = lanes_left(width - i);
    highest = max(highest, select_first(load_first(x + i, count), highest, count));
  }
  const f32x16 maximum = broadcast(reduce_max(highest));
  f32x16 sum = zero();
  for (int64_t i = 0; i < width; i += kLanes) {
    const int count = lanes_left(width - i);
    const f32x16 weight = select_first(exp(load_first(x + i, count) - maximum), zero(), count);
    store_first(out + i, weight, count);
    sum = sum + weight;
  }
  const f32x16 total = broadcast(reduce_add(sum));
  for (int64_t i = 0; i < width; i += kLanes) {
    const int count = lanes_left(width - i);
    store_first(out + i, load_first(out + i, count) / total, count);
  }
}

// Lane = channel; taps in order, oldest first.
void short_conv(const float* const* inputs, int64_t num_taps, const float* weight, const float* bias, int64_t width,
                float* out) {
  for (int64_t i = 0; i < width; i += kLanes) {
    const int count = lanes_left(width - i);
    f32x16 sum = bias == nullptr ? zero() : load_first(bias + i, count);
    for (int64_t tap = 0; tap < num_taps; ++tap)
      sum = fma(load_first(inputs[tap] + i, count), load_first(weight + tap * width + i, count), sum);
    store_first(out + i, sum, count);
  }
}

}  // namespace

extern const ElementwiseKernels elementwise_kernels = {&rms_norm, &add_rms_norm, &rotate,  &swiglu,
                                                       &geglu,    &soft_cap,     &softmax, &short_conv};

}  // namespace transom::TRANSOM_ISA
