"""Images that prompts name: found, fetched, decoded and fitted, so that no pipeline meets a surprise.

diffusers stretches the second of two sizes in a batch, reads four channels as latents and rounds sizes down, all in
silence. What leaves here is uint8 sRGB of exactly the size that the sample is drawn in.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from promptmill.pipeline.display import cut
from promptmill.pipeline.prompts.cells import Cells, outside
from promptmill.pipeline.prompts.decoding import Pixels, Target, decode, fit
from promptmill.pipeline.prompts.image_files import is_image
from promptmill.pipeline.prompts.members import member_of
from promptmill.pipeline.prompts.pixels import MAX_BYTES
from promptmill.pipeline.prompts.reach import EMBEDDED, PACKED, Reach
from promptmill.pipeline.prompts.servers import Servers
from promptmill.pipeline.storage.digests import digest_of
from promptmill.pipeline.storage.store import Store
from promptmill.pipeline.storage.urls import absolute_url, is_remote
from promptmill.schemas.errors import SampleError, StorageError
from promptmill.schemas.generation import Fit, Generation
from promptmill.schemas.inputs import MASK_LIMIT, REFERENCE, Input, Role
from promptmill.schemas.origin import is_marked
from promptmill.schemas.plan import STAGED, Sample, SourceFile
from promptmill.schemas.records import kept_input_key
from promptmill.schemas.resolved import ResolvedModel

REFERENCE_SIDE = 512
"""Of the shorter side of a reference image: the largest image encoder in use sees 448 pixels."""
_HASHES_KEPT = 100_000


def locator(value: object, file: SourceFile, column: str, row: int) -> str | None:
    """Where the bytes of a cell are: a path relative to the folder of the file it stands in, a URL, or the cell."""
    if isinstance(value, str) and value:
        if value.startswith((EMBEDDED, PACKED)):  # of a row that failed, and is tried again
            return value
        folder = file.folder or file.path.rpartition("/")[0]
        if member_of(value) is not None:
            return f"{PACKED}{folder}/{file.name.rpartition('/')[2]}#{value}"
        return beside(value, folder)
    return None if value is None or value == "" else f"{EMBEDDED}{file.path}#{column}:{row}"


def beside(path: str, folder: str) -> str:
    """A path that a row of a file in `folder` names, or a URL as it is."""
    place = path if "://" in path or path.startswith("/") else f"{folder}/{path}"
    return place if is_remote(place) else absolute_url(place)


class InputReader:
    """Fetches by locator. Safe to use from several threads; keeps a few rows of a column, and no other image.

    `keep` stores what was read once below the output, by its hash.
    """

    def __init__(
        self, output: Store, keep: bool = False, reach: Reach | None = None, planned: Sequence[SourceFile] = ()
    ) -> None:
        """With a `reach`, what lies outside of it is not read; of `planned` images only what they were then. Paths in
        other planned files are relative to where those lay."""
        self._reach = reach
        self._planned = {file.path: file for file in planned if is_image(file.name)}
        self._folders = {file.path: file.folder for file in planned if file.folder is not None}
        self._output = output
        self._keep = keep
        self._kept: set[str] = set()
        self._servers = Servers()
        self._cells = Cells(output)

    def read(self, place: str) -> bytes:
        """Raises SampleError where nothing usable is there, after a patience of a minute."""
        try:
            data = self._found(place)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
            raise SampleError("input", f"no file at {place} ({type(error).__name__})") from None
        except (StorageError, OSError, ValueError, pa.ArrowException) as error:
            raise SampleError("input", cut(f"{place} cannot be read: {error}", 500)) from None
        if not data:
            raise SampleError("input", f"{place} is empty")
        return data

    def hash_of(self, data: bytes) -> str:
        """SHA-256 of an image that was read, which is then stored if it is to be kept."""
        sha256 = hashlib.sha256(data).hexdigest()
        if self._keep and sha256 not in self._kept:
            self._output.create(kept_input_key(sha256), data)
            if len(self._kept) >= _HASHES_KEPT:  # what is stored already is not stored again
                self._kept.clear()
            self._kept.add(sha256)
        return sha256

    def known(self, place: str, sha256: str) -> bytes:
        """The very image that a row was drawn from: where it lay, or as it was kept. Raises SampleError."""
        try:
            data = self.read(place)
        except SampleError as gone:
            with contextlib.suppress(SampleError):
                return self.kept(sha256)
            raise gone from None
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        with contextlib.suppress(SampleError):
            return self.kept(sha256)
        raise SampleError("input", f"{place} is another image than the one that was drawn from")

    def kept(self, sha256: str) -> bytes:
        """An input image that an earlier run has kept. Raises SampleError."""
        try:
            return self._output.read(kept_input_key(sha256))
        except (StorageError, OSError) as error:
            raise SampleError("input", f"{sha256} is not kept ({type(error).__name__})") from None

    def _found(self, place: str) -> bytes:
        if place.startswith(PACKED):
            return self._packed(place)
        return self._embedded(place) if place.startswith(EMBEDDED) else self._fetch(place)

    def _packed(self, place: str) -> bytes:
        """A member of a tar, and nothing else of it."""
        path, _, cell = place.removeprefix(PACKED).rpartition("#")
        member = member_of(cell)
        if member is None or member.size > MAX_BYTES:
            raise ValueError("no place in a tar")
        if not (self._reach is None or self._reach.holds(path)):
            raise outside(path)
        with self._servers.opened(path) as (store, name):
            entry = store.entry(name)
            if entry is None:
                raise FileNotFoundError(path)
            stop = member.start + member.size
            data = store.read_range(name, member.start, stop) if stop <= entry.size_bytes else b""
        if not member.holds(data):
            raise SampleError("input", f"{place} is another image than when the job was planned")
        return data

    def _fetch(self, place: str) -> bytes:
        near = self._reach is None or self._reach.holds(place)
        if not near and is_remote(place):
            raise outside(place)
        data = self._read_file(place)
        if not (near or (self._reach is not None and self._reach.knows(data))):
            raise outside(place)
        return data

    def _read_file(self, place: str) -> bytes:
        with self._servers.opened(place) as (store, name):
            entry = store.entry(name)
            if entry is None:
                raise FileNotFoundError(place)
            if entry.size_bytes > MAX_BYTES:
                raise ValueError(f"{entry.size_bytes:,} bytes, more than {MAX_BYTES:,}")
            data = store.read(name)
        planned = self._planned.get(place)
        if planned is not None and _is_another(planned, data, store.content_version(entry)):
            raise SampleError("input", f"{place} is another image than when the job was planned")
        return data

    def _embedded(self, place: str) -> bytes:
        path, _, cell = place.removeprefix(EMBEDDED).rpartition("#")
        column, _, number = cell.rpartition(":")
        if not (self._reach is None or path.startswith(STAGED) or self._reach.holds(path)):
            raise outside(path)
        value = self._cells.value(path, column, int(number))
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None and isinstance(value, dict) and value.get("path"):
            return self._fetch(beside(str(value["path"]), self._folders.get(path) or path.rpartition("/")[0]))
        return bytes(data) if isinstance(data, (bytes, bytearray)) else b""


def _is_another(planned: SourceFile, data: bytes, version: str | None) -> bool:
    if planned.version is not None and version == planned.version:
        return False
    if planned.digest is not None:
        return digest_of(lambda: io.BytesIO(data), len(data)) != planned.digest
    return len(data) != planned.size_bytes or None not in (planned.version, version)


def leading_role(roles: Iterable[Role]) -> Role | None:
    """Whose size counts where the job says none: the image, else the first control image."""
    given = list(roles)
    return "image" if "image" in given else next((role for role in given if role != REFERENCE), None)


def drawn_size(own: tuple[int, int] | None, generation: Generation, model: ResolvedModel) -> tuple[int, int]:
    """Width and height: the job's, or the model's where the job says how images come to a size; else `own`, that of the
    leading image, to the nearest multiple.

    Raises SampleError for an image that is larger than the model's largest, where it is drawn whole.
    """
    if own is None or has_size(generation):
        return generation.width or model.width, generation.height or model.height
    width, height = own
    step = model.size_multiple
    nearest = tuple(max(step, round(side / step) * step) for side in own)
    if model.max_size is not None and max(nearest) > model.max_size and generation.mask_crop is None:
        largest = f"{model.path} draws at most {model.max_size}; set generation.fit, or width and height"
        raise SampleError("input", f"{width}×{height}, and {largest}")
    return nearest[0], nearest[1]


def has_size(generation: Generation) -> bool:
    """Whether images come to a size that is known before they are looked at."""
    return (generation.width, generation.height, generation.fit) != (None, None, None)


def prepare(sample: Sample, reader: InputReader, generation: Generation, model: ResolvedModel) -> Sample:
    """The sample with the pixels and hashes of its inputs. Raises SampleError, with the role, for the first bad one.

    Each is brought to its size before the next is fetched: whole photos are not held beside one another.
    """
    leading = leading_role(sample.inputs)
    how: Fit = generation.fit or "cover"
    size = drawn_size(None, generation, model) if leading is None or has_size(generation) else None
    whole = (0, 0)
    found: dict[Role, Input] = {}
    for role in sorted(sample.inputs, key=lambda role: role != leading):
        given = sample.inputs[role]
        data = reader.read(given.locator) if given.sha256 is None else reader.known(given.locator, given.sha256)
        made = decode(data, role, Target(*size, how) if size and role not in ("mask", REFERENCE) else None)
        if role == leading:
            whole, size = made.size, size or drawn_size(made.size, generation, model)
        pixels = _fitted(role, made.pixels, Target(*(size or made.size), how), whole)
        known = replace(given, sha256=reader.hash_of(data), synthetic=is_marked(data))
        found[role] = replace(known, flags=made.flags, pixels=pixels)
    return replace(sample, inputs={role: found[role] for role in sample.inputs})


def _fitted(role: Role, pixels: Pixels, to: Target, whole: tuple[int, int]) -> Pixels:
    """A reference image is looked at whole, and drawn over by nothing: it keeps its shape, and no more than is seen."""
    if role == "mask":
        return _fitted_mask(pixels, to, whole)
    if role != REFERENCE:
        return fit(pixels, *to)
    height, width = pixels.shape[:2]
    shrunk = min(1.0, REFERENCE_SIDE / min(height, width))
    return fit(pixels, round(width * shrunk), round(height * shrunk), "stretch")


def prepare_all(
    samples: Sequence[Sample], reader: InputReader, generation: Generation, model: ResolvedModel
) -> list[Sample]:
    """Each with its pixels, or with its error; samples of one prompt share them."""
    known: dict[tuple[object, ...], Sample] = {}
    out: list[Sample] = []
    for sample in samples:
        if sample.error is not None or all(each.pixels is not None for each in sample.inputs.values()):
            out.append(sample)
            continue
        places = (*((each.locator, each.sha256) for each in sample.inputs.values()), sample.settings)
        if places not in known:
            try:
                known[places] = prepare(sample, reader, sample.drawn_with(generation), model)
            except SampleError as error:
                known[places] = replace(sample, error=error.bare())
        out.append(replace(sample, inputs=known[places].inputs, error=known[places].error))
    return out


def without_pixels(sample: Sample) -> Sample:
    """What is left of a sample once it is drawn: where its images were, and their hashes."""
    if not sample.inputs:
        return sample
    return replace(sample, inputs={role: replace(each, pixels=None) for role, each in sample.inputs.items()})


def _fitted_mask(mask: Pixels, to: Target, whole: tuple[int, int]) -> Pixels:
    """As the image is brought to its size, whose shape it must have. Raises SampleError."""
    (width, height), (mask_height, mask_width) = whole, mask.shape[:2]
    if abs(mask_width * height - mask_height * width) > max(width, height, mask_width, mask_height):
        raise SampleError("input", f"mask: {mask_width}×{mask_height} for an image of {width}×{height}")
    hard = np.where(mask >= MASK_LIMIT, 255, 0).astype(np.uint8)
    fitted = fit(fit(hard, width, height, "stretch"), *to)
    if not (fitted >= MASK_LIMIT).any():
        raise SampleError("input", "mask: black all over (white is drawn anew, so nothing would be)")
    return fitted
