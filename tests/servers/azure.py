"""Azurite, Microsoft's own emulator of its blob storage, from npm: it checks keys and conditions as Azure does."""

# mypy: disable-error-code="import-untyped"
from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import KeptServer, ServerError

VERSION = "3.35.0"
ACCOUNT = "mill"
CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"


def install() -> list[str]:
    """The command, from the path or a cache of tests, where npm puts it once (20 s). Raises ServerError without npm."""
    if found := shutil.which("azurite-blob"):
        return [found]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise ServerError("Azurite needs node and npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promptmill-tests"
    folder = cache / f"azurite-{VERSION}"
    if not folder.is_dir():
        fresh = cache / secrets.token_hex(8)
        fresh.mkdir(parents=True)
        options = ["--no-audit", "--no-fund", "--omit=optional", "--ignore-scripts", "--prefix", str(fresh)]
        done = subprocess.run(
            [npm, "install", *options, f"azurite@{VERSION}"], check=False, capture_output=True, text=True, timeout=240
        )
        if done.returncode != 0:
            shutil.rmtree(fresh)
            raise ServerError(f"npm does not install Azurite: {done.stderr[-500:]}")
        fresh.rename(folder)
    return [node, str(folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js")]


class AzureServer(KeptServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._program = install()
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()

    def command(self) -> tuple[list[str], Mapping[str, str]]:
        where = ["--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self._folder)]
        options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        env = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self.key}"}
        return [*self._program, *where, *options], env

    def env(self, key: str | None = None) -> dict[str, str]:
        endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"
        text = (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key or self.key};BlobEndpoint={endpoint};"
        )
        return {CONNECTION: text}

    def make_container(self, name: str) -> None:
        from azure.storage.blob import BlobServiceClient

        with BlobServiceClient.from_connection_string(self.env()[CONNECTION]) as client:
            client.create_container(name).close()
