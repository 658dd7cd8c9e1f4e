// The product both halves of attention are made of: scores = queries x keys, and output = weights x values. Each result
// lane is one chain of FMAs in order of depth; how many of them run side by side in registers changes no bit. Belongs
// to one instruction set, like simd.h.
#pragma once

#include <cstdint>

#include "simd.h"

namespace transom::TRANSOM_ISA {
namespace {

// Shape of the register tile, lines x vectors of sixteen: as many chains of FMAs as registers hold, so that they cover
// each other's latency.
#if defined(__AVX512F__)
constexpr int kTileLines = 8;
constexpr int panels_for(int lines) { return lines > 6 ? 2 : 4; }
#elif defined(__AVX2__)
constexpr int kTileLines = 6;
constexpr int panels_for(int lines) { return lines == 1 ? 4 : lines == 2 ? 2 : 1; }
#else
constexpr int kTileLines = 4;
constexpr int panels_for(int) { return 1; }
#endif

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t clamped(int64_t x, int64_t low, int64_t high) { return smaller(larger(x, low), high); }

// Tokens of a split, or rows of a tile: begin <= i < end.
struct Range {
  int64_t begin;
  int64_t end;
  bool empty() const { return begin >= end; }
};

inline Range intersection(Range a, Range b) { return {larger(a.begin, b.begin), smaller(a.end, b.end)}; }

struct Lines {
  float* first;
  int64_t stride;
  Lines from(int64_t line, int64_t column) const { return {first + line * stride + column, stride}; }
};

// Asks for memory to be wanted next, a little with each step of arithmetic: as much as a step reads of `Element`. Into
// the second-level cache: few requests of the first can be under way at once.
template <class Element>
struct Ahead {
  static constexpr int64_t kCacheLine = 64;
  const Element* next;
  Ahead from(int64_t lanes) const { return {next + lanes}; }
  template <int kPanels>
  void fetch(int64_t step) const {
    constexpr int64_t bytes = kPanels * kLanes * sizeof(Element);
    const char* first = reinterpret_cast<const char*>(next) + step * bytes;
    for (int64_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(first + i, 0, 2);
  }
};

struct NothingAhead {
  NothingAhead from(int64_t) const { return {}; }
  template <int kPanels>
  void fetch(int64_t) const {}
};

// result[line][panel] = (resume ? result : 0) + left[line][k] * right[k][panel], in order of k. `right` gives sixteen
// lanes at each depth of each panel: lanes(depth, panel); and from(depth, panel) is the rest of it.
// The unrolling is asked for because sums must stay in registers: left to itself, GCC may store them at each step.
template <int kLines, int kPanels, class Source, class Fetch>
inline void multiply_tile(Lines left, Source right, int64_t depth, Lines result, bool resume, Fetch ahead) {
  f32x16 sum[kLines][kPanels];
#pragma GCC unroll 8
  for (int i = 0; i < kLines; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kPanels; ++j) sum[i][j] = resume ? load(result.first + i * result.stride + j * kLanes) : zero();
  for (int64_t k = 0; k < depth; ++k) {
    ahead.template fetch<kPanels>(k);
    f32x16 lanes[kPanels];
#pragma GCC unroll 8
    for (int j = 0; j < kPanels; ++j) lanes[j] = right.lanes(k, j);
#pragma GCC unroll 8
    for (int i = 0; i < kLines; ++i) {
      const f32x16 factor = broadcast(left.first[i * left.stride + k]);
#pragma GCC unroll 8
      for (int j = 0; j < kPanels; ++j) sum[i][j] = fma(factor, lanes[j], sum[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kLines; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kPanels; ++j) store(result.first + i * result.stride + j * kLanes, sum[i][j]);
}

template <int kLines, class Source, class Fetch>
inline void multiply_lines(Lines left, Source right, Range panels, int64_t depth, Lines result, bool resume,
                           Fetch ahead) {
  constexpr int kPanels = panels_for(kLines);
  int64_t panel = panels.begin;
  for (; panel + kPanels <= panels.end; panel += kPanels) {
    multiply_tile<kLines, kPanels>(left, right.from(0, panel), depth, result.from(0, panel * kLanes), resume,
                                   ahead.from((panel - panels.begin) * depth * kLanes));
  }
  for (; panel < panels.end; ++panel) {
    multiply_tile<kLines, 1>(left, right.from(0, panel), depth, result.from(0, panel * kLanes), resume,
                             ahead.from((panel - panels.begin) * depth * kLanes));
  }
}

template <int kLines, class Source, class Fetch>
inline void multiply_up_to(int64_t lines, Lines left, Source right, Range panels, int64_t depth, Lines result,
                           bool resume, Fetch ahead) {
  if constexpr (kLines > 1) {
    if (lines < kLines) return multiply_up_to<kLines - 1>(lines, left, right, panels, depth, result, resume, ahead);
  }
  multiply_lines<kLines>(left, right, panels, depth, result, resume, ahead);
}

// Tiles of about equal size; the first asks for what comes next.
template <class Source, class Fetch>
void multiply(int64_t lines, Lines left, Source right, Range panels, int64_t depth, Lines result, bool resume,
              Fetch ahead) {
  if (lines <= 0 || depth <= 0) return;
  const int64_t tiles = (lines + kTileLines - 1) / kTileLines, each = (lines + tiles - 1) / tiles;
  multiply_up_to<kTileLines>(smaller(each, lines), left, right, panels, depth, result, resume, ahead);
  for (int64_t line = each; line < lines; line += each) {
    multiply_up_to<kTileLines>(smaller(each, lines - line), left.from(line, 0), right, panels, depth,
                               result.from(line, 0), resume, NothingAhead{});
  }
}

}  // namespace
}  // namespace transom::TRANSOM_ISA
