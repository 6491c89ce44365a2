"""Computes batches with torch: a model, its KV memory and the sampler, behind the Runner protocol.

A runner is a group of ranks that hold shards of one model and work in step. Today the group has one
rank, which holds everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from baton.core import model_folder
from baton.core.errors import ConfigError, ModelLoadError
from baton.core.hub import ByteProgress
from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.core.settings import EngineSettings, ModelSettings
from baton.engine.batch import Batch, BatchEntry, SampledToken
from baton.engine.runner import LayerPieces
from baton.engine.sampler import Sampler
from baton.models.config import ConfigFile, DecoderConfig
from baton.models.decoder import CausalLM
from baton.models.inputs import SequenceInput, build_inputs
from baton.models.kv_cache import TORCH_DTYPES, KvArena
from baton.models.registry import find_model
from baton.models.weights import Checkpoint
from baton_kernels import dispatch


class ModelRunner:
    """The torch Runner. One thread uses it; `run` blocks for one forward pass.

    Raises ModelLoadError when the model cannot be loaded, ConfigError when the settings or this
    machine's memory do not allow it.
    """

    def __init__(
        self,
        model: ModelSettings,
        engine: EngineSettings,
        progress: ByteProgress = lambda done, total: None,
    ) -> None:
        """`progress` hears of the weights' bytes as they are loaded."""
        if engine.deterministic:
            raise ConfigError("the engine has no batch-invariant numerics yet; unset deterministic")
        if engine.num_threads is not None:
            torch.set_num_threads(engine.num_threads)
        folder = model_folder.resolve(model.source, model.revision)
        device = pick_device(model.device)
        file = ConfigFile.read(folder)
        model_class = find_model(file)
        config = model_class.read_config(file)
        dtype = pick_dtype(model.dtype, config.dtype, device)
        self.max_model_len = _max_model_len(model.max_model_len, config, folder)
        self.vocab_size = config.vocab_size
        self.eos_token_ids = model_folder.eos_token_ids(folder)
        self.identity = model_folder.identity(folder, model.revision)
        self.rope = config.rope.identity
        self.groups = (_group_spec(config, engine.block_size, dtype),)
        self.num_blocks = (_num_blocks(engine, self.groups[0]),)
        # The KV pool first: it fails fast, and loading a large model does not.
        arenas = tuple(
            KvArena(spec, num, device)
            for spec, num in zip(self.groups, self.num_blocks, strict=True)
        )
        checkpoint = Checkpoint(folder, TORCH_DTYPES[dtype], device, progress)
        try:
            self.ranks = (_Rank(model_class(config, checkpoint), arenas),)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"the weights of {folder} do not fit on {device} beside the KV pool; lower "
                "--kv-memory or --kv-blocks, or take a larger GPU"
            ) from error
        self._sampler = Sampler(self.vocab_size, self.eos_token_ids)

    @property
    def device(self) -> torch.device:
        return self.ranks[0].device

    def arenas(self) -> list[Arena]:
        """The KV memory of all ranks, group by group."""
        return [
            Arena(
                group=g,
                address=arena.memory.data_ptr(),
                num_blocks=arena.num_blocks,
                block_bytes=arena.spec.block_bytes,
                memory="DRAM" if arena.memory.device.type == "cpu" else "VRAM",
                device_id=arena.memory.device.index or 0,
                view=arena.memory.numpy() if arena.memory.device.type == "cpu" else None,
                held=whole_slice(arena.spec),
            )
            for rank in self.ranks
            for g, arena in enumerate(rank.arenas)
        ]

    @torch.inference_mode()
    def run(self, batch: Batch, pieces: LayerPieces | None = None) -> list[SampledToken]:
        """Copies, one forward pass, and a token for every SampleSpec, entry by entry in order."""
        for rank in self.ranks:
            rank.prepare_blocks(batch)
        if not batch.entries:
            return []
        # Every rank ends with the same logits.
        for rank in self.ranks:
            logits = rank.forward(batch, pieces if rank is self.ranks[-1] else None)
        counts = [len(entry.samples) for entry in batch.entries if entry.sample]
        specs = [spec for entry in batch.entries for spec in entry.samples]
        if not specs:
            # Sampling waits for the device; without it the KV may still be on its way.
            self.ranks[-1].wait_for_device()
            return []
        if len(specs) != len(counts):
            # A prompt that forks here: its choices draw from the same logits.
            logits = logits.repeat_interleave(torch.tensor(counts, device=logits.device), dim=0)
        return self._sampler.sample(logits, specs)


