"""The object storage of a night, on a machine of its own:

python -m tests.servers.s3 -- python -m tests.engines.shared_store FILE ADDRESS {bucket}

Forwards ADDRESS, which the others reach, to the server on loopback, and keeps in FILE what they must know: variables of
the environment, the bucket, and how many objects lie in it.
"""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import s3fs

PORT = 9000


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def serve(file: Path, address: str, bucket: str) -> None:
    inner = urlsplit(os.environ["AWS_ENDPOINT_URL"])

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(inner.hostname, inner.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    await asyncio.start_server(forward, address, PORT)
    outer = f"http://{address}:{PORT}"
    names = [name for name in os.environ if name.startswith("AWS_")]
    changed = {"AWS_ENDPOINT_URL": outer, "AWS_ENDPOINT_URL_S3": outer, "NO_PROXY": "*", "no_proxy": "*"}
    environment = {**{name: os.environ[name] for name in names}, **changed}
    fs = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], use_listings_cache=False)
    while True:
        found = await asyncio.to_thread(fs.find, bucket)
        shards = sum("/data/part-" in name for name in found)
        keep(file, {"environment": environment, "bucket": bucket, "shards": shards})
        await asyncio.sleep(0.5)


def keep(file: Path, content: object) -> None:
    near = file.with_suffix(".new")
    near.write_text(json.dumps(content))
    near.replace(file)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
