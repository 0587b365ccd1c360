"""An IP-Adapter or Flux Redux on a loaded pipeline: put on and taken off, with the bits of the base afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from PIL import Image

from promptmill.pipeline.models.catalog.held import held
from promptmill.pipeline.models.catalog.redux import PROCESSOR
from promptmill.pipeline.models.catalog.references import ENCODERS, ip_adapter_files, ip_adapter_folder
from promptmill.pipeline.models.catalog.weights import list_folder, weights_problem
from promptmill.pipeline.models.diffusion.closed import closed
from promptmill.pipeline.models.diffusion.errors import loading
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.resolved import REDUX_FOLDER, ResolvedIpAdapter

_PARTS = ("image_encoder", "feature_extractor")


class Looks(list[Image.Image]):
    """The first reference image of a batch, as a pipeline's call takes one for all; and all of them, one a sample."""

    def __init__(self, images: list[Image.Image]) -> None:
        super().__init__(images[:1])
        self.every = images


class References:
    def __init__(self, pipe: Any, dtype: torch.dtype, device: torch.device) -> None:
        self._pipe, self._dtype, self._device = pipe, dtype, device
        self._before: dict[str, Any] = {}
        self._redux: Redux | None = None
        self.in_use: ResolvedIpAdapter | None = None

    def use(self, adapter: ResolvedIpAdapter | None) -> bool:
        """Whether another is in use now. Raises ModelLoadError and DeviceMemoryError."""
        if _content(adapter) == _content(self.in_use):
            self.in_use = adapter
            return False
        if self._redux is not None:
            self._redux = None
        elif self.in_use is not None:
            self._take_off()
        if adapter is not None:
            self._put_on(adapter)
        self.in_use = adapter
        return True

    def _put_on(self, adapter: ResolvedIpAdapter) -> None:
        self._before = {name: getattr(self._pipe, name, None) for name in _PARTS}
        with loading(f"IP-Adapter {adapter.path}"), held(adapter), closed():
            root = ip_adapter_folder(adapter)
            _look_again(adapter, root)
            encoder, extractor = _encoder(adapter, root, self._dtype)
            if adapter.makes_words:
                self._redux = Redux(root, encoder, extractor, self._dtype, self._device)
                return
            self._pipe.register_modules(image_encoder=encoder.to(self._device), feature_extractor=extractor)
            above, _, name = adapter.weights.rpartition("/")
            taken = inspect.signature(self._pipe.load_ip_adapter).parameters
            no_encoder = {key: None for key in taken if key.startswith("image_encoder_") and "dtype" not in key}
            # By way of empty tensors (low memory), those that the file lacks would stay empty without a word.
            options = {"subfolder": above, "local_files_only": True, "low_cpu_mem_usage": False, **no_encoder}
            self._pipe.load_ip_adapter(str(root), weight_name=name, **options)
            for part in self._added():
                part.to(self._device, self._dtype)

    def _added(self) -> Iterator[torch.nn.Module]:
        denoiser = getattr(self._pipe, "unet", None) or self._pipe.transformer
        names = ("image_proj", "encoder_hid_proj")
        parts = [*(getattr(denoiser, name, None) for name in names), *denoiser.attn_processors.values()]
        return (part for part in parts if isinstance(part, torch.nn.Module))

    def _take_off(self) -> None:
        self._pipe.unload_ip_adapter()
        self._pipe.register_modules(**self._before)

    def look(self, pipe: Any) -> None:
        """Let a pipeline look at the image of each sample of a batch, where it would repeat one for all."""
        if self._redux is not None:
            return
        real = type(pipe).prepare_ip_adapter_image_embeds
        taken = inspect.signature(real)

        def prepare(*given: Any, **named: Any) -> Any:
            call = taken.bind(pipe, *given, **named)
            looks = call.arguments.get("ip_adapter_image")
            if not isinstance(looks, Looks):
                return real(pipe, *given, **named)
            guided = bool(call.arguments.get("do_classifier_free_guidance", False))
            rows = []
            for image in looks.every:
                call.arguments |= {"ip_adapter_image": [image], "num_images_per_prompt": 1}
                rows.append(real(*call.args, **call.kwargs))
            return _stacked(rows, guided)

        pipe.prepare_ip_adapter_image_embeds = prepare

    def words(self, images: list[Image.Image], scale: float) -> torch.Tensor | None:
        """What stands behind the words of the prompts: [batch, words, width]; None where nothing does."""
        if self._redux is None or self.in_use is None or self.in_use.scale * scale == 0:
            return None
        return self._redux.words(images) * (self.in_use.scale * scale)

    def scale(self, scale: float) -> None:
        if self.in_use is not None and self._redux is None:
            self._pipe.set_ip_adapter_scale(self.in_use.scale * scale)


