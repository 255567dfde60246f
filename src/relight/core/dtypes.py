"""One table of tensor element types.

Source: ``torch/storage.py`` (``_dtype_to_storage_type_map``, ``_new_dtypes``) of torch 2.13, and the format page of
safetensors 0.8 for its codes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    Attributes:
        name: As torch prints it without ``torch.``: ``float32``.
        itemsize: Bytes per element.
        kind: ``float``, ``complex``, ``int``, ``bool``, ``quantized`` or ``bits``.
        storage: The class in ``torch`` that old files name for a storage of this type, None if there never was one.
        since: First torch release that has it, None for those that were always there.
        safetensors: The code of the type in a safetensors header, None where the format has none.
    """

    name: str
    itemsize: int
    kind: str
    storage: str | None = None
    since: str | None = None
    safetensors: str | None = None


_TABLE = (
    DType("float32", 4, "float", "FloatStorage", None, "F32"),
    DType("float64", 8, "float", "DoubleStorage", None, "F64"),
    DType("float16", 2, "float", "HalfStorage", None, "F16"),
    DType("bfloat16", 2, "float", "BFloat16Storage", "1.3", "BF16"),
    DType("float8_e4m3fn", 1, "float", None, "2.1", "F8_E4M3"),
    DType("float8_e5m2", 1, "float", None, "2.1", "F8_E5M2"),
    DType("float8_e4m3fnuz", 1, "float", None, "2.2"),
    DType("float8_e5m2fnuz", 1, "float", None, "2.2"),
    DType("float8_e8m0fnu", 1, "float", None, "2.7", "F8_E8M0"),
    DType("float4_e2m1fn_x2", 1, "float", None, "2.8"),
    DType("complex32", 4, "complex", None, None),
    DType("complex64", 8, "complex", "ComplexFloatStorage", "1.6", "C64"),
    DType("complex128", 16, "complex", "ComplexDoubleStorage", "1.6"),
    DType("int8", 1, "int", "CharStorage", None, "I8"),
    DType("int16", 2, "int", "ShortStorage", None, "I16"),
    DType("int32", 4, "int", "IntStorage", None, "I32"),
    DType("int64", 8, "int", "LongStorage", None, "I64"),
    DType("uint8", 1, "int", "ByteStorage", None, "U8"),
    DType("uint16", 2, "int", None, "2.3", "U16"),
    DType("uint32", 4, "int", None, "2.3", "U32"),
    DType("uint64", 8, "int", None, "2.3", "U64"),
    DType("bool", 1, "bool", "BoolStorage", "1.2", "BOOL"),
    DType("quint8", 1, "quantized", "QUInt8Storage", "1.3"),
    DType("qint8", 1, "quantized", "QInt8Storage", "1.3"),
    DType("qint32", 4, "quantized", "QInt32Storage", "1.3"),
    DType("quint4x2", 1, "quantized", "QUInt4x2Storage", "1.9"),
    DType("quint2x4", 1, "quantized", "QUInt2x4Storage", "1.11"),
    DType("bits8", 1, "bits", None, "2.1"),
    DType("bits16", 2, "bits", None, "2.1"),
)

BY_NAME: dict[str, DType] = {d.name: d for d in _TABLE}
BY_STORAGE: dict[str, DType] = {d.storage: d for d in _TABLE if d.storage is not None}
BY_SAFETENSORS: dict[str, DType] = {d.safetensors: d for d in _TABLE if d.safetensors is not None}

# `torch.half`, `torch.long` ... are what old pickles name; torch itself prints the long name.
ALIASES: dict[str, str] = {
    "half": "float16",
    "float": "float32",
    "double": "float64",
    "char": "int8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "chalf": "complex32",
    "cfloat": "complex64",
    "cdouble": "complex128",
}


def dtype_named(name: str) -> DType | None:
    """Look up a type by any of its names, with or without ``torch.``; None if torch has no such type."""
    name = name.removeprefix("torch.")
    return BY_NAME.get(ALIASES.get(name, name))
