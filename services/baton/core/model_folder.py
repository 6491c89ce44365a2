"""A model on disk: a Hugging Face folder with safetensors weights and a fast tokenizer.

Nothing here loads weights or imports torch or transformers, so the gateway and the command line
can use it too. Every failure is a ModelLoadError whose message says what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from baton.core import hub
from baton.core.errors import ConfigError, ModelLoadError
from baton.core.hub import ByteProgress

EMBEDDED = "baton-tiny"
"""The source name of the model inside the package."""

_WEIGHTS = "*.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Fields that say nothing about the KV a model computes, and differ between equal checkpoints.
_NOT_IDENTITY = ("transformers_version", "_name_or_path")
_MAX_HEADER_BYTES = 100_000_000
_SAMPLE_BYTES = 4096
_NUM_SAMPLES = 16


def resolve(
    source: str | os.PathLike[str],
    revision: str | None = None,
    progress: ByteProgress | None = None,
    *,
    weights: bool = True,
) -> Path:
    """The folder of `source`: `baton-tiny`, an existing folder, or a hub id (downloaded).

    The folder is checked: config, tokenizer and, unless `weights` is False (for gateways, which
    then fetch none), complete safetensors. `revision` (branch, tag, commit) is for hub ids;
    `progress` hears of their download, from another thread. Raises ModelLoadError.
    """
    text = os.fspath(source)
    path = _path(text)
    if text == EMBEDDED:
        folder = Path(__file__).parent.parent / "embedded" / "baton_tiny"
    elif text and path.is_dir():
        folder = path.resolve()
    elif path.is_file():
        raise ModelLoadError(f"{text} is a file; give the Hugging Face folder that holds it")
    elif not _HUB_ID.fullmatch(text):
        raise ModelLoadError(
            f"no such folder: {text!r}; give {EMBEDDED}, an existing model folder or a hub id "
            "like org/name"
        )
    else:
        folder = hub.download(text, revision, weights=weights, progress=progress)
    config(folder)
    if not (folder / "tokenizer.json").is_file():
        raise ModelLoadError(
            f"{folder} has no tokenizer.json; save a fast tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
    if weights:
        for file in weight_files(folder):
            _header(file)
    return folder


def served_name(source: str | os.PathLike[str]) -> str:
    """The name clients use unless another is set: the last component of `source`."""
    text = os.fspath(source)
    path = _path(text)
    if text == EMBEDDED or not path.is_dir():
        return text.rstrip("/").rsplit("/", 1)[-1]
    path = path.absolute()
    if commit(path):  # .../models--org--name/snapshots/<commit> of the hub's cache
        return path.parent.parent.name.rsplit("--", 1)[-1]
    return path.resolve().name


def identity(folder: str | os.PathLike[str], revision: str | None = None) -> str:
    """Name of exactly this model, for KV digests: equal only when the KV would be equal.

    A hash over the canonical config, each safetensors header (names, shapes, element types), a
    sample of the weights (fine-tunes of one base differ in nothing else), and the revision:
    the commit for a folder of the hub's cache, else `revision`. Reads 64 KiB of each file.
    """
    root = Path(folder)
    document = {k: v for k, v in config(root).items() if k not in _NOT_IDENTITY}
    h = hashlib.blake2b(digest_size=16)
    _feed(h, _canonical(document))
    _feed(h, (commit(root) or revision or "").encode())
    for file in weight_files(root):
        header, start, end = _header(file)
        _feed(h, file.name.encode())
        _feed(h, _canonical(header))
        _feed(h, _sample(file, start, end))
    return h.hexdigest()


def tokenizer_identity(folder: str | os.PathLike[str]) -> str:
    """Digest of what each token id stands for: where it is equal, ids may be exchanged.

    Taken from the ids and their texts alone, so that a tokenizer.json that was only written anew
    stays what it is. Raises ModelLoadError.
    """
    document = _object(Path(folder) / "tokenizer.json")
    model, added = document.get("model"), document.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    texts: dict[str, Any] = {}
    if isinstance(vocab, dict):
        texts = {str(number): text for text, number in vocab.items()}
    elif isinstance(vocab, list):  # of Unigram: (text, score), in the order of their ids
        pieces = (item[0] if isinstance(item, list) and item else item for item in vocab)
        texts = {str(number): text for number, text in enumerate(pieces)}
    for token in added if isinstance(added, list) else ():
        # The vocabulary may have it already: then it was only marked as special.
        if isinstance(token, dict):
            texts[str(token.get("id"))] = token.get("content")
    return hashlib.blake2b(_canonical(sorted(texts.items())), digest_size=16).hexdigest()


def config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """config.json as a dict. Raises ModelLoadError when it is missing or not a JSON object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ModelLoadError(
            f"{folder} has no config.json; it is not a Hugging Face model folder"
            if Path(folder).is_dir()
            else f"no such folder: {folder}"
        )
    return _object(path)


