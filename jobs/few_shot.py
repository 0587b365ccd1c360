"""What `promptmill init --classes FOLDER` writes: a job that makes a labelled set from a few real images by class."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Final

from promptmill.pipeline.display import shown
from promptmill.pipeline.prompts.classes import find_classes
from promptmill.schemas.prompts import Prompts

_JOB: Final = """\
# yaml-language-server: $schema={schema}
# A labelled set from the real images in {told}: so many new images of each of {count} classes, exactly,
# each drawn from one of them. `promptmill validate` checks this file, `promptmill run` makes the set.
name: {name}
seed: 0

prompts:
  classes: {folder}  # a folder of images for each class, by its name
  columns: {{image: image}}  # each new image begins with one of them; leave it out to draw from words alone
  # license: cc-by-4.0  # of the real images; it stands in the dataset's card
  templates: ["a photo of {{class}}"]  # more wordings make the set more varied

model:
  path: {model}  # a hub id or folder of a model that knows your kind of images

generation:
  fit: cover  # brings each photo to the model's own size
  strength: 0.6  # how much is drawn anew: 0.3 stays close, 0.9 hardly looks; sweep it
  guidance_scale: 2.5  # low: varied images train better than pretty ones
  num_inference_steps: 20
  images_per_prompt: 2

score:
  - relative: {clip}  # how surely a CLIP tells the class from the others
  # - classifier: models/my-classifier  # or a classifier of your own: agrees, label_probability

select:
  per_class: {spare}  # a few more than stay in the end; what is lacking after a round is drawn in another one
  by: relative
  where:
    - {{score: relative, at_least: 0.5}}

output:
  url: {output}

curate:  # when all are made: the set without copies of each other and of the real images
  to: {output}-clean
  per_class: {per_class}  # so many of each class stay, exactly
  model: {clip}  # sees what is alike
  real: [{folder}]
  # test: [held-out/]  # images that you will test with: none may be a copy of those

# Then, for training code: promptmill export {output}-clean OUT --layout webdataset --split train=0.8,val=0.1,test=0.1
"""
PER_CLASS: Final = 20
SPARE: Final = 4


def few_shot_job(name: str, folder: Path, schema: str) -> str:
    """For the built-in model. Raises JobError for a folder that has no classes."""
    place = os.path.relpath(folder)
    found = find_classes(Prompts.model_validate({"classes": place, "columns": {"image": "image"}}))
    output = f"out/{re.sub(r'[^A-Za-z0-9._-]+', '-', name).strip('.-') or 'my-set'}"
    words = {"name": name, "folder": place, "output": output}
    return _JOB.format(
        **{key: json.dumps(value, ensure_ascii=False) if key != "output" else value for key, value in words.items()},
        schema=schema,
        told=shown(place),
        count=len(found.classes),
        model="builtin:shapes",
        clip="builtin:shapes",
        per_class=PER_CLASS,
        spare=PER_CLASS + SPARE,
    )
