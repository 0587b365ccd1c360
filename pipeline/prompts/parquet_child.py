"""The process that meets a stranger's Parquet first. Run by `first_look`; imports nothing of ours.

One request at a time on standard input: a line of JSON, then as many bytes as its `bytes` says. One line of JSON back.
Bytes that make the native reader abort, or take all memory there is, end this process and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
import resource
import sys
from collections.abc import Callable
from typing import Any, Final

MEMORY_BYTES: Final = 5 << 29
"""Of address space, of which the libraries take 1.3 GB without using it."""
ROWS: Final = 64


def main() -> None:
    for kind, limit in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        most = resource.getrlimit(kind)[1]  # no process may ask for more than it was given
        resource.setrlimit(kind, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))
    import pyarrow as pa

    pa.set_cpu_count(1)
    answers: dict[str, Callable[..., dict[str, Any]]] = {"footer": footer, "decode": decode, "table": table}
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        data = sys.stdin.buffer.read(request["bytes"])
        try:
            answer = answers[request["what"]](request, data)
        except MemoryError:  # of which Arrow's own is one
            answer = {"error": f"rows that take more than {MEMORY_BYTES / 2**30} GiB to read"}
        except (pa.ArrowException, OSError, ValueError) as error:
            text = f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
            answer = {"error": text[:300]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def footer(request: dict[str, Any], tail: bytes) -> dict[str, Any]:
    """Of the last bytes of a file: what a plan needs to know of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(pa.BufferReader(tail))
    schema = metadata.schema.to_arrow_schema().remove_metadata()
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    return {
        "rows": metadata.num_rows,
        "groups": [[group.num_rows, group.total_byte_size] for group in groups],
        "packed": sum(group.column(i).total_compressed_size for group in groups for i in range(group.num_columns)),
        "schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
        "etag": hashlib.sha256(sink.getvalue()).hexdigest()[:32],
    }


def decode(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Reads a file, or its bytes, until `limit` bytes have come out of it or a value is longer than `longest`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = request["path"] or pa.BufferReader(data)
    schema = pq.read_schema(source)
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_binary(field.type)]
    try:
        return _decode(pq.ParquetFile(source, read_dictionary=texts), request)
    except (pa.ArrowException, OSError):  # values that say only in what they differ from the one before have none
        return _decode(pq.ParquetFile(source), request)


def table(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """All of a small file, as Arrow's stream."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = pq.read_table(pa.BufferReader(data))
    size = sum(_sizes(chunk)[0] for column in found.columns for chunk in column.chunks)
    if size > request["limit"]:
        raise ValueError(f"a table of {size:,} bytes, more than {request['limit']:,}")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    return {"stream": base64.b64encode(sink.getvalue().to_pybytes()).decode()}


def _decode(file: Any, request: dict[str, Any]) -> dict[str, Any]:
    out = 0
    for batch in file.iter_batches(batch_size=ROWS):
        sizes = [_sizes(column) for column in batch.columns]
        out += sum(size for size, _ in sizes)
        longest = max((length for _, length in sizes), default=0)
        if out > request["limit"] or longest > request["longest"]:
            return {"bytes": out, "longest": longest if longest > request["longest"] else 0}
    return {"bytes": out, "longest": 0}


def _sizes(column: Any) -> tuple[int, int]:
    """Bytes of a column, and of its longest value where it is text: of a dictionary as if each row had its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        return column.nbytes, 0
    lengths = pc.binary_length(column.dictionary)
    whole = pc.sum(lengths.take(column.indices)).as_py() or 0
    return whole, pc.max(lengths).as_py() or 0


if __name__ == "__main__":
    main()
