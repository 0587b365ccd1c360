"""What learns: a LoRA on the denoiser, or the embeddings of a new word. Everything else stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save
from torch import Tensor, nn

from promptmill.pipeline.training.finetune.denoiser import Denoiser, Rows
from promptmill.schemas.errors import JobError, Problem
from promptmill.schemas.tuning import Finetune

_ATTENTION: Final = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)
_ALL: Final = (
    *_ATTENTION,
    *("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv_inverted", "conv_point"),
)
_ADAPTER: Final = "default"


class Learnt(Protocol):
    parameters: list[nn.Parameter]

    def rows(self, captions: Sequence[str], cached: Rows) -> Rows:
        """What the denoiser is given of the captions, from what is cached of them."""
        ...

    def state(self) -> dict[str, Tensor]: ...

    def restore(self, state: dict[str, Tensor]) -> None: ...

    def written(self) -> bytes:
        """As one safetensors file that plain diffusers loads."""
        ...


class Lora:
    def __init__(self, denoiser: Denoiser, how: Finetune, seed: int) -> None:
        self._denoiser, self._how = denoiser, how
        module = denoiser.module
        names = _targets(module, how.targets)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            settings = LoraConfig(
                r=how.rank,
                lora_alpha=how.alpha or how.rank,  # type: ignore[arg-type]
                init_lora_weights="gaussian",
                target_modules=names,
            )
            module.add_adapter(settings, adapter_name=_ADAPTER)  # type: ignore[operator]
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        for parameter in self.parameters:
            parameter.data = parameter.data.float()  # half precision forgets small steps

    def rows(self, captions: Sequence[str], cached: Rows) -> Rows:
        return cached

    def state(self) -> dict[str, Tensor]:
        found = get_peft_model_state_dict(self._denoiser.module, adapter_name=_ADAPTER)
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        from peft.utils import set_peft_model_state_dict

        set_peft_model_state_dict(self._denoiser.module, dict(state), adapter_name=_ADAPTER)

    def written(self) -> bytes:
        """The scale is in the second halves: whoever loads them with alpha = rank, as without metadata, is right."""
        part, scale = self._denoiser.part, self._how.scale
        scaled = {name: value * scale if "lora_B" in name else value for name, value in self.state().items()}
        return save({f"{part}.{name}": value.contiguous() for name, value in scaled.items()}, {"format": "pt"})


def _targets(module: nn.Module, asked: str | Sequence[str]) -> list[str]:
    """Full names of the modules that get an adapter. Raises JobError for an end that no module's name has."""
    ends = {"attention": _ATTENTION, "all": _ALL}[asked] if isinstance(asked, str) else tuple(asked)
    able = [name for name, each in module.named_modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    found = {end: [name for name in able if name == end or name.endswith(f".{end}")] for end in ends}
    missing = [end for end, names in found.items() if not names]
    if missing and not isinstance(asked, str):
        there = sorted({name.rpartition(".")[2] for name in able if not name.rpartition(".")[2].isdecimal()})
        hint = f"There are: {', '.join(there)[:400]}."
        raise JobError(Problem("finetune.targets", "ends of names of linear layers or convolutions", missing[0], hint))
    return sorted({name for names in found.values() for name in names})


class Word:
    """Textual inversion (Gal et al. 2022): vectors of a word that the tokenizer is given, in one CLIP text encoder."""

    def __init__(self, denoiser: Denoiser, how: Finetune) -> None:
        pipe = self._pipe = denoiser.pipe
        others = [name for name in ("text_encoder_2", "text_encoder_3") if getattr(pipe, name, None) is not None]
        if (
            others
            or getattr(pipe, "text_encoder", None) is None
            or "encoder_hidden_states" not in denoiser.shape.per_row
        ):
            expected, got = "a model with one CLIP text encoder for textual_inversion", type(pipe).__name__
            raise JobError(Problem("finetune.method", expected, got, "LoRA is learnt on all that are listed."))
        assert how.token is not None
        assert how.class_word is not None
        self.token, self._table = how.token, pipe.text_encoder.get_input_embeddings()
        first = len(pipe.tokenizer)
        self._names = [how.token, *(f"{how.token}_{number}" for number in range(1, how.vectors))]
        if pipe.tokenizer.add_tokens(self._names) != how.vectors:
            hint = "Choose a word that nobody uses."
            raise JobError(Problem("finetune.token", "a word that the tokenizer lacks", how.token, hint))
        pipe.text_encoder.requires_grad_(False)
        denoiser.module.requires_grad_(False)
        self._ids = range(first, first + how.vectors)
        begin = self._beginning(how.class_word)
        self.parameters = [nn.Parameter(begin.repeat(how.vectors, 1).float())]
        self._table.register_forward_hook(self._replace)
        self._table.register_forward_pre_hook(self._within)

    def rows(self, captions: Sequence[str], cached: Rows) -> Rows:
        worded = [caption.replace(self.token, " ".join(self._names)) for caption in captions]
        states = self._pipe.encode_prompt(worded, self._pipe.device, 1, False)[0]
        return {**cached, "encoder_hidden_states": states}

    def state(self) -> dict[str, Tensor]:
        return {self.token: self.parameters[0].detach().cpu().clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.parameters[0].data.copy_(state[self.token])

    def written(self) -> bytes:
        return save(self.state(), {"format": "pt"})

    def _beginning(self, word: str) -> Tensor:
        """The mean of the word's own embeddings."""
        ids = self._pipe.tokenizer(word, add_special_tokens=False).input_ids
        if not ids or ids == [self._pipe.tokenizer.unk_token_id]:
            raise JobError(Problem("finetune.class_word", "a word that the text encoder knows", word))
        return self._table.weight[ids].detach().mean(0, keepdim=True)  # type: ignore[no-any-return]

    def _within(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Ids that the table lacks look up its first row, which `_replace` then overwrites."""
        self._seen = given[0]
        return (torch.where(given[0] >= self._ids.start, 0, given[0]),)

    def _replace(self, module: nn.Module, given: Any, output: Tensor) -> Tensor:
        for place, number in enumerate(self._ids):
            output = torch.where((self._seen == number)[..., None], self.parameters[0][place].to(output.dtype), output)
        return output


def learnt(denoiser: Denoiser, how: Finetune, seed: int) -> Learnt:
    denoiser.module.requires_grad_(False)
    return Word(denoiser, how) if how.method == "textual_inversion" else Lora(denoiser, how, seed)


ADAPTER_FILE: Final = "adapter.safetensors"


def check_finite(path: Path, where: str) -> None:
    """Raises JobError where a number of an adapter is none: it would draw black images."""
    from safetensors.torch import load_file

    bad = [name for name, value in load_file(path).items() if not torch.isfinite(value.float()).all()]
    if bad:
        raise JobError(Problem(where, f"finite numbers in {path.name}", f"NaN or infinity in {bad[0]}"))
