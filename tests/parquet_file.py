"""A table of one column as the bytes of a Parquet file, unpacked and of the same size each time."""

from __future__ import annotations

import io
from collections.abc import Sequence


def parquet_bytes(column: str, rows: Sequence[str]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pa.table({column: list(rows)}), file, compression="none", use_dictionary=False)
    return file.getvalue()
