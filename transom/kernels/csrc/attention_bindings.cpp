// Python's door to paged attention and its KV store: checks arrays, releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "arrays.h"
#include "attention_run.h"

namespace nb = nanobind;

namespace transom {
namespace {

KVLayout make_layout(int num_key_value_heads, int head_dim, const std::string& dtype) {
  if (num_key_value_heads < 1 || num_key_value_heads > 65536) {
    throw std::invalid_argument("num_key_value_heads must be in 1 .. 65536");
  }
  if (head_dim < 1 || head_dim > 65536) throw std::invalid_argument("head_dim must be in 1 .. 65536");
  if (dtype == "f32") return {num_key_value_heads, head_dim, KVType::f32};
  if (dtype == "f16") return {num_key_value_heads, head_dim, KVType::f16};
  if (dtype == "q8_0") return {num_key_value_heads, head_dim, KVType::q8_0};
  throw std::invalid_argument("dtype must be 'f32', 'f16' or 'q8_0', not '" + dtype + "'");
}

const char* dtype_name(const KVLayout& layout) {
  return layout.type == KVType::q8_0 ? "q8_0" : layout.type == KVType::f16 ? "f16" : "f32";
}

std::string describe(const KVLayout& layout) {
  return "KVLayout(num_key_value_heads=" + std::to_string(layout.num_key_value_heads) +
         ", head_dim=" + std::to_string(layout.head_dim) + ", dtype='" + dtype_name(layout) + "')";
}

// The arrays that say which rows belong to whom and where blocks lie.
struct BatchArrays {
  ArrayView sequence_starts;
  ArrayView first_positions;

  BatchArrays(nb::handle starts, nb::handle positions)
      : sequence_starts(starts, "sequence_starts", Dtype::i32, 1),
        first_positions(positions, "first_positions", Dtype::i32, 1) {
    sequence_starts.expect_size(0, first_positions.size(0) + 1);
  }
  Sequences sequences(int64_t num_rows) const {
    const Sequences result = {sequence_starts.data<int32_t>(), first_positions.data<int32_t>(),
                              first_positions.size(0)};
    result.check(num_rows);
    return result;
  }
};

struct TableArrays {
  ArrayView arena;
  ArrayView block_slots;

  TableArrays(nb::handle arena_array, nb::handle slots, Access access)
      : arena(arena_array, "arena", Dtype::u8, 1, access), block_slots(slots, "block_slots", Dtype::i32, 2) {
    if (reinterpret_cast<uintptr_t>(arena.data<uint8_t>()) % alignof(float) != 0) {
      throw std::invalid_argument("arena must be aligned to 4 bytes");
    }
  }
  BlockTable table(const Sequences& sequences) const {
    block_slots.expect_size(0, sequences.count);
    return {const_cast<std::byte*>(arena.data<std::byte>()), arena.size(0), block_slots.data<int32_t>(),
            block_slots.size(1)};
  }
};

// [rows, heads, head_dim] with a free row stride.
struct RowsArray {
  ArrayView array;

  RowsArray(nb::handle rows, const char* name, int head_dim)
      : array(rows, name, Dtype::f32, 3, Access::read, Layout::strided_rows) {
    array.expect_size(2, head_dim);
  }
  int64_t num_rows() const { return array.size(0); }
  TokenRows rows() const { return {array.data<float>(), array.stride_bytes(0) / static_cast<int64_t>(sizeof(float))}; }
};

void store(nb::handle arena, const KVLayout& layout, nb::handle block_slots, nb::handle sequence_starts,
           nb::handle first_positions, nb::handle key, nb::handle value) {
  const RowsArray keys(key, "key", layout.head_dim), values(value, "value", layout.head_dim);
  keys.array.expect_size(1, layout.num_key_value_heads);
  values.array.expect_size(1, layout.num_key_value_heads);
  values.array.expect_size(0, keys.num_rows());
  const BatchArrays batch(sequence_starts, first_positions);
  const Sequences sequences = batch.sequences(keys.num_rows());
  const TableArrays arrays(arena, block_slots, Access::write);
  const BlockTable table = arrays.table(sequences);
  nb::gil_scoped_release release;
  store_kv(layout, table, sequences, keys.rows(), values.rows());
}

int num_heads_of(const RowsArray& query, const KVLayout& layout) {
  const int64_t num_heads = query.array.size(1);
  if (num_heads < 1 || num_heads % layout.num_key_value_heads != 0) {
    throw std::invalid_argument("the number of query heads, " + std::to_string(num_heads) +
                                ", must be a multiple of num_key_value_heads, " +
                                std::to_string(layout.num_key_value_heads));
  }
  return static_cast<int>(num_heads);
}

AttentionRule make_rule(float scale, std::optional<float> soft_cap) {
  if (soft_cap && !(*soft_cap > 0.0f && std::isfinite(*soft_cap))) {
    throw std::invalid_argument("soft_cap must be positive and finite");
  }
  return {scale, soft_cap.value_or(0.0f)};
}

int64_t narrower(int64_t window, int64_t limit) { return limit == 0 ? window : std::min(window, limit); }

// What each sequence sees: the window of all, and its own row of visible[S, 3] (keep_first, window, window_blocks; 0 =
// no such limit).
std::vector<VisibleSet> make_visible(std::optional<int64_t> window, nb::handle visible, int64_t num_sequences) {
  if (window && *window < 1) throw std::invalid_argument("window must be at least 1");
  const VisibleSet common = {0, std::min(window.value_or(kNoWindow), kNoWindow), kNoWindow};
  std::vector<VisibleSet> result(static_cast<size_t>(num_sequences), common);
  if (visible.is_none()) return result;
  const ArrayView rows(visible, "visible", Dtype::i64, 2);
  rows.expect_size(0, num_sequences);
  rows.expect_size(1, 3);
  const int64_t* row = rows.data<int64_t>();
  for (VisibleSet& own : result) {
    if (row[0] < 0 || row[1] < 0 || row[2] < 0) throw std::invalid_argument("visible must not be negative");
    own = {std::min(row[0], kNoWindow), narrower(own.window, row[1]), narrower(own.window_blocks, row[2])};
    row += 3;
  }
  return result;
}

// Attention in steps. Holds its arrays; they must not be written to before finish() has returned.
class AttentionState {
 public:
  AttentionState(const KVLayout& layout, nb::handle sequence_starts, nb::handle first_positions, nb::handle query,
                 float scale, std::optional<int64_t> window, std::optional<float> soft_cap, nb::handle visible,
                 bool allow_missing, bool measure_mass)
      : query_(query, "query", layout.head_dim),
        batch_(sequence_starts, first_positions),
        sequences_(batch_.sequences(query_.num_rows())),
        num_heads_(num_heads_of(query_, layout)),
        head_dim_(layout.head_dim),
        run_(layout, sequences_, query_.rows(), num_heads_,
             {make_rule(scale, soft_cap), make_visible(window, visible, sequences_.count), allow_missing,
              measure_mass}) {}

