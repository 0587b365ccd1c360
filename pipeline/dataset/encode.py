"""Pixels as files: PNG, lossless WebP or JPEG, with the settings that made them inside."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from dataclasses import dataclass
from importlib.metadata import version

import imagehash
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from promptmill.pipeline.models.interface import Pixels
from promptmill.schemas.generation import Generation
from promptmill.schemas.output import ImageFormat, Output
from promptmill.schemas.plan import Sample
from promptmill.schemas.resolved import ResolvedModel

SUFFIX: dict[ImageFormat, str] = {"png": "png", "webp": "webp", "jpeg": "jpg"}

_SOURCE_TYPE = (  # of https://cv.iptc.org/newscodes/digitalsourcetype/
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    b' Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/%b"/>'
    b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_EXIF_IFD, _EXIF_VERSION, _USER_COMMENT = 0x8769, 0x9000, 0x9286
_LONG, _UNDEFINED = 4, 7
_JPEG_COMMENT_BYTES = 65_000
"""A JPEG holds its EXIF block in one segment, of at most 65,533 bytes with headers."""


@dataclass(frozen=True)
class EncodedImage:
    data: bytes
    sha256: str
    phash: str


def encode_image(pixels: Pixels, parameters: str | None, output: Output, composite: bool = False) -> EncodedImage:
    """The same bytes for the same input. `composite` says that a part of the image is none of the model's.

    `phash` is 64 bits as 16 hex digits, for finding near duplicates.
    """
    image = Image.fromarray(pixels)
    kind = b"compositeWithTrainedAlgorithmicMedia" if composite else b"trainedAlgorithmicMedia"
    xmp = _SOURCE_TYPE % kind if output.embed_source_type else None
    sink = io.BytesIO()
    if output.image_format == "png":
        info = PngInfo()
        if parameters is not None:
            info.add_text("parameters", parameters)
        if xmp is not None:
            info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        # Level 1 costs a third of the default level's time for 12 % more bytes.
        image.save(sink, "PNG", compress_level=1, pnginfo=info)
    else:
        options: dict[str, object] = {} if xmp is None else {"xmp": xmp}
        if parameters is not None:
            options["exif"] = _exif_comment(_cut(parameters) if output.image_format == "jpeg" else parameters)
        if output.image_format == "webp":
            # method 0, quality 0: nine times faster than default PNG, and smaller.
            image.save(sink, "WEBP", lossless=True, method=0, quality=0, **options)
        else:
            image.save(sink, "JPEG", quality=output.jpeg_quality, **options)
    data = sink.getvalue()
    return EncodedImage(data, hashlib.sha256(data).hexdigest(), str(imagehash.phash(image)))


def parameters_text(
    sample: Sample, generation: Generation, model: ResolvedModel, scheduler: str, width: int, height: int
) -> str:
    """Settings in the form that AUTOMATIC1111 writes and many tools read back."""
    facts = {
        "Steps": generation.num_inference_steps,
        "Sampler": scheduler,
        "CFG scale": generation.guidance_scale,
        "Seed": sample.seed,
        "Size": f"{width}x{height}",
        "Model hash": model.revision[:10],
        "Model": model.path,
        "Version": f"promptmill {version('promptmill')}",
    }
    lines = [sample.prompt]
    if sample.negative_prompt:
        lines.append(f"Negative prompt: {sample.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items()))
    return "\n".join(lines).replace("\0", "\ufffd")  # a NUL would end the text chunk of a PNG


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ',\n:"') else value


def _cut(text: str) -> str:
    """As much of the prompts as a JPEG takes, and the settings in the last line; the record has the whole prompts."""
    if len(text.encode("utf-16-be", "replace")) <= _JPEG_COMMENT_BYTES:
        return text
    prompts, _, parameters = text.rpartition("\n")
    left = max(0, _JPEG_COMMENT_BYTES - len(parameters.encode("utf-16-be", "replace")) - 4)
    return f"{prompts.encode('utf-16-be', 'replace')[:left].decode('utf-16-be', 'ignore')}…\n{parameters}"


def _exif_comment(text: str) -> bytes:
    """An EXIF block with the text as `UserComment`, of type UNDEFINED as the standard has it (EXIF 2.32, 4.6.5).

    Pillow writes bytes under tags that it does not know as type BYTE, which piexif and what reads by it cannot decode.
    """
    comment = b"UNICODE\0" + text.encode("utf-16-be", "replace")
    where = 8 + 2 + 12 + 4  # header, then a directory of one entry
    header = b"Exif\0\0MM" + struct.pack(">HI", 42, 8)
    main = struct.pack(">HHHIII", 1, _EXIF_IFD, _LONG, 1, where, 0)
    version = struct.pack(">HHI4s", _EXIF_VERSION, _UNDEFINED, 4, b"0232")
    own = struct.pack(">HHII", _USER_COMMENT, _UNDEFINED, len(comment), where + 2 + 2 * 12 + 4)
    return header + main + struct.pack(">H", 2) + version + own + struct.pack(">I", 0) + comment
