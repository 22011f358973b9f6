"""The numbers of a model that memory and time follow from, read from its configuration alone: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import ModelConfig
from data.errors import ConfigError
from data.storage import Storage
from learner.packaged_model import packaged_gguf

_NAMES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_OPTIONAL = ("num_key_value_heads", "head_dim", "max_position_embeddings")
FAMILIES = frozenset(
    {
        *("llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3"),
        *("olmo", "olmo2", "olmo3", "granite", "glm", "glm4", "helium", "exaone4", "ernie4_5", "seed_oss"),
    }
)
"""``model_type`` of transformers: dense decoders with gated feed-forward layers, as `ModelShape` counts them."""
_TIED_UNLESS_SAID = {"gemma", "gemma2", "gemma3_text"}
_GGUF_NAMES = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "feed_forward_length": "intermediate_size",
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A dense decoder with gated feed-forward layers: Llama, Mistral, Qwen2, Qwen3 and their kin.

    Example: SmolLM2-135M is ``ModelShape(hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, feed_forward=1536,
    vocabulary=49152, tied=True, max_positions=8192)``, 134.5 million parameters.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    tied: bool
    max_positions: int

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Of one layer; biases, at most a thousandth, are left out."""
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        return attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model; tied embeddings count once."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    @property
    def largest_tensor(self) -> int:
        """Elements of the largest single parameter."""
        return self.hidden * max(self.vocabulary, self.feed_forward, self.query_width)


def shape_of(model: ModelConfig) -> ModelShape:
    """The shape of a recipe's model: of a directory, a URI or a hub name only ``config.json`` is read.

    Raises:
        ConfigError: there is no such model, or it is not a dense decoder that can be estimated.
    """
    if model.tiny is not None:
        tiny = model.tiny
        return ModelShape(
            hidden=tiny.hidden_size,
            layers=tiny.layers,
            heads=tiny.heads,
            kv_heads=tiny.kv_heads,
            head_dim=tiny.hidden_size // tiny.heads,
            feed_forward=4 * tiny.hidden_size,
            vocabulary=tiny.vocab_size,
            tied=True,
            max_positions=tiny.max_positions,
        )
    path = str(model.path)
    return parse_config(_gguf_config(packaged_gguf(path)) if model.is_packaged else _read_config(path), path)


def parse_config(config: Mapping[str, Any], where: str) -> ModelShape:
    """A shape from the content of a ``config.json`` of transformers.

    Raises:
        ConfigError: a field is missing, or the model is a mixture of experts.
    """
    wrong = _not_estimated(config)
    if wrong:
        raise ConfigError(
            f"the configuration of model {where} {wrong}, so its memory cannot be estimated",
            remedy="correct its config.json, or give a dense decoder (Llama, Mistral, Qwen2, Qwen3 ...) in model.path",
        )
    heads = int(config["num_attention_heads"])
    return ModelShape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        feed_forward=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", config.get("model_type") in _TIED_UNLESS_SAID)),
        max_positions=config.get("max_position_embeddings") or 2048,
    )


def _not_estimated(config: Mapping[str, Any]) -> str:
    """Why a configuration is not that of a dense decoder, or nothing."""
    optional = [name for name in _OPTIONAL if config.get(name) is not None]
    missing = [name for name in (*_NAMES, *optional) if not _is_size(config.get(name))]
    if missing:
        return f"lacks a whole number above 0 as {', '.join(missing)}"
    experts = [name for name, value in config.items() if name.endswith("experts") and value]
    if experts:
        return f"is a mixture of experts ({experts[0]})"
    named = config.get("architectures") or "ForCausalLM"
    classes = [str(name) for name in (named if isinstance(named, list) else [named])]
    if not any(name.endswith("ForCausalLM") for name in classes):
        return f"is no causal language model (architectures: {', '.join(classes)[:80]})"
    if config.get("model_type") and config["model_type"] not in FAMILIES:
        return f"is of the family {str(config['model_type'])[:40]!r}, whose layers are not known here"
    if config.get("quantization_config"):
        return "is quantised (quantization_config)"
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or 1
    if config["hidden_size"] < heads:
        return f"has {heads} attention heads, more than its hidden_size of {config['hidden_size']}"
    if heads % kv_heads:
        return f"has {heads} attention heads, no multiple of its {kv_heads} key-value heads"
    if not isinstance(config.get("tie_word_embeddings") or False, bool):
        return "has a tie_word_embeddings that is neither true nor false"
    return ""


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40


def _read_config(path: str) -> dict[str, Any]:
    """``config.json`` of a directory, a URI or (through the hub's cache) a hub name."""
    storage = Storage.open(path, setting="model.path")
    if storage.exists("config.json"):
        text = storage.read("config.json")
    elif "://" in path or path.startswith(("/", ".", "~")) or Path(path).exists():
        raise ConfigError(f"there is no config.json in model {path!r}", remedy="correct model.path")
    else:
        text = _hub_config(path)
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"config.json of model {path!r} is no JSON object", remedy="correct the file") from error


def _hub_config(name: str) -> bytes:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json")).read_bytes()
    except Exception as error:  # every hub and network error has its own class
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise ConfigError(
            f"model {name!r} is no directory here, and the hub does not give its config.json: {reason}",
            remedy="correct model.path; without a network give a local model directory",
        ) from error


def _gguf_config(gguf: Path) -> dict[str, Any]:
    """The header of a GGUF file under the names of transformers."""
    from gguf import GGUFReader

    reader = GGUFReader(str(gguf))
    family = reader.fields["general.architecture"].contents()
    found = {name: reader.fields.get(f"{family}.{key}") for key, name in _GGUF_NAMES.items()}
    config = {name: int(field.contents()) for name, field in found.items() if field is not None}
    return config | {"tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors)}
