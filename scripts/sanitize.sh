#!/bin/sh
# The kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer. The instrumented module is built in
# build/sanitize and put before the regular one; nothing installed is touched.
#
#   sh scripts/sanitize.sh [pytest arguments]
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
python=$root/.venv/bin/python
build=$root/build/sanitize
package=$build/package/transom
PATH="$root/.venv/bin:$PATH"

cmake -S . -B "$build" -G Ninja -DTRANSOM_SANITIZE=ON -DCMAKE_BUILD_TYPE=Release \
  -DPython_EXECUTABLE="$python" -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >/dev/null
cmake --build "$build" --target _native -- --quiet

rm -rf "$build/package"
mkdir -p "$package"
ln -s "$root/tests" "$build/package/tests"
cp -r transom/__init__.py "$package"
cp -r transom/kernels "$package/kernels"
cp "$build"/_native.*.so "$package/kernels/"

# How fast instrumented code reads memory means nothing.
# Python itself never frees everything, hence no leak check. -S keeps the editable install out of the way.
cxx=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cd "$build/package"
LD_PRELOAD="$("$cxx" -print-file-name=libasan.so) $("$cxx" -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
  PYTHONPATH="$build/package:$site" "$python" -S -m pytest -c "$root/pyproject.toml" --rootdir "$build/package" \
  -p no:cacheprovider tests/kernels \
  --deselect tests/kernels/test_memory.py::test_the_bandwidth_of_the_memory_is_plausible "$@"
