"""FID and KID by torchmetrics, from features that are there already: it then neither loads nor downloads a network."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from promptmill.schemas.errors import JobError, Problem

_SUBSETS = 100


def check_installed() -> None:
    """Raises JobError where torchmetrics is not installed."""
    from importlib.util import find_spec

    if find_spec("torchmetrics") is None:
        hint = "pip install 'promptmill[evaluation]'"
        raise JobError(Problem("--reference", "the package torchmetrics", "none installed", hint))


def fid_and_kid(
    reference: npt.NDArray[np.float32], made: npt.NDArray[np.float32], subset: int
) -> tuple[float, float, float]:
    """FID, and mean and standard deviation of KID over 100 subsets of `subset` images each, the same ones each time."""
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    class Features(torch.nn.Module):
        num_features = reference.shape[1]

        def forward(self, features: Any) -> Any:
            return features

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # KID warns that it keeps all features
        torch.manual_seed(0)
        fid = FrechetInceptionDistance(feature=Features())
        kid = KernelInceptionDistance(feature=Features(), subsets=_SUBSETS, subset_size=subset)
        for features, real in ((reference, True), (made, False)):
            rows = torch.from_numpy(features).double()  # both results take the dtype of what they were given
            fid.update(rows, real=real)
            kid.update(rows, real=real)
        mean, deviation = kid.compute()
        return float(fid.compute()), float(mean), float(deviation)
