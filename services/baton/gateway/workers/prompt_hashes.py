"""The block hashes of one request's tokens, as keys of the prefix index; each token hashed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.core.block_hash import IndexKeys, KeyChain, root_hash
from baton.core.request import Request


@dataclass(frozen=True, slots=True)
class HashScope:
    """What workers must have in common for their block hashes to be comparable."""

    digest: str
    block_size: int


class PromptHashes:
    """Keys of a prompt, and of what was generated after it; computed when first asked for.

    Kept with its request, so that a request that waits is not hashed for every look at the
    workers, and a replay is hashed only as far as it has grown.
    """

    __slots__ = ("_chains", "_identity", "_prompt")

    def __init__(
        self,
        prompt: Sequence[int],
        tenant_salt: str = "",
        lora_id: str = "",
        lora_revision: str = "",
    ) -> None:
        self._prompt = prompt
        self._identity = (tenant_salt, lora_id, lora_revision)
        self._chains: dict[HashScope, KeyChain] = {}

    @classmethod
    def of(cls, request: Request) -> PromptHashes:
        return cls(request.prompt, request.tenant_salt, request.lora_id, request.lora_revision)

    def num_tokens(self, output: Sequence[int] = ()) -> int:
        """Of the prompt and `output`."""
        return len(self._prompt) + len(output)

    def keys(self, scope: HashScope, output: Sequence[int] = ()) -> IndexKeys:
        """Keys of all full blocks of the prompt and `output`: [num_tokens // block_size].

        Each `output` continues the longest one before, or begins it.
        """
        chain = self._chains.get(scope)
        if chain is None:
            chain = self._chains[scope] = KeyChain(
                root_hash(scope.digest, *self._identity), scope.block_size
            )
            chain.extend(self._prompt)
        known = chain.num_tokens - len(self._prompt)
        if len(output) > known:
            chain.extend(output[known:])
        return chain.keys[: self.num_tokens(output) // scope.block_size]
