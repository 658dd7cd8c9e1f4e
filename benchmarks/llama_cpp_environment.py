"""Installs `llama-cpp-python`, the peer, into an environment of its own: compiled here, for this processor.

    python -m benchmarks.llama_cpp_environment [--environment build/llama_cpp] [--isa native|avx2]

`native`: GGML_NATIVE (everything this processor has), repacked weights, the tiled matrix product of llamafile, no BLAS,
OpenMP. `avx2`: the same, limited to AVX2, FMA and F16C. Takes some minutes, and needs g++ alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = "0.3.36"
COMMON = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_BLAS": "OFF",
    "GGML_CPU_REPACK": "ON",
    "GGML_LLAMAFILE": "ON",
    "GGML_OPENMP": "ON",
    "LLAVA_BUILD": "OFF",
}
AVX2 = {"GGML_NATIVE": "OFF", "GGML_AVX2": "ON", "GGML_FMA": "ON", "GGML_F16C": "ON", "GGML_BMI2": "ON"}
BUILDS = {"native": {"GGML_NATIVE": "ON"}, "avx2": AVX2 | {"GGML_AVX512": "OFF", "GGML_AVX_VNNI": "OFF"}}
INSTALLED = "installed"  # a file in the environment, which says with which switches


def default_environment(isa: str) -> Path:
    """Where the peer lives, for either set of instructions."""
    return ROOT / "build" / ("llama_cpp" if isa == "native" else f"llama_cpp_{isa}")


def switches(isa: str) -> str:
    """What CMake is told."""
    return " ".join(f"-D{name}={value}" for name, value in (COMMON | BUILDS[isa]).items())


def peer_python(environment: Path, isa: str) -> Path:
    """The interpreter that has the peer, installed first if it is not there yet."""
    python = environment / "bin" / "python"
    description = f"llama-cpp-python=={VERSION} {switches(isa)}\n"
    installed = environment / INSTALLED
    if not installed.exists() or installed.read_text() != description:
        print(f"compiling {description.strip()} into {environment}, some minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        requirement = f"llama-cpp-python=={VERSION}"
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        pip += ["--no-binary", "llama-cpp-python", "--no-cache-dir", requirement]
        subprocess.run(pip, check=True, env={**os.environ, "CMAKE_ARGS": switches(isa)})
        installed.write_text(description)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=BUILDS, default="native")
    parser.add_argument("--environment", type=Path)
    options = parser.parse_args()
    print(peer_python(options.environment or default_environment(options.isa), options.isa))


if __name__ == "__main__":
    main()
