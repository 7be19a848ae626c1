"""Rows of an Arrow table, whose types say more than JSON's."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.sources.rows import Row

Convert = Callable[[Any], Any]


def arrow_rows(table: pa.Table | pa.RecordBatch) -> Iterator[Row]:
    """Rows with whole numbers, truth values, texts, lists and structs as they are.

    A float of 16 or 32 bits is the shortest number that stands for it (0.1, not
    0.10000000149011612); not a number is null, infinity the text `inf`; dates, times, durations,
    decimals and UUIDs are their text; bytes are the UTF-8 text that they have to be. Raises
    ValueError naming the column that holds anything else.
    """
    columns = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        try:
            convert = _conversion(field.type)
            values = column.to_pylist(maps_as_pydicts="strict")
            columns[field.name] = [None if value is None else convert(value) for value in values]
        except (pa.ArrowException, ValueError, TypeError, LookupError, OverflowError) as error:
            raise ValueError(f"column '{field.name}': {error}") from error
    for index in range(table.num_rows):
        yield {name: values[index] for name, values in columns.items()}


def check_columns(schema: pa.Schema) -> None:
    """Raise ValueError for a name that two columns have."""
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise ValueError(f"it has two columns '{name}'; rename one")


def _conversion(kind: pa.DataType) -> Convert:
    """From what pyarrow gives for a value of a type, which is not null, to what JSON holds."""
    types = pa.types
    if types.is_boolean(kind) or types.is_integer(kind) or types.is_null(kind):
        return _same
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return _same
    if types.is_float64(kind):
        return _finite
    if types.is_floating(kind):
        narrow = np.float16 if types.is_float16(kind) else np.float32
        return lambda value: _finite(float(str(narrow(value))))
    if types.is_decimal(kind):
        return lambda value: format(value, "f")
    if types.is_temporal(kind) and not types.is_interval(kind):
        return str
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _text
    if types.is_binary_view(kind):
        return _text
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _conversion(kind.value_type)
    if types.is_struct(kind):
        return _of_struct(kind)
    if types.is_map(kind):
        return _of_map(kind)
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        item = _conversion(kind.value_type)
        return lambda values: [None if value is None else item(value) for value in values]
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(kind)
    raise ValueError(f"values of type {kind} have no form in JSON; write them as text or numbers")


def _same(value: Any) -> Any:
    return value


def _finite(value: float) -> float | str | None:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            "its bytes are not UTF-8 text; write them as text, or the data without this column"
        ) from error


def _of_struct(kind: pa.StructType) -> Convert:
    fields = {kind.field(index).name: kind.field(index).type for index in range(kind.num_fields)}
    inner = {name: _conversion(field) for name, field in fields.items()}
    return lambda value: {
        name: None if value[name] is None else convert(value[name])
        for name, convert in inner.items()
    }


def _of_map(kind: pa.MapType) -> Convert:
    key, item = _conversion(kind.key_type), _conversion(kind.item_type)
    return lambda value: {
        str(key(name)): None if inner is None else item(inner) for name, inner in value.items()
    }


def _of_extension(kind: pa.BaseExtensionType) -> Convert:
    if kind.extension_name == "arrow.uuid":
        return str
    storage = _conversion(kind.storage_type)
    # Arrays of more dimensions come as numpy's.
    return lambda value: storage(value.tolist() if hasattr(value, "tolist") else value)
