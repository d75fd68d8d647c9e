"""Tiny LoRA adapters with random tensors, saved by PEFT beside the base model that they adapt."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch

from parity_tests.helpers import families

RANK, ALPHA = 3, 4


@dataclass(frozen=True)
class Sample:
    """A saved base model and a saved adapter.

    Attributes:
        name: name of the family's case.
        base: directory of the base.
        adapter: directory of the adapter.
        dtype: dtype of the base.
        vocab_size: size of the vocabulary with the adapter; None for the base's.
    """

    name: str
    base: Path
    adapter: Path
    dtype: torch.dtype = torch.float32
    vocab_size: int | None = None

    def change(self, **fields: Any) -> None:
        """Change fields of the adapter's configuration."""
        file = self.adapter / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    def load(self, adapter: Path | None = None, **options: Any) -> peft.PeftModel:
        """The base with its adapter, or with the one of another directory, as PEFT loads it."""
        with quiet():
            base = self.load_base()
            return peft.PeftModel.from_pretrained(base, adapter or self.adapter, **options).eval()

    def load_base(self) -> torch.nn.Module:
        """The base, with the vocabulary of the adapter."""
        base = families.CASES[self.name].model.from_pretrained(self.base, dtype=self.dtype)
        if self.vocab_size is not None:
            base.resize_token_embeddings(self.vocab_size, mean_resizing=False)
        return base

    def reference(self) -> dict[str, Any]:
        """The float64 outputs."""
        return families.reference(families.CASES[self.name], self.load().get_base_model())

    def merged(self) -> dict[str, torch.Tensor]:
        """The tensors of PEFT's merged model by name."""
        with quiet():
            return self.load().merge_and_unload().state_dict()


def sample(
    name: str,
    directory: Path,
    *,
    dtype: torch.dtype = torch.float32,
    safe: bool = True,
    vocab_size: int | None = None,
    **options: Any,
) -> Sample:
    """Save a base and an adapter with random factors.

    Args:
        name: name of the family's case.
        directory: directory for both.
        dtype: dtype of the base.
        safe: whether the adapter is a safetensors file, not a `.bin` file.
        vocab_size: size of the vocabulary with the adapter; None for the base's.
        options: options of `LoraConfig`.
    """
    made = Sample(name, directory / "base", directory / "adapter", dtype, vocab_size)
    config = {"r": RANK, "lora_alpha": ALPHA, "target_modules": "all-linear", **options}
    with quiet():
        families.model(families.CASES[name]).to(dtype).save_pretrained(made.base)
        adapted = peft.get_peft_model(made.load_base(), peft.LoraConfig(**config))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if parameter.requires_grad:
                    drawn = torch.empty(parameter.shape).normal_(std=0.3, generator=generator)
                    parameter.copy_(drawn.abs() + 0.5 if "magnitude" in key else drawn)
        adapted.save_pretrained(made.adapter)
        if not safe:  # which PEFT itself no longer writes
            tensors = peft.utils.load_peft_weights(made.adapter, device="cpu")
            torch.save(tensors, made.adapter / "adapter_model.bin")
            (made.adapter / "adapter_model.safetensors").unlink()
    return made


def quiet() -> Any:
    """Ignore PEFT's warnings about layers that it transposes and embeddings that it saves."""
    return warnings.catch_warnings(action="ignore")
