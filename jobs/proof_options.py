"""Options of the commands that prove."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Test = Annotated[str, typer.Option(metavar="URL", help="Opened once, by the last step.")]
Validation = Annotated[
    str | None, typer.Option(metavar="URL", help="Chooses share, filter and checkpoint; else a third of REAL does.")
]
LearnerName = Annotated[str, typer.Option(help="cnn, pixels, an open_clip model, or timm:NAME=weights.safetensors.")]
Shots = Annotated[int | None, typer.Option(min=1, help="Real images of each class in a draw.")]
Draws = Annotated[int, typer.Option(min=1, help="Few-shot draws, paired over the arms.")]
Initialisations = Annotated[int, typer.Option(min=1, help="Trainings of each draw.")]
Steps = Annotated[int, typer.Option(min=4, help="Equal in all arms but the one with twice as many.")]
Batch = Annotated[int, typer.Option(min=2, help="Images of a step.")]
Side = Annotated[int | None, typer.Option(min=8, max=512, help="Side to which images are brought.")]
Shares = Annotated[
    list[float] | None, typer.Option(help="Synthetic part of each batch; repeat for more. Else 0.1, 0.3, 0.5, 0.7.")
]
Flip = Annotated[bool, typer.Option("--flip", help="Augmentation may mirror images.")]
Controls = Annotated[
    Literal["shuffled", "copies"] | None,
    typer.Option(help="What must harm (labels shuffled), or change nothing (copies of the real images)."),
]
Workers = Annotated[int, typer.Option(min=1, help="Trainings at once.")]
Seed = Annotated[int, typer.Option(min=0, help="Of draws and trainings.")]
