"""Model folders: what is accepted, what is refused and with which advice, and identity."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import save_file

from baton.core import model_folder
from baton.core.errors import ModelLoadError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def write_config(folder: Path, **fields: Any) -> None:
    document = {"model_type": "llama", "vocab_size": 32, "max_position_embeddings": 64, **fields}
    (folder / "config.json").write_text(json.dumps(document))


def write_weights(path: Path, value: float = 1.0, rows: int = 32) -> None:
    save_file({"embed": np.full((rows, 8), value, dtype=np.float32)}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete small folder."""
    made = tmp_path / "small-model"
    made.mkdir()
    write_config(made)
    (made / "tokenizer.json").write_text("{}")
    write_weights(made / "model.safetensors")
    return made


def shard(folder: Path) -> None:
    """Replace the weights of `folder` by two shards and their index."""
    (folder / "model.safetensors").unlink()
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for i, name in enumerate(names):
        write_weights(folder / name, float(i))
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_existing_folder_resolves_to_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder.resolve(folder) == folder.resolve()
    monkeypatch.chdir(folder.parent)
    assert model_folder.resolve("small-model") == folder.resolve()
    assert model_folder.resolve("./small-model/") == folder.resolve()


def test_embedded_name_wins_over_a_folder_of_that_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(folder.parent / "baton-tiny")
    monkeypatch.chdir(folder.parent)
    assert model_folder.resolve("baton-tiny").name == "baton_tiny"
    assert model_folder.resolve("./baton-tiny") == (folder.parent / "baton-tiny").resolve()


@pytest.mark.parametrize("source", ["", "./nowhere", "/no/such/folder", "a/b/c", "~nobody-here/m"])
def test_missing_folder_is_named_with_the_alternatives(source: str) -> None:
    with pytest.raises(ModelLoadError, match=r"no such folder.*baton-tiny.*hub id"):
        model_folder.resolve(source)


def test_file_instead_of_folder_asks_for_the_folder(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"is a file; give the .* folder"):
        model_folder.resolve(folder / "model.safetensors")


def test_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"no config\.json"):
        model_folder.resolve(folder)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "\x00"])
def test_damaged_config_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"config\.json.*fetch it again"):
        model_folder.resolve(folder)


def test_folder_without_fast_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"no tokenizer\.json.*save_pretrained"):
        model_folder.resolve(folder)


def test_pickle_weights_are_refused_as_code(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin.*run code.*safetensors"):
        model_folder.resolve(folder)


def test_folder_without_weights_serves_gateways_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="no safetensors weights"):
        model_folder.resolve(folder)
    assert model_folder.resolve(folder, weights=False) == folder.resolve()


def test_missing_shard_is_named(folder: Path) -> None:
    shard(folder)
    assert len(model_folder.weight_files(model_folder.resolve(folder))) == 2
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"lacks model-00002-of-00002\.safetensors"):
        model_folder.resolve(folder)


def test_index_decides_which_files_are_weights(folder: Path) -> None:
    shard(folder)
    write_weights(folder / "extra.safetensors")
    assert [f.name[:11] for f in model_folder.weight_files(folder)] == [
        "model-00001",
        "model-00002",
    ]


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1])
def test_truncated_weights_are_found_at_any_length(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors.*download it again"):
        model_folder.resolve(folder)


def test_pickle_named_as_safetensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04" + b"PK" * 500)
    with pytest.raises(ModelLoadError, match="download it again"):
        model_folder.resolve(folder)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("baton-tiny", "baton-tiny"),
        ("meta-llama/Llama-3.2-1B", "Llama-3.2-1B"),
        ("gpt2", "gpt2"),
        ("/no/such/folder/", "folder"),
    ],
)
def test_served_name_is_the_last_component(source: str, name: str) -> None:
    assert model_folder.served_name(source) == name