class _Rank:
    """One device's shard of the model and of the KV."""

    def __init__(self, model: CausalLM, arenas: tuple[KvArena, ...]) -> None:
        self.model = model
        self.arenas = arenas
        self.device = arenas[0].memory.device

    def prepare_blocks(self, batch: Batch) -> None:
        """Do the copies, and clear blocks that this step begins but does not fill.

        Attention reads whole blocks. A cleared tail keeps what other requests left there out of
        this one's arithmetic, and out of what a handoff sends.
        """
        for g, arena in enumerate(self.arenas):
            copies = [(c.src, c.dst) for c in batch.copies if c.group == g]
            if copies:
                sources, targets = torch.tensor(copies, device=self.device).unbind(1)
                dispatch.copy_blocks(arena.memory, sources, targets)
            begun = [b for e in batch.entries if (b := _begun_block(e, g, arena.spec)) is not None]
            if begun:
                arena.memory[torch.tensor(begun, device=self.device)] = 0

    def wait_for_device(self) -> None:
        """Return when everything queued so far has been computed."""
        if self.device.type == "cuda":
            # Blocking, so that senders have the core meanwhile.
            event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self.device))
            event.synchronize()

    def forward(self, batch: Batch, pieces: LayerPieces | None) -> torch.Tensor:
        """Logits [N, vocab] of the entries that sample."""
        inputs = build_inputs(
            [SequenceInput(e.token_ids, e.start, e.block_tables, e.sample) for e in batch.entries],
            [arena.layers[0] for arena in self.arenas],
            self.model.config.num_heads,
            self.model.inverse_frequencies,
        )
        return self.model.forward(
            inputs,
            self.arenas[0].layers,
            num_pieces=1 if pieces is None else pieces.num_pieces,
            on_layers_done=None if pieces is None else self._when_stored(pieces.done),
        )

    def _when_stored(self, done: Callable[[int], None]) -> Callable[[int], None]:
        """`done`, called when the kernels that store the piece's KV have run."""

        def wait_and_tell(piece: int) -> None:
            self.wait_for_device()
            done(piece)

        return wait_and_tell


def _begun_block(entry: BatchEntry, group: int, spec: GroupSpec) -> int | None:
    """The last block of an entry if its first slot, but not its last, is written in this step."""
    end = entry.start + len(entry.token_ids)
    index, used = divmod(end, spec.block_size)
    if used == 0 or index * spec.block_size < entry.start:
        return None
    return int(entry.block_tables[group][index])


def pick_device(wanted: str) -> torch.device:
    """`auto`, `cpu` or `cuda`. Raises ConfigError when there is no GPU for `cuda`."""
    has_gpu = wanted != "cpu" and torch.cuda.is_available()
    if wanted == "cuda" and not has_gpu:
        raise ConfigError("--device cuda, but torch finds no GPU here; use --device auto or cpu")
    return torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")


def pick_dtype(wanted: str, of_checkpoint: str, device: torch.device) -> str:
    """The element type of weights and KV; `auto` takes the checkpoint's unless it is slow here."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda" or of_checkpoint in ("float32", "float64"):
        return of_checkpoint
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if of_checkpoint == "bfloat16" and fast else "float32"


def _max_model_len(wanted: int | None, config: DecoderConfig, folder: Path) -> int:
    if wanted is not None and wanted > config.max_positions:
        raise ConfigError(
            f"--max-model-len {wanted} is beyond the {config.max_positions} positions that "
            f"{folder} was made for"
        )
    length = wanted or config.max_positions
    if config.window is not None and length > config.window:
        raise ModelLoadError(
            f"{folder} attends within a sliding window of {config.window} tokens, which is not "
            f"served yet; with --max-model-len {config.window} the window makes no difference"
        )
    return length


def _group_spec(config: DecoderConfig, block_size: int, dtype: str) -> GroupSpec:
    return GroupSpec(
        kind="full",
        num_layers=config.num_layers,
        num_kv_heads=config.num_kv_heads,
        k_dim=config.head_dim,
        v_dim=config.head_dim,
        block_size=block_size,
        dtype=dtype,
    )


def _num_blocks(engine: EngineSettings, spec: GroupSpec) -> int:
    if engine.kv_blocks is not None:
        return engine.kv_blocks
    num = engine.kv_memory_bytes // spec.block_bytes
    if num < 2:
        raise ConfigError(
            f"--kv-memory {engine.kv_memory_bytes} bytes holds {num} KV blocks of "
            f"{spec.block_bytes} bytes; give at least {2 * spec.block_bytes}"
        )
    return num
