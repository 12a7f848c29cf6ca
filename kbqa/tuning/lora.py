"""LoRA through peft: small products beside linear layers are learnt, the model stays as it is, quantized or not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kbqa.chatglm.decoder import Alone, Decoder
from kbqa.chatglm.lora import ADAPTER_WEIGHTS, lora_pairs, lora_tensors
from kbqa.chatglm.quantization import QuantizedLinear
from kbqa.errors import TuningError
from kbqa.tuning.batch import loss_of
from kbqa.tuning.settings import LORA_TARGETS

__all__ = ["LoraTuning"]


class LoraTuning(nn.Module):
    """A frozen decoder, and what is learnt beside those of its layers that `targets` names (as published)."""

    is_parallelizable = model_parallel = True  # for the Trainer: one GPU, and no copies on others
    method = "lora"

    def __init__(self, decoder: Decoder, rank: int, alpha: int, dropout: float, targets: Sequence[str]) -> None:
        super().__init__()
        self.decoder, self.targets = decoder.requires_grad_(False), list(targets)
        self.config: Any = _config(rank, alpha, dropout, [LORA_TARGETS[name] for name in targets])
        _inject(self.config, decoder)
        for name, parameter in decoder.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)

    def forward(self, input_ids: Tensor, labels: Tensor, positions: Tensor, contexts: Tensor) -> dict[str, Tensor]:
        return {"loss": loss_of(self.decoder, Alone(), 0, input_ids, labels, positions, contexts)}

    def tensors(self) -> dict[str, Tensor]:
        """What is learnt, under the published names."""
        made = lora_tensors(self.decoder.architecture, self._pairs())
        return {name: tensor.detach().cpu().clone() for name, tensor in made.items()}

    def save(self, folder: Path, base: Path) -> None:
        """`adapter_model.safetensors` and `adapter_config.json`, as peft writes them for the published model."""
        from safetensors.torch import save_file

        save_file(self.tensors(), folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = _config(self.config.r, self.config.lora_alpha, self.config.lora_dropout, self.targets)
        config.base_model_name_or_path, config.inference_mode = base.name, True
        config.save_pretrained(str(folder))

    def load(self, folder: Path) -> None:
        """Goes on from a checkpoint. TuningError when it is one of another shape."""
        found = lora_pairs(folder, self.decoder.architecture)
        ours = self._pairs()
        shapes = [{name: [tuple(it.shape) for it in pair] for name, pair in its.items()} for its in (found, ours)]
        if shapes[0] != shapes[1]:
            raise TuningError(
                f"the adapter in {folder} is not of rank {self.config.r} and of {', '.join(self.targets)} in all layers"
            )
        for name, pair in ours.items():
            for parameter, tensor in zip(pair, found[name], strict=True):
                parameter.data.copy_(tensor)

    def _pairs(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """A and B beside each of our modules."""
        return {
            name: (module.lora_A["default"].weight, module.lora_B["default"].weight)
            for name, module in self.decoder.named_modules()
            if isinstance(getattr(module, "lora_A", None), nn.ModuleDict)
        }


def _config(rank: int, alpha: int, dropout: float, targets: Sequence[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none")


def _inject(config: Any, decoder: Decoder) -> None:
    from peft import inject_adapter_in_model
    from peft.tuners.lora import Linear

    # peft says that it does not know our quantized layers, which is why it is told how to treat them.
    config._register_custom_module({QuantizedLinear: Linear})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
        inject_adapter_in_model(config, decoder)