def context_length(config: dict[str, Any]) -> int:
    """Longest sequence in tokens that the model was made for."""
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if value := _field(config, name):
            return _positive(name, value)
    raise ModelLoadError("config.json has no max_position_embeddings; add the context length there")


def served_length(config: dict[str, Any], wanted: int | None) -> int:
    """`wanted`, or the model's context length. Raises ConfigError when the model has less."""
    longest = context_length(config)
    if wanted is not None and wanted > longest:
        raise ConfigError(
            f"--max-model-len {wanted} is beyond the model's context length of {longest}"
        )
    return wanted or longest


def vocab_size(config: dict[str, Any]) -> int:
    """Rows of the embedding table; the tokenizer may know fewer tokens."""
    return _positive("vocab_size", _field(config, "vocab_size"))


def eos_token_ids(folder: str | os.PathLike[str]) -> frozenset[int]:
    """Tokens that end an answer: generation_config.json's, else config.json's; may be empty."""
    path = Path(folder) / "generation_config.json"
    ids = _object(path).get("eos_token_id") if path.is_file() else None
    if ids is None:
        ids = _field(config(folder), "eos_token_id")
    found = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in found):
        raise ModelLoadError(f"{folder}: eos_token_id must be a token id or a list, not {ids!r}")
    return frozenset(found)


def weight_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The safetensors files of the model, in a fixed order; each exists.

    Those of model.safetensors.index.json if there is one, else model.safetensors, else all that
    lie there. Raises ModelLoadError for a missing shard, no weights, or pickles only.
    """
    root = Path(folder)
    index = root / "model.safetensors.index.json"
    if index.is_file():
        shards = _object(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            raise ModelLoadError(f"{index} has no weight_map; download it again")
        files = [root / name for name in sorted(set(shards.values()))]
    elif (root / "model.safetensors").is_file():
        files = [root / "model.safetensors"]
    else:
        files = [f for f in sorted(root.glob(_WEIGHTS)) if not f.name.startswith("consolidated")]
    if missing := [f.name for f in files if not f.is_file()]:
        raise ModelLoadError(
            f"{root} lacks {', '.join(missing)}, which {index.name} names; download the rest"
        )
    if files:
        return files
    if pickles := sorted(f.name for pattern in _PICKLES for f in root.glob(pattern)):
        raise ModelLoadError(
            f"{root} has pickle weights only ({pickles[0]}), which can run code when loaded; "
            "convert them to safetensors (model.save_pretrained(folder, safe_serialization=True))"
        )
    raise ModelLoadError(f"{root} has no safetensors weights; download model.safetensors there")


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """(header, start, end) of a safetensors file: its JSON and the byte range of its data.

    Format: 8 bytes little-endian length, JSON, data; offsets count from the data's start.
    """
    size = file.stat().st_size
    with file.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise ModelLoadError(f"{file} is no complete safetensors file; download it again")
        try:
            header = json.loads(f.read(length))
            end = max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise ModelLoadError(f"{file} has no readable header; download it again") from error
    start = 8 + length
    if size != start + end:
        raise ModelLoadError(
            f"{file} is {size} bytes long, its header says {start + end}: it is truncated or "
            "damaged; download it again"
        )
    return header, start, size


def _sample(file: Path, start: int, end: int) -> bytes:
    """Pieces spread evenly over the weights, the last at the end."""
    last = max(start, end - _SAMPLE_BYTES)
    with file.open("rb") as f:
        pieces = []
        for i in range(_NUM_SAMPLES):
            f.seek(start + (last - start) * i // (_NUM_SAMPLES - 1))
            pieces.append(f.read(_SAMPLE_BYTES))
    return b"".join(pieces)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of an unknown user
        return Path(text)


def commit(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache; None for others."""
    folder = folder.absolute()
    in_cache = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if in_cache else None


def _feed(h: hashlib.blake2b, part: bytes) -> None:
    h.update(len(part).to_bytes(8, "little") + part)


def _canonical(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(document, dict):
        raise ModelLoadError(f"{path} must hold a JSON object; fetch it again")
    return document


def _field(config: dict[str, Any], name: str) -> Any:
    """A field of the config, or of the language model inside a multi-modal one."""
    inner = config.get("text_config")
    return config.get(name, inner.get(name) if isinstance(inner, dict) else None)


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelLoadError(f"config.json: {name} must be a positive integer, not {value!r}")
    return value