class Redux:
    """Makes words of images, one at a time, so that none depends on its batch (FluxPriorReduxPipeline of diffusers)."""

    def __init__(self, root: Path, encoder: Any, extractor: Any, dtype: torch.dtype, device: torch.device) -> None:
        options = {"local_files_only": True, "use_safetensors": True}
        embedder = diffusers.pipelines.flux.modeling_flux.ReduxImageEncoder
        self._embedder = embedder.from_pretrained(root / REDUX_FOLDER, dtype=dtype, **options).eval().to(device)
        self._encoder, self._extractor = encoder.to(device), extractor
        self._dtype, self._device = dtype, device

    @torch.inference_mode()
    def words(self, images: list[Image.Image]) -> torch.Tensor:
        return torch.cat([self._of(image) for image in images])

    def _of(self, image: Image.Image) -> torch.Tensor:
        seen = self._extractor.preprocess(images=[image], return_tensors="pt").pixel_values
        states = self._encoder(pixel_values=seen.to(self._device, self._dtype)).last_hidden_state
        found: torch.Tensor = self._embedder(states).image_embeds
        return found


def _content(adapter: ResolvedIpAdapter | None) -> tuple[str, ...] | None:
    return None if adapter is None else (adapter.location, adapter.revision, adapter.weights, adapter.encoder)


def _look_again(adapter: ResolvedIpAdapter, root: Path) -> None:
    names = [name for name in ip_adapter_files(adapter, list_folder(root)) if name.endswith(".safetensors")]
    problems = [problem for name in names if (problem := weights_problem(root / name, "model.ip_adapter"))]
    if adapter.encoder_class not in ENCODERS.values():  # a plan that somebody else wrote
        problems.append(Problem("model.ip_adapter", "an image encoder", repr(adapter.encoder_class)))
    if problems:
        raise JobError(*problems)


def _encoder(adapter: ResolvedIpAdapter, root: Path, dtype: torch.dtype) -> tuple[torch.nn.Module, Any]:
    """With what brings images to its size: as the folder says, else as CLIP does."""
    place = root / adapter.encoder
    options = {"local_files_only": True, "use_safetensors": True}
    encoder = getattr(transformers, adapter.encoder_class).from_pretrained(place, dtype=dtype, **options).eval()
    beside = root / PROCESSOR if adapter.makes_words else place
    kind = "SiglipImageProcessor" if adapter.encoder_class.startswith("Siglip") else "CLIPImageProcessor"
    processor = getattr(transformers, kind)
    for folder in (place, beside):
        if (folder / "preprocessor_config.json").is_file():
            return encoder, processor.from_pretrained(folder, local_files_only=True)
    side = encoder.config.image_size
    sizes = (
        {"size": {"height": side, "width": side}} if kind.startswith("Siglip") else {"size": side, "crop_size": side}
    )
    return encoder, processor(**sizes)


def _stacked(rows: list[Any], guided: bool) -> Any:
    """One batch of what was prepared row by row: where the pipeline guides, first all that it guides away from."""
    if isinstance(rows[0], list):
        return [_stacked(list(each), guided) for each in zip(*rows, strict=True)]
    halves = [row.chunk(2 if guided else 1) for row in rows]
    return torch.cat([half for side in zip(*halves, strict=True) for half in side])
