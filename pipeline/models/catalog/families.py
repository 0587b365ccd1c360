"""What the pipelines of diffusers keep of our promises, where no signature says it: measured on tiny pipelines."""

from __future__ import annotations

from typing import Final

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
        "StableDiffusionPAG",
        "StableDiffusionXL",
        "StableDiffusionXLPAG",
        "ZImage",
        "ZImageOmni",
    ]
)
"""Prompts of any lengths share a batch and show nothing of one another.

Elsewhere (CogView4 pads to the longest without a mask: 17 of 255 measured) only samples of one prompt share a batch.
"""
