"""What the pipelines of diffusers keep of our promises, where no signature says it: measured on tiny pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

INPAINTS: Final[Mapping[str, str]] = {
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
}
"""Classes that draw with a U-Net of latents alone, and those that can draw with one that is given the mask too."""
MASKED_CHANNELS: Final = 9
"""Of such a U-Net: latents, the mask, and latents of the image without what is drawn anew."""

WEIGHS_WORDS: Final = frozenset({*INPAINTS, *INPAINTS.values()})
"""Their calls take one embedding a token, in any number of parts, and nothing of a text beside that but SDXL's pooled
one. Flux, SD3 and their kin read T5 too, of which a weighted token is a text that it never saw."""

MIXES_PROMPTS: Final = frozenset(
    f"{name}Pipeline"
    for name in [
        "AuraFlow",
        "Bria",
        "BriaFibo",
        "Chroma",
        "CogView3Plus",
        "ErnieImage",
        "Flux",
        "Flux2",
        "Flux2Klein",
        "HiDreamImage",
        "HunyuanDiT",
        "HunyuanDiTPAG",
        "IF",
        "Kolors",
        "KolorsPAG",
        "Krea2",
        "LDMTextToImage",
        "LatentConsistencyModel",
        "LongCatImage",
        "Lumina",
        "Lumina2",
        "NucleusMoEImage",
        "OvisImage",
        "PixArtAlpha",
        "PixArtSigma",
        "PixArtSigmaPAG",
        "QwenImage",
        "Sana",
        "SanaPAG",
        "SanaSprint",
        "StableDiffusion",
        "StableDiffusion3",
        "StableDiffusion3PAG",
        "StableDiffusionInpaint",
        "StableDiffusionPAG",
        "StableDiffusionXL",
        "StableDiffusionXLInpaint",
        "StableDiffusionXLPAG",
        "ZImage",
        "ZImageOmni",
    ]
)
"""Prompts of any lengths share a batch and show nothing of one another.

Elsewhere (CogView4 pads to the longest without a mask: 17 of 255 measured) only samples of one prompt share a batch.
"""

TEXT_ALONE: Final = frozenset(
    f"{name}Pipeline" for name in ("OmniGen", "BriaFibo2", "DreamLite", "DreamLiteMobile", "Flux2KleinKV")
)
"""Classes that take images beside the prompt and were held to every promise without one."""

ONE_TEXT: Final = frozenset({"DreamLitePipeline", "DreamLiteMobilePipeline"})
"""Their calls put the prompt into a sentence, a list with its brackets: one sample a call, and a text as it is."""

NO_SCALE: Final = frozenset({"DreamLiteMobilePipeline"})
"""Distilled, and say so by a warning for each call that is given a `guidance_scale`."""

EDITS: Final[Mapping[str, Literal["rows", "alone"]]] = {
    "StableDiffusionInstructPix2PixPipeline": "rows",
    "StableDiffusionXLInstructPix2PixPipeline": "rows",
    "FluxKontextPipeline": "rows",
    "QwenImageEditPipeline": "alone",
    "QwenImageEditPlusPipeline": "alone",
    "Flux2Pipeline": "alone",
    "Flux2KleinPipeline": "alone",
}
"""Classes that change an image as the prompt says, in the size that is asked for: with a list of images that has one a
row, or only for one sample a call, since a list is one set of references for all (Flux.2, Qwen-Image-Edit-Plus), or was
measured to show mates (Qwen-Image-Edit pads its prompts to the longest)."""

FAILS: Final = frozenset({"ChromaInpaintPipeline"})
"""Classes of diffusers that raise on every image: it asks its transformer for a `guidance_embeds` that none has."""
CHANNELS: Final[Mapping[str, tuple[int, ...]]] = {"StableDiffusion3InpaintPipeline": (16, 33)}


def drawn_by(saved_as: str, unet_channels: object) -> str:
    """The class that draws with a folder saved as this one: the channels of its U-Net say which of the two it is."""
    text = next((name for name, masked in INPAINTS.items() if saved_as in (name, masked)), None)
    if text is None:
        return saved_as
    return INPAINTS[text] if unet_channels == MASKED_CHANNELS else text
