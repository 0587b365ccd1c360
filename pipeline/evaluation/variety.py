"""How varied a set of images is, and how much of a reference it reaches, by the features of both."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]

QUANTILES = (0.05, 0.5, 0.95)
_ROWS = 1_024


def effective_number(rows: Features) -> float:
    """Of float32 [images, features], between 1 (all alike) and the number of images (none like another).

    Friedman & Dieng 2022, The Vendi Score, equation 4, with the cosine as kernel: the exponential of the entropy of the
    eigenvalues of the kernel over n, which those of the features' covariance about 0 are too.
    """
    wide = _directions(rows)
    square = wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T
    values = np.linalg.eigvalsh(square / len(wide))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def nearest_of(reference: Features, made: Features) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Of each made image the place of the nearest one of the reference, and 1 − cosine to it. Near 0 is a copy."""
    there, own = _directions(reference), _directions(made)
    places, cosines = [], []
    for start in range(0, len(own), _ROWS):
        rows = own[start : start + _ROWS] @ there.T
        places.append(rows.argmax(axis=1))
        cosines.append(rows.max(axis=1))
    return np.concatenate(places), np.maximum(1 - np.concatenate(cosines), 0.0)


def nearest_distances(reference: Features, made: Features) -> list[float]:
    """Of the distances of `nearest_of` the `QUANTILES`."""
    return [float(each) for each in np.quantile(nearest_of(reference, made)[1], QUANTILES)]


def _directions(rows: Features) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    found: npt.NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return found
