"""Low-rank changes of a model, as learner and engines share them: names of the factors, the sum, the base they rest on.

``A``: [rank, in], ``B``: [out, rank]; a changed weight [out, in] is ``W + scaling B A`` (LoRA, arXiv 2106.09685, with
scaling = alpha / rank). Both halves make the sum here, so that it has the same bits wherever it is made on one kind of
device. torch is imported by the functions that compute, since most of this room needs none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import torch

_SAMPLE_BYTES = 1 << 20


def check_targets(targets: Sequence[str], layers: Collection[str]) -> None:
    """Refuse targets of an adapter that are not among the linear ``layers`` of the model. Raises `ConfigError`."""
    wrong = [name for name in targets if name not in layers and name != "all-linear"]
    if wrong:
        raise ConfigError(
            f"learner.lora.targets names {', '.join(wrong)}, which is no linear layer of the model",
            remedy=f"name some of {', '.join(sorted(layers))}, or all-linear",
        )


def factor_names(weight: str) -> tuple[str, str]:
    """The names of A and B of a weight: those of `peft`, without its prefix and the adapter's own name."""
    layer = weight.removesuffix(".weight")
    return f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"


def merged(base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """``base + scaling b a`` in the dtype of ``base``; the sum is made in fp32 (fp64 for an fp64 base)."""
    import torch

    wide = torch.float64 if base.dtype == torch.float64 else torch.float32
    return torch.addmm(base.to(wide), b.to(wide), a.to(wide), alpha=scaling).to(base.dtype)


def merged_weights(
    model_dir: str, factors: Mapping[str, torch.Tensor], *, scaling: float, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights of a model directory, one by one in the order of their names; those that have factors, changed.

    Files are mapped, not read into memory. As in the learner, the base is first brought to the dtype of the factors.

    Args:
        factors: A and B of the changed weights, under `factor_names`, all of one dtype.
        device: where the sums are made.

    Raises:
        EngineError: a factor that belongs to no weight of the directory.
    """
    from safetensors import safe_open

    dtype = next(iter(factors.values())).dtype
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in weight_files(model_dir)]
        owners = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # a reader is no mapping
        foreign = set(factors) - {factor for name in owners for factor in factor_names(name)}
        if foreign:
            raise EngineError(
                f"{len(foreign)} factors of the adapter change no weight of {model_dir}, among them {min(foreign)}",
                remedy="rollouts and learner must start from the same model; set learner.lora.sync=merged",
            )
        for name in sorted(owners):
            weight = owners[name].get_tensor(name).to(dtype=dtype)
            names = factor_names(name)
            if names[0] in factors:
                a, b = (factors[factor].to(device) for factor in names)
                weight = merged(weight.to(device), a, b, scaling)
            yield name, weight


def weight_files(model_dir: str) -> list[Path]:
    """The safetensors files of a model directory, by name.

    Those that transformers loads, where the index or the usual name says so: some models are published beside a second
    copy of themselves (``consolidated.safetensors``).

    Raises:
        ValueError: the index is damaged.
    """
    folder = Path(model_dir)
    found = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    named = {"model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("weight_map"), dict):
            raise ValueError(f"{index.name} has no weight_map")
        named = set(content["weight_map"].values())
    return [path for path in found if path.name in named] or found


def fingerprint(model_dir: str) -> str:
    """A hash of names, sizes, headers and ends of the weights files: changes with the model, and costs no full read."""
    digest = hashlib.sha256()
    for path in weight_files(model_dir):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(0, size - _SAMPLE_BYTES)):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
