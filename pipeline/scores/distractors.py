"""A caption among distractor captions, as a CLIP sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

LOGIT_SCALE = 100.0
"""What published CLIPs end their training with (Radford et al. 2021, section 2.5)."""


def chosen_share(
    images: Floats, captions: Floats, distractors: Floats, texts: Sequence[str], others: Sequence[str]
) -> Floats:
    """Softmax of the caption's cosine among the distractors' at CLIP's own scale, 0 to 1: float32 [images].

    Rows of the first three are features of length 1; `texts` and `others` are the captions and distractors themselves,
    since a caption that is on the list of distractors is no rival of itself.
    """
    own = np.einsum("nd,nd->n", images, captions)
    same = np.array([[other == text for other in others] for text in texts], bool)
    ratio = np.where(same, 0.0, np.exp(LOGIT_SCALE * (images @ distractors.T - own[:, None])))
    share: Floats = (1 / (1 + ratio.sum(axis=1))).astype(np.float32)
    return share