def test_served_name_of_folders(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder.served_name(f"{folder}/") == "small-model"
    monkeypatch.chdir(folder)
    assert model_folder.served_name(".") == "small-model"
    cached = folder / "models--org--thing" / "snapshots" / COMMIT
    cached.mkdir(parents=True)
    assert model_folder.served_name(cached) == "thing"


def test_identity_is_stable_and_ignores_where_and_by_what_it_was_saved(folder: Path) -> None:
    before = model_folder.identity(folder)
    assert before == model_folder.identity(str(folder))
    document = model_folder.config(folder) | {"transformers_version": "9.9", "_name_or_path": "x"}
    (folder / "config.json").write_text(json.dumps(dict(reversed(document.items())), indent=4))
    moved = folder.rename(folder.parent / "elsewhere")
    assert model_folder.identity(moved) == before


def test_identity_differs_for_anything_that_changes_the_kv(folder: Path) -> None:
    seen = [model_folder.identity(folder), model_folder.identity(folder, "v2")]
    write_config(folder, rope_theta=5.0)
    seen.append(model_folder.identity(folder))
    write_weights(folder / "model.safetensors", rows=33)  # the header
    seen.append(model_folder.identity(folder))
    write_weights(folder / "model.safetensors", value=2.0, rows=33)  # a fine-tune of the same shape
    seen.append(model_folder.identity(folder))
    assert len(set(seen)) == len(seen)


def test_identity_of_a_cached_snapshot_holds_its_commit(folder: Path) -> None:
    names = [COMMIT, COMMIT[::-1]]
    snapshots = folder.parent / "models--org--thing" / "snapshots"
    snapshots.mkdir(parents=True)
    found = []
    for name in names:
        folder = folder.rename(snapshots / name)
        found.append(model_folder.identity(folder))
        assert model_folder.identity(folder, "main") == found[-1]
    assert found[0] != found[1]


def test_tokenizer_identity_says_what_each_id_stands_for(folder: Path) -> None:
    def of(vocab: object, added: object = (), **more: object) -> str:
        document = {"model": {"type": "BPE", "vocab": vocab, **more}, "added_tokens": added}
        (folder / "tokenizer.json").write_text(json.dumps(document))
        return model_folder.tokenizer_identity(folder)

    plain, end = of({"a": 0, "b": 1}), [{"id": 2, "content": "</s>", "special": True}]
    # Written anew, or encoding another way: every id still stands for the same.
    assert of({"b": 1, "a": 0}, merges=[], ignore_merges=False) == plain
    assert of({"a": 0, "b": 1}, [{"id": 1, "content": "b", "special": True}]) == plain
    assert of([["a", -1.0], ["b", -2.0]]) == plain == of([["a", -3.0], ["b", -2.0]])
    others = [of({"a": 1, "b": 0}), of({"a": 0}), of({"a": 0, "b": 1}, end), of([["b", 0.0]])]
    assert len({plain, *others}) == 5


def test_tokenizers_of_another_kind_have_an_identity_too(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    assert len(model_folder.tokenizer_identity(folder)) == 32
    (folder / "tokenizer.json").write_text("no JSON")
    with pytest.raises(ModelLoadError, match="fetch it again"):
        model_folder.tokenizer_identity(folder)


def test_context_length_and_vocab_size_come_from_the_config() -> None:
    plain = {"max_position_embeddings": 64, "vocab_size": 32}
    assert model_folder.context_length(plain) == 64
    assert model_folder.vocab_size(plain) == 32
    nested = {"text_config": {"max_position_embeddings": 128, "vocab_size": 9}}
    assert model_folder.context_length(nested) == 128
    assert model_folder.vocab_size(nested) == 9


@pytest.mark.parametrize("value", [-1, "64", True, 1.5])
def test_senseless_sizes_are_refused(value: Any) -> None:
    with pytest.raises(ModelLoadError, match="max_position_embeddings must be a positive integer"):
        model_folder.context_length({"max_position_embeddings": value})
    with pytest.raises(ModelLoadError, match="vocab_size must be a positive integer"):
        model_folder.vocab_size({"vocab_size": value})


def test_config_without_sizes_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="max_position_embeddings"):
        model_folder.context_length({})
    with pytest.raises(ModelLoadError, match="vocab_size"):
        model_folder.vocab_size({})


@pytest.mark.parametrize(
    ("in_config", "in_generation", "ids"),
    [
        (5, None, {5}),
        ([5, 6], None, {5, 6}),
        (5, 7, {7}),
        (5, [7, 8], {7, 8}),
        (None, None, set()),
    ],
)
def test_eos_tokens_come_from_the_generation_config_first(
    folder: Path, in_config: Any, in_generation: Any, ids: set[int]
) -> None:
    write_config(folder, eos_token_id=in_config)
    generation = {"eos_token_id": in_generation}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    assert model_folder.eos_token_ids(folder) == ids


def test_eos_tokens_without_generation_config(folder: Path) -> None:
    write_config(folder, eos_token_id=3)
    assert model_folder.eos_token_ids(folder) == {3}
    write_config(folder, eos_token_id="</s>")
    with pytest.raises(ModelLoadError, match="eos_token_id"):
        model_folder.eos_token_ids(folder)


def test_hub_id_is_downloaded_without_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def download(hub_id: str, **options: Any) -> str:
        calls.append({"id": hub_id, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_folder.resolve("org/thing", "v1") == folder
    assert model_folder.resolve("org/thing", weights=False) == folder
    assert calls[0]["id"] == "org/thing"
    assert calls[0]["revision"] == "v1"
    assert "*.safetensors" in calls[0]["allow_patterns"]
    assert "*.safetensors" not in calls[1]["allow_patterns"]
    assert not any("bin" in pattern or pattern == "*" for pattern in calls[0]["allow_patterns"])


@pytest.mark.parametrize(
    ("raised", "advice"),
    [
        (errors.GatedRepoError, "HF_TOKEN"),
        (errors.RevisionNotFoundError, "no revision v1; check --revision"),
        (errors.RepositoryNotFoundError, "no model on the hub named org/thing"),
        (errors.LocalEntryNotFoundError, "could not be reached.*HF_HUB_OFFLINE"),
        (ConnectionError, "could not be reached.*check the network"),
    ],
)
def test_hub_failures_say_what_to_do(
    raised: type[Exception], advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(hub_id: str, **options: Any) -> str:
        raise raised.__new__(raised)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelLoadError, match=advice):
        model_folder.resolve("org/thing", "v1")


def test_unreachable_hub_and_no_heavy_imports(tmp_path: Path) -> None:
    """The real client against a closed port, in a process of its own (it reads settings once)."""
    program = (
        "import sys\n"
        "from baton.core import model_folder as m\n"
        "m.resolve('baton-tiny')\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)\n"
        "try: m.resolve('org/thing')\n"
        "except m.ModelLoadError as error: print(error)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    assert "the hub could not be reached" in done.stdout
