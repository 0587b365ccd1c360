"""`export --sign`: C2PA's own reader trusts each image by a root made here, and no longer once a byte has changed."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from datasets import load_dataset
from PIL import Image

from promptmill.jobs.export import export
from promptmill.schemas.errors import JobError
from tests.curation.drawn import make_dataset, scenes

NOW = datetime.now(UTC)
MIMES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


@dataclass
class Authority:
    """A root of its own, and files of a certificate that it issued."""

    folder: Path

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = self._issued("a test root", self.key, self.key, None, (-1, 30), True)

    def files(
        self,
        key: Any = None,
        days: tuple[int, int] = (-1, 30),
        purpose: Any = ExtendedKeyUsageOID.EMAIL_PROTECTION,
        encryption: KeySerializationEncryption | None = None,
    ) -> dict[str, str]:
        """Paths, as `export` takes them; `days` from today are those of its validity."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        own = self._issued("a signer", key, self.key, purpose, days, False)
        chain, private = self.folder / "chain.pem", self.folder / "key.pem"
        chain.write_bytes(own.public_bytes(Encoding.PEM) + self.root.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
        return {"certificate": str(chain), "key": str(private)}

    def _issued(self, name: str, key: Any, by: Any, purpose: Any, days: tuple[int, int], ca: bool) -> x509.Certificate:
        named = x509.Name(
            [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests")]
        )
        built = (
            x509.CertificateBuilder(named if ca else self.root.subject, named, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=days[0]))
            .not_valid_after(NOW + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.KeyUsage(not ca, *[False] * 4, ca, ca, False, False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if purpose is not None:
            built = built.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return built.sign(by, hashes.SHA256())

    def read(self, data: bytes, suffix: str, trusted: bool = True, manifest: bytes | None = None) -> Any:
        root = self.root.public_bytes(Encoding.PEM).decode()
        trust = {"trust_anchors": root, "trust_config": f"{ExtendedKeyUsageOID.EMAIL_PROTECTION.dotted_string}\n"}
        settings = {"verify": {"verify_trust": True}, **({"trust": trust} if trusted else {})}
        return c2pa.Reader(MIMES[suffix], io.BytesIO(data), manifest, context=c2pa.Context.from_dict(settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signed")
    make_dataset(folder, scenes(4), mapped={"label": "kind"}, kind=["cat", "dog"] * 2)
    return folder / "made"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "secret").mkdir()
    return Authority(tmp_path / "secret")


def hashes_below(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def images_below(out: Path) -> dict[str, bytes]:
    """By their names: loose files, and members of tars."""
    found = {path.name: path.read_bytes() for path in out.rglob("*") if path.suffix in MIMES}
    for path in out.rglob("*.tar"):
        with tarfile.open(path) as tar:
            names = [name for name in tar.getnames() if Path(name).suffix in MIMES]
            found |= {name: file.read() for name in names if (file := tar.extractfile(name))}
    return found


@pytest.mark.parametrize("layout", ["imagefolder", "imagefolder-metadata", "webdataset", "kohya", "coco"])
def test_the_reader_trusts_each_image_until_a_byte_changes(
    made: Path, tmp_path: Path, authority: Authority, layout: str
) -> None:
    before = hashes_below(made)
    plain, signed = tmp_path / "plain", tmp_path / "signed"
    export(str(made), layout, str(plain))
    answer = export(str(made), layout, str(signed), sign=True, **authority.files())
    assert answer.signed == answer.images == 4
    assert hashes_below(made) == before
    assert sorted(hashes_below(plain)) == sorted(hashes_below(signed))
    own = images_below(plain)
    for name, data in images_below(signed).items():
        assert authority.read(data, Path(name).suffix).get_validation_state() == "Trusted"
        assert authority.read(data, Path(name).suffix, trusted=False).get_validation_state() == "Valid"
        with Image.open(io.BytesIO(data)) as ours, Image.open(io.BytesIO(own[name])) as theirs:
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        assert 0 < len(data) - len(own[name]) < 8_000  # no thumbnail
        place = data.index(b"IDAT") + 20
        broken = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert authority.read(broken, Path(name).suffix).get_validation_state() == "Invalid"


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_in_parquet_the_manifest_is_a_column(tmp_path: Path, authority: Authority, image_format: str) -> None:
    make_dataset(tmp_path, scenes(3), image_format=image_format)
    made, suffix = tmp_path / "made", {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}[image_format]
    before = hashes_below(made)
    export(str(made), "huggingface", str(tmp_path / "plain"), split="train=0.7,test=0.3")
    answer = export(
        str(made), "huggingface", str(tmp_path / "signed"), split="train=0.7,test=0.3", sign=True, **authority.files()
    )
    assert answer.signed == answer.images == 3
    assert hashes_below(made) == before
    for path in (tmp_path / "signed" / "data").iterdir():
        signed, plain = pq.read_table(path), pq.read_table(tmp_path / "plain" / "data" / path.name)
        assert signed.drop_columns(["c2pa_manifest"]).equals(plain)
        for row in signed.to_pylist():
            data, manifest = row["image"]["bytes"], row["c2pa_manifest"]
            assert hashlib.sha256(data).hexdigest() == row["image_sha256"]
            assert authority.read(data, suffix, manifest=manifest).get_validation_state() == "Trusted"
            assert authority.read(data, suffix, False, manifest).get_validation_state() == "Valid"
            middle = len(data) // 2
            broken = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            assert authority.read(broken, suffix, manifest=manifest).get_validation_state() == "Invalid"
            assert is_refused(authority, data, suffix, manifest)
    card = (tmp_path / "signed" / "README.md").read_text()
    assert "| `c2pa_manifest` | `binary` | signed C2PA manifest" in card
    rows = load_dataset(str(tmp_path / "signed"), cache_dir=str(tmp_path / "cache"), split="train")
    assert all(isinstance(row["c2pa_manifest"], bytes) and row["image"].size == (64, 64) for row in rows)


def is_refused(authority: Authority, data: bytes, suffix: str, manifest: bytes) -> bool:
    """Whether the manifest no longer holds once a byte of its claim, of an assertion or of its signature is another."""
    states = []
    for place in (manifest.index(b"promptmill") + 2, manifest.index(b"AlgorithmicMedia") + 2, len(manifest) // 2):
        broken = manifest[:place] + bytes([manifest[place] ^ 1]) + manifest[place + 1 :]
        try:
            states.append(authority.read(data, suffix, manifest=broken).get_validation_state())
        except c2pa.C2paError:  # no longer a manifest
            states.append("Invalid")
    return states == ["Invalid"] * 3


def test_a_column_of_that_name_is_kept_under_another(tmp_path: Path, authority: Authority) -> None:
    """As of a dataset whose source was such an export."""
    make_dataset(tmp_path, scenes(2), c2pa_manifest=["old"] * 2)
    export(str(tmp_path / "made"), "huggingface", str(tmp_path / "out"), sign=True, **authority.files())
    rows = pq.read_table(tmp_path / "out" / "data" / "train-00000.parquet").to_pylist()
    assert {row["input_c2pa_manifest"] for row in rows} == {"old"}
    assert all(
        authority.read(row["image"]["bytes"], ".png", manifest=row["c2pa_manifest"]).get_validation_state() == "Trusted"
        for row in rows
    )


def test_the_manifest_says_that_a_model_made_it(made: Path, tmp_path: Path, authority: Authority) -> None:
    export(str(made), "coco", str(tmp_path / "out"), sign=True, **authority.files())
    name, data = next(iter(images_below(tmp_path / "out").items()))
    manifest = json.loads(authority.read(data, ".png").json())
    (own,) = manifest["manifests"].values()
    (action,) = own["assertions"][0]["data"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert (own["title"], own["claim_generator_info"][0]["name"]) == (name, "promptmill")


@pytest.mark.parametrize("kind", ["es384", "ed25519", "ps256"])
def test_other_keys(made: Path, tmp_path: Path, authority: Authority, kind: str) -> None:
    makes: dict[str, Callable[[], Any]] = {
        "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "ps256": lambda: rsa.generate_private_key(65537, 2048),
    }
    export(str(made), "coco", str(tmp_path / "out"), sign=True, **authority.files(makes[kind]()))
    for data in images_below(tmp_path / "out").values():
        assert authority.read(data, ".png").get_validation_state() == "Trusted"


def test_paths_from_the_environment(
    made: Path, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    for name, path in authority.files().items():
        monkeypatch.setenv(f"PROMPTMILL_{name.upper()}", path)
    answer = cli("export", str(made), str(tmp_path / "out"), "--layout", "kohya", "--sign", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["signed"] == 4
    unsigned = cli("export", str(made), str(tmp_path / "other"), "--layout", "kohya", "--json")
    assert unsigned.json["signed"] is None
    assert not any(b"c2pa" in data for data in images_below(tmp_path / "other").values())


def refused(made: Path, out: Path, layout: str = "imagefolder", **options: Any) -> str:
    """What it says; nothing was written, and nothing of the key is in it."""
    with pytest.raises(JobError) as error:
        export(str(made), layout, str(out), **{"sign": True, **options})
    assert not out.exists() or not any(out.rglob("*"))
    text = str(error.value)
    if (key := options.get("key")) and Path(key).is_file():
        assert not any(line in text for line in Path(key).read_text().splitlines() if len(line) > 20)
    return text


def test_a_key_of_another_certificate(made: Path, tmp_path: Path, authority: Authority) -> None:
    own = authority.files()
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").files()
    assert "the key of --certificate's first certificate" in refused(
        made, tmp_path / "o", **{**own, "key": other["key"]}
    )


def test_the_root_before_the_signer(made: Path, tmp_path: Path, authority: Authority) -> None:
    own = authority.files()
    first, second = re.findall(r"-----BEGIN.*?END CERTIFICATE-----\n", Path(own["certificate"]).read_text(), re.DOTALL)
    Path(own["certificate"]).write_text(second + first)
    assert "signer's certificate comes first" in refused(made, tmp_path / "o", **own)


@pytest.mark.parametrize(("days", "told"), [((-9, -2), "expired"), ((2, 9), "valid only from")])
def test_a_certificate_that_does_not_hold_now(
    made: Path, tmp_path: Path, authority: Authority, days: tuple[int, int], told: str
) -> None:
    assert told in refused(made, tmp_path / "o", **authority.files(days=days))


def test_a_certificate_for_another_purpose(made: Path, tmp_path: Path, authority: Authority) -> None:
    said = refused(made, tmp_path / "o", **authority.files(purpose=ExtendedKeyUsageOID.SERVER_AUTH))
    assert "its own profile" in said


def test_a_chain_with_a_gap(made: Path, tmp_path: Path, authority: Authority) -> None:
    own = authority.files()
    (tmp_path / "other").mkdir()
    strange = Authority(tmp_path / "other").root.public_bytes(Encoding.PEM).decode()
    first = Path(own["certificate"]).read_text().split("-----END CERTIFICATE-----\n")[0]
    Path(own["certificate"]).write_text(f"{first}-----END CERTIFICATE-----\n{strange}")
    assert "each certificate issued by the next" in refused(made, tmp_path / "o", **own)


@pytest.mark.parametrize("kind", [ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)])
def test_keys_as_older_programs_write_them(made: Path, tmp_path: Path, authority: Authority, kind: Any) -> None:
    own = authority.files(kind)
    Path(own["key"]).write_bytes(kind.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    export(str(made), "imagefolder", str(tmp_path / "o"), sign=True, **own)
    for name, data in images_below(tmp_path / "o").items():
        assert authority.read(data, Path(name).suffix).get_validation_state() == "Trusted"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl, which alone makes such keys")
def test_curves_that_nobody_knows(made: Path, tmp_path: Path, authority: Authority) -> None:
    """SM2: `cryptography` raises an error that is no ValueError."""
    own = authority.files()
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:sm2", "-out", own["key"]]
    subprocess.run(command, check=True)
    assert "P-256" in refused(made, tmp_path / "o", **own)


def test_a_key_with_a_password(made: Path, tmp_path: Path, authority: Authority) -> None:
    own = authority.files(encryption=BestAvailableEncryption(b"word"))
    assert "without a password" in refused(made, tmp_path / "o", **own)


@pytest.mark.parametrize(
    ("key", "told"),
    [(ec.generate_private_key(ec.SECP256K1()), "P-256"), (rsa.generate_private_key(65537, 1024), "2,048 bits")],
)
def test_a_key_that_c2pa_does_not_sign_with(
    made: Path, tmp_path: Path, authority: Authority, key: Any, told: str
) -> None:
    assert told in refused(made, tmp_path / "o", **authority.files(key))


@pytest.mark.parametrize("content", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
@pytest.mark.parametrize("which", ["certificate", "key"])
def test_files_that_are_none(made: Path, tmp_path: Path, authority: Authority, which: str, content: str) -> None:
    own = authority.files()
    Path(own[which]).write_text(content)
    assert f"--{which}" in refused(made, tmp_path / "o", **own)


def test_what_is_not_given_or_not_there(
    made: Path, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROMPTMILL_CERTIFICATE", "PROMPTMILL_KEY"):
        monkeypatch.delenv(name, raising=False)
    own = authority.files()
    assert "PROMPTMILL_CERTIFICATE" in refused(made, tmp_path / "o", key=own["key"])
    assert "PROMPTMILL_KEY" in refused(made, tmp_path / "o", certificate=own["certificate"])
    assert "No such file" in refused(made, tmp_path / "o", certificate=str(tmp_path / "gone"), key=own["key"])
    assert "--sign beside them" in refused(made, tmp_path / "o", **own, sign=False)


@pytest.mark.parametrize("layout", ["dpg", "geneval"])
def test_layouts_that_cannot_be_signed(made: Path, tmp_path: Path, authority: Authority, layout: str) -> None:
    assert "a layout for training" in refused(made, tmp_path / "o", layout, **authority.files())


def test_without_the_extra(made: Path, tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    own = authority.files()
    monkeypatch.setitem(sys.modules, "c2pa", None)  # what an import of a package that is not there meets
    assert "pip install 'promptmill[c2pa]'" in refused(made, tmp_path / "o", **own)
