"""A GGUF file with the same weights in f32, by the `gguf` package: what quantised arithmetic is compared with.

python -m benchmarks.dequantised_gguf FILE.gguf [OUT.gguf]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFReader, GGUFWriter
from gguf.gguf_reader import ReaderField

SKIPPED = ("GGUF.", "general.architecture", "general.file_type")  # written by the writer, or no longer true


def copy_field(field: ReaderField, writer: GGUFWriter) -> None:
    """One entry of the metadata, with its type."""
    kind = field.types[0]
    element = field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=element)


def write_dequantised(source: Path, target: Path) -> None:
    """Tensor by tensor, so that memory holds one of them."""
    reader = GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if not field.name.startswith(SKIPPED):
            copy_field(field, writer)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        dims = [int(dim) for dim in tensor.shape[::-1]]
        writer.add_tensor_info(tensor.name, dims, np.dtype(np.float32), 4 * int(tensor.n_elements))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.close()


def dequantised(source: Path, target: Path | None = None) -> Path:
    """The f32 file beside `source`, or `target`, written if it is not there yet."""
    path = target or source.with_name(f"{source.stem}-as-F32.gguf")
    if not path.exists():
        print(f"writing {path}", flush=True)
        unfinished = path.with_suffix(".part")
        write_dequantised(source, unfinished)
        unfinished.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?")
    options = parser.parse_args()
    print(dequantised(options.source, options.target))


if __name__ == "__main__":
    main()
