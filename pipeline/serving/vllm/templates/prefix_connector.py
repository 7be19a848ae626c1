"""Serves trained prefixes in vLLM, without a fork or a patch: a KV connector.

This file stands alone, in a folder with `prefixes.json` and the prefixes; README.md there says how
vLLM is started with it.

A prompt that begins with a prefix's placeholder ids is taken to have that many positions computed
already. They are filled with the prefix's keys and values in the step that runs the rest of the
prompt; the ids themselves are never embedded. Keys and values are written by the attention layer's
own `do_kv_cache_update`, so that no layout of the paged cache is known here.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import vllm
from safetensors.torch import load_file
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)
from vllm.distributed.parallel_state import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
)
from vllm.logger import init_logger
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.sample.logits_processor import LogitsProcessor

logger = init_logger("vllm.prefix_connector")

FOLDER = Path(__file__).resolve().parent


@dataclass
class Load:
    """Slots of the paged cache to fill with a prefix's virtual tokens.

    Attributes:
        name: the prefix.
        tokens: of each KV cache group the virtual tokens to write; earlier ones are cached already,
            and those out of a sliding window's reach have no block.
        slots: of each group the slot of each of these tokens.
    """

    name: str
    tokens: tuple[list[int], ...]
    slots: tuple[list[int], ...]


@dataclass
class Loads(KVConnectorMetadata):
    """What the scheduler asks the workers to load in one step."""

    loads: list[Load] = field(default_factory=list)


class PrefixConnector(KVConnectorBase_V1, SupportsHMA):
    """For `--kv-transfer-config`; `prefixes.json` beside this file says which prefixes there are.

    Raises ValueError at the start where a prefix is not of the model, or its file was changed.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        served = json.loads((FOLDER / "prefixes.json").read_text(encoding="utf-8"))
        self._prefixes = served["prefixes"]
        self._groups = kv_cache_config.kv_cache_groups
        self._names = {tuple(about["ids"]): name for name, about in self._prefixes.items()}
        self._lengths = sorted({len(ids) for ids in self._names}, reverse=True)
        self._pending: list[Load] = []
        self._written: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        if vllm_config.speculative_config is not None:
            raise ValueError("prefixes are not served with speculative decoding; leave it out")
        if vllm_config.parallel_config.decode_context_parallel_size > 1:
            raise ValueError(
                "prefixes are not served with decode context parallelism; leave it out"
            )
        if role == KVConnectorRole.WORKER:
            self._tensors = {name: self._read(name) for name in self._prefixes}
        for ids, name in self._names.items():
            logger.info("prefix %s: %d virtual tokens", name, len(ids))
        if vllm.__version__.split("+")[0] != served["tested_with"]:
            logger.warning(
                "prefixes were tried with vLLM %s, this is %s, and KV connectors are an "
                "experimental part of it: compare answers with those of the training's project",
                served["tested_with"],
                vllm.__version__,
            )

    def _read(self, name: str) -> dict[str, torch.Tensor]:
        """Keys and values of a prefix, `keys.<layer>` and `values.<layer>`, `[heads, p, size]`."""
        about = self._prefixes[name]
        path = FOLDER / about["file"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != about["sha256"]:
            raise ValueError(
                f"{path}: is another file than the one that prefixes.json tells the placeholder "
                "ids of; write the folder again"
            )
        tensors = load_file(path)
        layers = self._vllm_config.model_config.hf_text_config.num_hidden_layers
        if sum(key.startswith("keys.") for key in tensors) != layers:
            raise ValueError(f"{path}: is of another model than this one of {layers} layers")
        return tensors

    # On the scheduler's side.

    def _prefix_of(self, ids: Sequence[int] | None) -> tuple[str, int] | None:
        """The prefix that a prompt begins with, and its virtual tokens."""
        for length in self._lengths:
            name = self._names.get(tuple((ids or ())[:length]))
            # vLLM computes a token at least: placeholders alone ask nothing.
            if name is not None and len(ids or ()) > length:
                return name, length
        return None

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """How many virtual tokens vLLM has not cached yet; they are loaded within the step."""
        found = self._prefix_of(request.prompt_token_ids)
        return (0 if found is None else max(0, found[1] - num_computed_tokens)), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note the slots that the virtual tokens have in each KV cache group."""
        found = self._prefix_of(request.prompt_token_ids)
        if num_external_tokens == 0 or found is None:
            return
        name, length = found
        tokens, slots = [], []
        for group, of_group in zip(self._groups, blocks.blocks, strict=True):
            size = group.kv_cache_spec.block_size
            at = range(length - num_external_tokens, length)
            # A block that a sliding window has left behind is the null block, of no request.
            kept = [i for i in at if not of_group[i // size].is_null]
            tokens.append(kept)
            slots.append([of_group[i // size].block_id * size + i % size for i in kept])
        self._pending.append(Load(name, tuple(tokens), tuple(slots)))

    def build_connector_meta(self, scheduler_output: Any) -> Loads:
        """What was noted since the last step."""
        loads, self._pending = Loads(self._pending), []
        return loads

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, None]:
        """Nothing of a finished request is kept here."""
        return False, None

    # On the worker's side.

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """Bring every prefix to where the caches lie, so that what does not fit ends the start."""
        layers = self._vllm_config.compilation_config.static_forward_context
        for group in self._groups:
            for layer_name in group.layer_names:
                for name in self._prefixes:
                    self._of_layer(name, layer_name, layers[layer_name])

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write the virtual tokens' keys and values, before the step runs."""
        for load in self._get_connector_metadata().loads:
            for group, tokens, slots in zip(self._groups, load.tokens, load.slots, strict=True):
                if not tokens:
                    continue
                for layer_name in group.layer_names:
                    layer = forward_context.no_compile_layers[layer_name]
                    keys, values = self._of_layer(load.name, layer_name, layer)
                    first, last = tokens[0], tokens[-1] + 1
                    where = torch.tensor(slots, dtype=torch.int64, device=keys.device)
                    layer.impl.do_kv_cache_update(
                        layer, keys[first:last], values[first:last], layer.kv_cache, where
                    )

    def _of_layer(
        self, name: str, layer_name: str, layer: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of this rank's heads, `[p, heads, size]`, where the cache lies."""
        known = self._written.setdefault(name, {})
        if layer_name not in known:
            rank, ranks = get_tensor_model_parallel_rank(), get_tensor_model_parallel_world_size()
            index, heads = extract_layer_index(layer_name), layer.num_kv_heads
            parts = []
            for what in ("keys", "values"):
                of_all = self._tensors[name][f"{what}.{index}"]
                # With more ranks than heads, several ranks have the same one.
                first = rank * heads if len(of_all) >= ranks else rank * len(of_all) // ranks
                part = of_all[first : first + heads].transpose(0, 1).contiguous()
                if tuple(part.shape[1:]) != (heads, layer.head_size):
                    raise ValueError(
                        f"prefix {name} is {tuple(of_all.shape)} in layer {index}, and the model "
                        f"has {heads} heads of size {layer.head_size} there: it is of another model"
                    )
                parts.append(part.to(layer.kv_cache.device, self._vllm_config.model_config.dtype))
            known[layer_name] = (parts[0], parts[1])
        return known[layer_name]

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All is written before the step runs."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""


class RefusePromptLogprobs(LogitsProcessor):
    """For `--logits-processors`: refuses `prompt_logprobs`, and `echo` with `logprobs`.

    For the log-probs of a prompt vLLM computes all of it and asks no connector: it would read the
    placeholders as words.
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError, which a client is told."""
        if sampling_params.skip_reading_prefix_cache:
            raise ValueError(
                "prompt_logprobs are not served beside prefixes: vLLM would read the placeholder "
                "tokens as words; leave prompt_logprobs (and echo with logprobs) out"
            )

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        """Nothing is kept."""

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits as they are."""
        return logits

    def is_argmax_invariant(self) -> bool:
        """They stay as they are."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Nothing is kept."""
