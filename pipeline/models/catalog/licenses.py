"""Licences of models and images, and what they say on training with what is drawn with and of them.

Written down in November 2026: names are those of https://huggingface.co/docs/hub/repositories-licenses, `url` has the
text that holds. Of FLUX.1 [dev] it is section 2 (d), "Outputs", of Stability's Community License section IV (b), of
OpenRAIL attachment A, all as others quote them. No legal advice: a word of warning before a thousand GPU hours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from promptmill.pipeline.models.catalog.headers import metadata_of
from promptmill.pipeline.models.catalog.shipped import BUILTIN
from promptmill.pipeline.storage.local import read_regular_file
from promptmill.schemas.checked import NO_OBJECT

UNKNOWN: Final = "unknown"
CARD: Final = "README.md"
CARD_BYTES: Final = 1 << 20
_FRONT_CHARS: Final = 64 << 10
_NULLS: Final = ("", "~", "null", "Null", "NULL")

Training = Literal["free", "restricted", "non-commercial", "forbidden", "unknown"]
_ORDER: Final[tuple[Training, ...]] = ("free", "restricted", "unknown", "non-commercial", "forbidden")
"""From the freest to the strictest. What nobody knows is stricter than what restricts uses, which can be read."""


@dataclass(frozen=True)
class License:
    """`training` is what it says on training other models with outputs, `says` the reason in words."""

    name: str
    training: Training
    says: str
    url: str = ""


_FREE = "outputs are free to use"
_USES = "its use restrictions hold for outputs and go along with models that are trained on them"
_COMMONS: Final[tuple[tuple[str, Training, str], ...]] = (
    ("by", "restricted", "names its authors"),
    ("by-sa", "restricted", "adapted images come under the same licence"),
    ("by-nc", "non-commercial", "no commercial use"),
    ("by-nc-sa", "non-commercial", "no commercial use, and adapted images come under the same licence"),
    ("by-nd", "forbidden", "adapted images are not shared"),
    ("by-nc-nd", "forbidden", "no commercial use, and adapted images are not shared"),
)
_KNOWN: Final = {
    each.name: each
    for each in (
        *(
            License(f"cc-{kind}-{number}", training, says, f"https://creativecommons.org/licenses/{kind}/{number}/")
            for kind, training, says in _COMMONS
            for number in ("2.0", "2.5", "3.0", "4.0")
        ),
        License("apache-2.0", "free", _FREE, "https://www.apache.org/licenses/LICENSE-2.0"),
        License("mit", "free", _FREE, "https://opensource.org/licenses/MIT"),
        License("bsd-2-clause", "free", _FREE, "https://opensource.org/licenses/BSD-2-Clause"),
        License("bsd-3-clause", "free", _FREE, "https://opensource.org/licenses/BSD-3-Clause"),
        License("cdla-permissive-2.0", "free", _FREE, "https://cdla.dev/permissive-2-0/"),
        License("pddl", "free", _FREE, "https://opendatacommons.org/licenses/pddl/1-0/"),
        License("odc-by", "restricted", "names its authors", "https://opendatacommons.org/licenses/by/1-0/"),
        License("cc0-1.0", "free", _FREE, "https://creativecommons.org/publicdomain/zero/1.0/"),
        License(
            "creativeml-openrail-m",
            "restricted",
            _USES,
            "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
        ),
        License("openrail", "restricted", _USES, "https://www.licenses.ai/"),
        License(
            "openrail++",
            "restricted",
            _USES,
            "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
        ),
        License("bigscience-openrail-m", "restricted", _USES, "https://www.licenses.ai/"),
        License(
            "sai-nc-community",
            "non-commercial",
            "no commercial use",
            "https://huggingface.co/stabilityai/sdxl-turbo/blob/main/LICENSE.md",
        ),
        License(
            "stabilityai-ai-community",
            "forbidden",
            "outputs train no other foundation model; above a revenue it is another licence",
            "https://stability.ai/license",
        ),
        License(
            "flux-1-dev-non-commercial-license",
            "forbidden",
            "outputs train no model that competes with it",
            "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md",
        ),
    )
}
_ALIASES: Final = {
    "flux-1-dev": "flux-1-dev-non-commercial-license",
    "stabilityai-community": "stabilityai-ai-community",
}


def license_called(name: str | None) -> License:
    """The one of that name in model cards; for others what nobody knows."""
    key = (name or UNKNOWN).strip().lower()
    key = _ALIASES.get(key, key)
    return _KNOWN.get(key) or License(name or UNKNOWN, "unknown", "Promptmill does not know what it says on outputs")


def strictest(names: Iterable[str | None]) -> License:
    """Of several that all hold; unknown where there is none."""
    found = [license_called(name) for name in names] or [license_called(None)]
    return max(found, key=lambda each: (_ORDER.index(each.training), each.name))


def license_of_folder(path: str, folder: Path) -> str | None:
    """What the card of a model's folder says at its beginning; None where it says nothing."""
    if path.startswith(BUILTIN):
        return "apache-2.0"
    try:
        return license_in(front_matter(read_regular_file(folder / CARD, CARD_BYTES)))
    except (OSError, *NO_OBJECT):
        return None


def license_of_file(path: str, file: Path) -> str | None:
    """Of a safetensors file: as it says itself by Stability's ModelSpec, else the card beside it."""
    try:
        own = license_in({"license": metadata_of(file).get("modelspec.license")})
    except (OSError, ValueError):
        own = None
    return own or license_of_folder(path, file.parent)


def license_in(front: Mapping[str, object]) -> str | None:
    """What the front matter of a card says, in one short printable line."""
    name = front.get("license")
    if name == "other":
        name = front.get("license_name", name)
    if not isinstance(name, str) or name.strip() in _NULLS or not name.isprintable():
        return None
    return name.strip()[:200]


class _Texts(yaml.BaseLoader):
    """Lists and mappings of texts, whatever tags say. No aliases: 500 bytes of merged ones take gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def front_matter(card: bytes) -> dict[str, object]:
    """The YAML at the beginning of a card, each value as text; empty where there is none that can be read."""
    try:
        text = card.decode("utf-8", "replace")
        match = re.match(r"---\r?\n(.*?)\r?\n---\s", text, re.DOTALL)
        if match is None or len(match[1]) > _FRONT_CHARS:
            return {}
        content = yaml.load(match[1], _Texts)  # noqa: S506 - it makes nothing but texts
    except (yaml.YAMLError, RecursionError, *NO_OBJECT):
        return {}
    return content if isinstance(content, dict) else {}
