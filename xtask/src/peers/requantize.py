"""Writes SOURCE.gguf again with its quantized matrices as KIND: Q4_0, llama.cpp's fastest four bits, or F16.

Used by `cargo xtask bench-peers`; needs the package gguf. Q4_0 replaces Q4_1 alone; F16 all that is quantized, which
leaves every weight what it was but for one rounding. All else stays as it is.
"""

import sys

import gguf
import numpy as np
from gguf.quants import dequantize, quantize

source, target, wanted = sys.argv[1:]
wanted = gguf.GGMLQuantizationType[wanted]
reader = gguf.GGUFReader(source)
architecture = reader.get_field("general.architecture").contents()
writer = gguf.GGUFWriter(target, architecture)
for field in reader.fields.values():
    if field.name.startswith("GGUF.") or field.name == "general.architecture":
        continue
    kind = field.types[0]
    inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
kinds = gguf.GGMLQuantizationType
for tensor in reader.tensors:
    data, kind = tensor.data, tensor.tensor_type
    if kind == kinds.Q4_1 or (wanted == kinds.F16 and kind not in (kinds.F32, kinds.F16)):
        data, kind = quantize(dequantize(data, kind).astype(np.float32), wanted), wanted
    writer.add_tensor(tensor.name, data, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
