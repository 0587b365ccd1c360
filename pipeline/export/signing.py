"""Signed origin of exported images: a C2PA manifest in each or beside it, by c2pa-python and a
certificate of the user's.

A signature has salts, so that signing twice gives other bytes: the dataset's own images carry none, whoever signs.
Nothing asks the network: no time stamp, no OCSP.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from promptmill.pipeline.display import first_line, shown
from promptmill.pipeline.storage.homes import at_home
from promptmill.pipeline.storage.local import read_regular_file
from promptmill.schemas.errors import JobError, Problem

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Sign = Callable[[bytes, str, str], bytes]
"""(encoded image, its suffix, its title) → the image with a manifest, or the manifest alone."""

MIMES: Final = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
CERTIFICATE, KEY = "--certificate", "--key"
_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_LEAST_RSA_BITS: Final = 2048
_KEYS: Final = "a key on P-256, P-384 or P-521, of Ed25519, or of RSA with 2,048 bits and more"
_MOST_BYTES: Final = 1 << 20
# With a thumbnail an image of 12 KB becomes one of 289 KB; without 3 KB are added.
_SETTINGS: Final[dict[str, Any]] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


@dataclass(frozen=True, repr=False)
class Credentials:
    """`chain` is PEM, the signer's certificate first; `key` is PEM too (PKCS#8), and in no message."""

    algorithm: str
    chain: bytes
    key: bytes


def open_signer(certificate: str | None, key: str | None, composite: bool = False, apart: bool = False) -> Sign:
    """What signs, tried once. `composite` is for images of which a part is no model's, as of inpainting; `apart` gives
    the manifest of an image whose bytes stay as they are, where it does not go into them.

    Raises JobError for a package that is missing, a certificate that has expired or whose key it is not, and for what
    C2PA does not take.
    """
    if find_spec("c2pa") is None:
        raise JobError(Problem("--sign", "the package c2pa-python", "none installed", "pip install 'promptmill[c2pa]'"))
    sign = _signer(_credentials(_read(certificate, CERTIFICATE), _read(key, KEY)), composite, apart)
    sink = io.BytesIO()
    Image.new("RGB", (8, 8)).save(sink, "PNG")
    try:
        sign(sink.getvalue(), "png", "a trial")
    except JobError as error:
        hint = "It needs a certificate of its own profile: C2PA 2.x, 14.5"
        raise JobError(f"{error}. {hint}") from None
    return sign


def _signer(own: Credentials, composite: bool, apart: bool) -> Sign:
    import c2pa

    kinds = c2pa.C2paDigitalSourceType
    kind = kinds.COMPOSITE_WITH_TRAINED_ALGORITHMIC_MEDIA if composite else kinds.TRAINED_ALGORITHMIC_MEDIA
    maker = [{"name": "promptmill", "version": version("promptmill")}]
    context = c2pa.Context.from_dict(_SETTINGS)

    def sign(data: bytes, suffix: str, title: str) -> bytes:
        sink = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(own.algorithm, own.chain, own.key, None)
            with c2pa.Signer.from_info(info) as signer:
                builder = c2pa.Builder({"claim_generator_info": maker, "title": title}, context=context)
                builder.set_intent(c2pa.C2paBuilderIntent.CREATE, kind)
                if apart:
                    builder.set_no_embed()
                manifest: bytes = builder.sign(signer, MIMES[suffix], io.BytesIO(data), sink)
        except c2pa.C2paError as error:
            raise JobError(Problem("--sign", f"{title} with a C2PA manifest", first_line(error))) from None
        return manifest if apart else sink.getvalue()

    return sign


def _read(path: str | None, where: str) -> bytes:
    if not path:
        name = f"PROMPTMILL_{where.strip('-').upper()}"
        raise JobError(Problem(where, "the path of a PEM file", "nothing", f"Give {where} PATH, or set {name}"))
    try:
        return read_regular_file(at_home(path), _MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = f"{getattr(error, 'strerror', None) or error}"
        raise JobError(Problem(where, "a PEM file that can be read", f"{shown(path)}: {reason}")) from None


def _credentials(chain: bytes, key: bytes) -> Credentials:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.x509 import load_pem_x509_certificates

    try:
        certificates = load_pem_x509_certificates(chain)
    except ValueError as error:
        raise JobError(Problem(CERTIFICATE, "certificates in PEM, the signer's first", first_line(error))) from None
    try:
        private: Any = pem.load_pem_private_key(key, None)
    except TypeError:
        hint = "`openssl pkey -in KEY` writes it without one"
        raise JobError(Problem(KEY, "a private key without a password", "one with a password", hint)) from None
    except UnsupportedAlgorithm as error:
        raise JobError(Problem(KEY, _KEYS, first_line(error))) from None
    except ValueError:
        raise JobError(Problem(KEY, "a private key in PEM", "none")) from None
    algorithm = _algorithm(private)
    try:
        public = [each.public_key() for each in certificates]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise JobError(Problem(CERTIFICATE, f"certificates of {_KEYS}", first_line(error))) from None
    if public[0] != private.public_key():
        hint = "The signer's certificate comes first in the file" if private.public_key() in public[1:] else ""
        raise JobError(Problem(KEY, f"the key of {CERTIFICATE}'s first certificate", "that of another", hint))
    _check_chain(certificates, datetime.now(UTC))
    # C2PA's own reader takes no other form, as OpenSSL before 3 wrote it.
    plain = private.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
    return Credentials(algorithm, chain, plain)


def _algorithm(key: Any) -> str:
    """As C2PA names it. Raises JobError for a key that it does not sign with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return "ps256"
    raise JobError(Problem(KEY, _KEYS, type(key).__name__))


def _check_chain(certificates: Sequence[Certificate], now: datetime) -> None:
    """Raises JobError for a certificate that does not hold now, and where one was not issued by the next."""
    for each in certificates:
        name = shown(each.subject.rfc4514_string())[:200]
        if not each.not_valid_before_utc <= now <= each.not_valid_after_utc:
            ended = each.not_valid_after_utc < now
            got = f"{name}: {'expired' if ended else 'valid only from'} "
            got += f"{each.not_valid_after_utc if ended else each.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            raise JobError(Problem(CERTIFICATE, "certificates that hold now", got))
    for each, issuer in pairwise(certificates):
        try:
            each.verify_directly_issued_by(issuer)
        except Exception as error:  # ValueError, TypeError and InvalidSignature, which has no text
            got = f"{shown(each.subject.rfc4514_string())[:100]}, not issued by the next ({type(error).__name__})"
            raise JobError(Problem(CERTIFICATE, "a chain, each certificate issued by the next", got)) from error
