// How many operations per second do so many threads do at most, without memory? Two lines: f32, then 8-bit integers.
// A multiplication and an addition count as two operations, as in figures of matrix products.

#include <immintrin.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int kChains = 12;  // enough to hide the latency, few enough for the registers
constexpr int64_t kSteps = 1'000'000'000;

#ifdef __AVX512F__
using Floats = __m512;
Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
Floats broadcast(float value) { return _mm512_set1_ps(value); }
constexpr int kFloatOperations = 32;
#else
using Floats = __m256;
Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
Floats broadcast(float value) { return _mm256_set1_ps(value); }
constexpr int kFloatOperations = 16;
#endif

#ifdef __AVX512VNNI__
using Bytes = __m512i;
Bytes dot(Bytes a, Bytes b, Bytes sum) { return _mm512_dpbusd_epi32(sum, a, b); }
Bytes broadcast_bytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
constexpr int kByteOperations = 128;
#else
using Bytes = __m256i;
Bytes dot(Bytes a, Bytes b, Bytes sum) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b)); }
Bytes broadcast_bytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
constexpr int kByteOperations = 64;
#endif

template <typename Vector, typename Step>
double run(Vector a, Vector b, Step step) {
  Vector sums[kChains];
  for (Vector& sum : sums) sum = a;
  for (int64_t i = 0; i < kSteps / kChains; ++i) {
    for (Vector& sum : sums) {
      asm volatile("" : "+x"(a));  // not a constant, nor the same as before: the compiler leaves nothing out
      sum = step(a, b, sum);
    }
  }
  for (Vector& sum : sums) asm volatile("" : : "x"(sum));
  return static_cast<double>(kSteps / kChains * kChains);
}

template <typename Work>
double per_second(int num_threads, int operations, Work work) {
  std::vector<std::thread> threads;
  std::vector<double> steps(num_threads);
  const auto started = std::chrono::steady_clock::now();
  for (int i = 0; i < num_threads; ++i) threads.emplace_back([&, i] { steps[i] = work(); });
  for (std::thread& thread : threads) thread.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
  double total = 0;
  for (const double count : steps) total += count;
  return total * operations / seconds.count();
}

}  // namespace

int main(int, char** arguments) {
  const int num_threads = std::atoi(arguments[1]);
  const auto floats = [] { return run(broadcast(1.0F), broadcast(1e-9F), multiply_add); };
  const auto bytes = [] { return run(broadcast_bytes(1), broadcast_bytes(1), dot); };
  std::printf("%.0f\n", per_second(num_threads, kFloatOperations, floats));
  std::printf("%.0f\n", per_second(num_threads, kByteOperations, bytes));
}