  nb::object attend(nb::handle arena, nb::handle block_slots) {
    const TableArrays arrays(arena, block_slots, Access::read);
    const BlockTable table = arrays.table(sequences_);
    return write_output([&](float* output) { run_.attend(table, output); });
  }

  void attend_splits(nb::handle arena, nb::handle block_slots, int64_t first_split, int64_t num_splits) {
    constexpr int64_t kMaxSplits = kNoWindow / kSplitTokens;
    if (first_split < 0 || first_split > kMaxSplits || num_splits < 0 || num_splits > kMaxSplits) {
      throw std::invalid_argument("first_split and num_splits must not be negative");
    }
    const TableArrays arrays(arena, block_slots, Access::read);
    const BlockTable table = arrays.table(sequences_);
    nb::gil_scoped_release release;
    run_.attend_splits(table, first_split, num_splits);
  }

  nb::object finish() {
    return write_output([&](float* output) { run_.finish(output); });
  }

  nb::object mass() {
    nb::object result = new_array({sequences_.count, run_.most_blocks()});
    const ArrayView mass(result, "mass", Dtype::f32, 2, Access::write);
    nb::gil_scoped_release release;
    run_.mass(mass.mutable_data<float>());
    return result;
  }

 private:
  template <class Write>
  nb::object write_output(Write write) {
    nb::object result = new_array({query_.num_rows(), num_heads_, head_dim_});
    const ArrayView output(result, "output", Dtype::f32, 3, Access::write);
    nb::gil_scoped_release release;
    write(output.mutable_data<float>());
    return result;
  }

  RowsArray query_;
  BatchArrays batch_;
  Sequences sequences_;
  int num_heads_;
  int head_dim_;
  AttentionRun run_;
};

nb::object attend(nb::handle arena, const KVLayout& layout, nb::handle block_slots, nb::handle sequence_starts,
                  nb::handle first_positions, nb::handle query, float scale, std::optional<int64_t> window,
                  std::optional<float> soft_cap, nb::handle visible, bool allow_missing) {
  return AttentionState(layout, sequence_starts, first_positions, query, scale, window, soft_cap, visible,
                        allow_missing, false)
      .attend(arena, block_slots);
}

}  // namespace

void bind_attention(nb::module_& module) {
  using namespace nb::literals;
  nb::class_<KVLayout>(module, "KVLayout")
      .def(
          "__init__",
          [](KVLayout* self, int num_key_value_heads, int head_dim, const std::string& dtype) {
            new (self) KVLayout(make_layout(num_key_value_heads, head_dim, dtype));
          },
          "num_key_value_heads"_a, "head_dim"_a, "dtype"_a)
      .def_ro("num_key_value_heads", &KVLayout::num_key_value_heads)
      .def_ro("head_dim", &KVLayout::head_dim)
      .def_prop_ro("dtype", &dtype_name)
      .def_prop_ro("slot_bytes", &KVLayout::slot_bytes)
      .def("__repr__", &describe);
  module.def("store_kv", &store, "arena"_a, "layout"_a, "block_slots"_a, "sequence_starts"_a, "first_positions"_a,
             "key"_a, "value"_a);
  module.def("attend", &attend, "arena"_a, "layout"_a, "block_slots"_a, "sequence_starts"_a, "first_positions"_a,
             "query"_a, "scale"_a, "window"_a = nb::none(), "soft_cap"_a = nb::none(), "visible"_a = nb::none(),
             "allow_missing"_a = false);
  nb::class_<AttentionState>(module, "AttentionState")
      .def(nb::init<const KVLayout&, nb::handle, nb::handle, nb::handle, float, std::optional<int64_t>,
                    std::optional<float>, nb::handle, bool, bool>(),
           "layout"_a, "sequence_starts"_a, "first_positions"_a, "query"_a, "scale"_a, "window"_a = nb::none(),
           "soft_cap"_a = nb::none(), "visible"_a = nb::none(), "allow_missing"_a = false, "measure_mass"_a = false)
      .def("attend_splits", &AttentionState::attend_splits, "arena"_a, "block_slots"_a, "first_split"_a, "num_splits"_a)
      .def("finish", &AttentionState::finish)
      .def("mass", &AttentionState::mass);
}

}  // namespace transom
