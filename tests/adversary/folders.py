"""Attacks: each spoils a whole model folder in one way; `evil.py` beside it leaves a marker when it is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Attack = Callable[[Path], None]

AUTO_MAP = {name: [None, f"evil.{name}"] if name == "AutoTokenizer" else f"evil.{name}" for name in (
    "AutoConfig", "AutoModel", "AutoTokenizer", "AutoImageProcessor", "AutoFeatureExtractor", "AutoProcessor",
)}  # fmt: skip


def plant(folder: Path, marker: Path) -> None:
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    (folder / "evil.py").write_text(code + "".join(f"class {name}:\n    pass\n" for name in [*AUTO_MAP, "Evil"]))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


def setting(file: str, **changes: Any) -> Attack:
    return lambda folder: edit(folder / file, **changes)


def text_tower(**changes: Any) -> Attack:
    return lambda folder: _tower(folder, "text_cfg", changes)


def vision_tower(**changes: Any) -> Attack:
    return lambda folder: _tower(folder, "vision_cfg", changes)


def _tower(folder: Path, tower: str, changes: dict[str, Any]) -> None:
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"][tower].update(changes)
    path.write_text(json.dumps(content))


def part(name: str, library: str, class_name: str) -> Attack:
    """model_index.json names another class, and the part's folder has a file by the library's name."""

    def attack(folder: Path) -> None:
        edit(folder / "model_index.json", **{name: [library, class_name]})
        if (folder / "evil.py").exists():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{library}.py").write_text((folder / "evil.py").read_text())

    return attack


def pickle_in(file: str) -> Attack:
    def attack(folder: Path) -> None:
        torch.save({"weight": torch.zeros(1)}, folder / file)

    return attack


def index_naming(part: str, stem: str, name: str) -> Attack:
    """The weights are in `name`, as an index beside them says."""

    def attack(folder: Path) -> None:
        whole = folder / part / f"{stem}.safetensors"
        (folder / part / f"{stem}.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": name}})
        )
        torch.save({"conv_in.weight": torch.zeros(1)}, folder / "other.bin")
        if "/" not in name:
            torch.save({"conv_in.weight": torch.zeros(1)}, folder / part / name)
        assert whole.exists()

    return attack


def link_out(file: str) -> Attack:
    def attack(folder: Path) -> None:
        outside = folder.parent / f"outside-{Path(file).name}"
        (folder / file).rename(outside)
        (folder / file).symlink_to(outside)

    return attack


def folder_link_out(name: str) -> Attack:
    def attack(folder: Path) -> None:
        outside = folder.parent / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return attack


def both(*attacks: Attack) -> Attack:
    def attack(folder: Path) -> None:
        for one in attacks:
            one(folder)

    return attack


CLIP: dict[str, Attack] = {
    "tokenizer auto_map": setting("tokenizer_config.json", auto_map=AUTO_MAP, tokenizer_class="AutoTokenizer"),
    "tokenizer auto_map, old form": setting("tokenizer_config.json", auto_map=[None, "evil.AutoTokenizer"]),
    "config auto_map": setting("config.json", auto_map=AUTO_MAP, model_type="evil"),
    "auto_map deep inside": setting("config.json", text_config={"more": [{"auto_map": AUTO_MAP}]}),
    "processor auto_map": setting("processor_config.json", auto_map=AUTO_MAP),
    "kwargs trust_remote_code": both(
        setting("tokenizer_config.json", auto_map=AUTO_MAP), text_tower(tokenizer_kwargs={"trust_remote_code": True})
    ),
    "kwargs subfolder": text_tower(tokenizer_kwargs={"subfolder": "../other"}),
    "kwargs tokenizer_file": text_tower(tokenizer_kwargs={"tokenizer_file": "/etc/hostname"}),
    "text tower of the hub": text_tower(hf_model_name="evil/evil"),
    "text tower of a path": text_tower(hf_model_name="/tmp/evil"),
    "vision tower of the hub": vision_tower(timm_model_name="hf-hub:evil/evil"),
    "vision tower of a folder": vision_tower(timm_model_name="local-dir:/tmp/evil"),
    "vision tower downloads": vision_tower(timm_model_pretrained=True, timm_model_name="resnet18"),
    "vocabulary of a path": setting("tokenizer_config.json", vocab_file="/etc/hostname"),
    "special tokens with a path": setting("special_tokens_map.json", tokenizer_file="../other/tokenizer.json"),
    "tokenizer class loads models": setting("tokenizer_config.json", tokenizer_class="AutoModel"),
    "tokenizer class loads an index": setting("tokenizer_config.json", tokenizer_class="RagRetriever"),
    "audio tokenizer": setting("processor_config.json", audio_tokenizer={"audio_tokenizer_name_or_path": "x/y"}),
    "a kernel of the hub": setting("config.json", _attn_implementation="evil/kernel"),
    "linked tokenizer": link_out("tokenizer.json"),
    "linked weights": link_out("open_clip_model.safetensors"),
    "linked config": link_out("open_clip_config.json"),
    "pickle before safetensors": both(
        lambda folder: (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors") and None,
        pickle_in("open_clip_pytorch_model.bin"),
    ),
    "only a pickle": both(
        lambda folder: (folder / "open_clip_model.safetensors").unlink(), pickle_in("open_clip_pytorch_model.bin")
    ),
    "adapter elsewhere": setting("adapter_config.json", base_model_name_or_path="/tmp/evil"),
}

_UNET, _TEXT = "diffusion_pytorch_model", "model"

PIPELINE: dict[str, Attack] = {
    "custom class": setting("model_index.json", _class_name=["evil", "Evil"]),
    "custom pipeline": setting("model_index.json", custom_pipeline="evil.py"),
    "model file": setting("model_index.json", model_file="evil.py"),
    "part from a module": part("unet", "evil", "Evil"),
    "part from the standard library": part("scheduler", "os", "system"),
    "part from a path": part("vae", "../evil", "Evil"),
    "file named as the library": part("unet", "diffusers", "UNet2DConditionModel"),
    "a pipeline as a part": part("vae", "diffusers", "StableDiffusionPipeline"),
    "a pipeline of a module as a part": part("vae", "stable_diffusion", "StableDiffusionPipeline"),
    "an onnx graph as a part": part("unet", "diffusers", "OnnxRuntimeModel"),
    "an automatic class": part("text_encoder", "transformers", "AutoModel"),
    "a class with a dot": part("unet", "diffusers", "models.UNet2DConditionModel"),
    "safety checker of a module": part("safety_checker", "evil", "Evil"),
    "feature extractor of a module": part("feature_extractor", "evil", "Evil"),
    "index names a pickle": index_naming("unet", _UNET, "evil.bin"),
    "index names another ending": index_naming("unet", _UNET, "weights.dat"),
    "index names a hidden safetensors": index_naming("unet", _UNET, "evil.safetensors"),
    "index leads out": index_naming("vae", _UNET, "../other.bin"),
    "index leads out to safetensors": index_naming("vae", _UNET, "../unet/diffusion_pytorch_model.safetensors"),
    "index is absolute": index_naming("text_encoder", _TEXT, "/tmp/other.safetensors"),
    "only pickles": both(
        lambda folder: (folder / f"unet/{_UNET}.safetensors").unlink(), pickle_in(f"unet/{_UNET}.bin")
    ),
    "text encoder auto_map": setting("text_encoder/config.json", auto_map=AUTO_MAP),
    "text encoder's other weights": setting("text_encoder/config.json", transformers_weights="adapter_model.bin"),
    "text encoder elsewhere": setting("text_encoder/adapter_config.json", base_model_name_or_path="/tmp/evil"),
    "text encoder's backbone": setting("text_encoder/config.json", backbone="evil/evil", use_pretrained_backbone=True),
    "a kernel for attention": setting("text_encoder/config.json", attn_implementation="evil/kernel"),
    "kernels to unpack": setting("text_encoder/config.json", quantization_config={"quant_method": "mxfp4"}),
    "tokenizer auto_map": setting("tokenizer/tokenizer_config.json", auto_map=AUTO_MAP),
    "tokenizer's vocabulary": setting("tokenizer/tokenizer_config.json", tokenizer_file="/etc/hostname"),
    "tokenizer class": setting("tokenizer/tokenizer_config.json", tokenizer_class="AutoModel"),
    "unet trusts": setting("unet/config.json", trust_remote_code=True),
    "code in a subfolder": lambda folder: _script(folder / "text_encoder/custom_generate/generate.py"),
    "scheduler of a path": setting("scheduler/scheduler_config.json", trained_betas_file="../../betas.json"),
    "linked weights": link_out(f"unet/{_UNET}.safetensors"),
    "linked config": link_out("vae/config.json"),
    "linked folder": folder_link_out("text_encoder"),
    "linked index": link_out("model_index.json"),
}


def _script(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("")
