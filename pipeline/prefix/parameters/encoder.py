"""Prefix encoders: the trainable modules that yield a prefix."""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.flat import Shapes, check_fit, flatten, kinds_of, unflattened
from pipeline.prefix.parameters.index import IndexKeys
from pipeline.prefix.parameters.states import StateParameters
from pipeline.prefix.states import StateShapes, index_of, layer_of


class PrefixEncoder(nn.Module):
    """What both encoders share: a flat start of every key and value, frozen first tokens, states.

    All parameters are float32, whatever the frozen model's dtype: steps of an optimizer are below
    the resolution of bfloat16. States (`states`) are parameters themselves in either encoder: they
    have no virtual tokens that an embedding could be of.
    """

    keeps_prefix_alone = True
    """Whether its prefix is all that is kept of it once it is trained; else its parameters are."""

    def __init__(
        self,
        config: PrefixConfig,
        shapes: Shapes,
        states: StateShapes,
        index: StateShapes | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.shapes = shapes
        self.width = sum(k[0] * k[1] + v[0] * v[1] for k, v in shapes)
        self.layers = config.layers
        self.parts: tuple[str, ...] | None = None
        self.states = StateParameters(states, config.init_weights) if states else None
        self.index = IndexKeys(config, index) if index else None

    @property
    def begins_at(self) -> int:
        """The virtual tokens that stand before those that it trains."""
        return 0

    @property
    def recurring(self) -> frozenset[int]:
        """The layers that it has states for."""
        if self.states is None:
            return frozenset()
        return frozenset(map(layer_of, (*self.states.shapes, *self.states.kept)))

    def flat(self) -> torch.Tensor:
        """All keys and values, `[p, width]` float32: for each layer its keys, then its values."""
        raise NotImplementedError

    def start_from(self, flat: torch.Tensor) -> None:
        """Make `flat` `[p, width]` what the encoder yields, exactly."""
        raise NotImplementedError

    def forward(self) -> KVPrefix:
        """The prefix of the current parameters, with gradients."""
        keys, values = unflattened(self.flat(), self.shapes) if self.shapes else ((), ())
        states = {} if self.states is None else self.states()
        states |= {} if self.index is None else self.index()
        return KVPrefix(
            keys,
            values,
            layers=self.layers,
            parts=self.parts,
            states=states,
            length=self.config.num_virtual_tokens,
        )

    def given(self) -> KVPrefix:
        """The prefix as the frozen model is given it: in training with `prefix_dropout`."""
        kv: KVPrefix = self()
        drop = self.config.prefix_dropout
        if not (self.training and drop):
            return kv
        return replace(
            kv,
            keys=tuple(F.dropout(key, drop) for key in kv.keys),
            values=tuple(F.dropout(value, drop) for value in kv.values),
        )

    def chosen_of(self, kv: KVPrefix) -> KVPrefix:
        """What of a prefix the configuration's `layers` and `kinds` ask for.

        Raises PrefixError for one that lacks some of it.
        """
        kinds = kinds_of(self.shapes, self.states)
        if kv.kinds != kinds:
            kv = kv.of_kinds(kinds)
        return kv if self.config.layers is None else kv.of_layers(self.config.layers)

    def load(self, kv: KVPrefix) -> None:
        """Start from a prefix, of which the configuration's `layers` and `kinds` are taken.

        Raises PrefixError when it has another length or other shapes.
        """
        had = kv.kinds
        kv = self.chosen_of(kv)
        if self.config.layers is None and kv.layers != self.layers:
            if kv.layers is None:
                raise PrefixError(
                    "the prefix is for every layer, the model attends in "
                    f"{list(self.layers or ())} alone; it was made for another model"
                )
            if "state" in had and self.layers is None:
                raise PrefixError(
                    f"the prefix has states, and keys and values for layers {list(kv.layers)} "
                    "alone, where the model attends in every layer; it was made for another model"
                )
            raise PrefixError(
                f"the prefix is for layers {list(kv.layers)} alone; say so in the configuration"
            )
        check_fit(kv, self.shapes)
        if len(kv) != self.config.num_virtual_tokens:
            # A state stands for its whole text: no shorter prefix can be cut from it.
            shorten = "slice it (kv[:p])" if self.states is None else "compute it anew"
            raise PrefixError(
                f"the prefix has {len(kv)} virtual tokens, the model's configuration "
                f"{self.config.num_virtual_tokens}; {shorten} or change num_virtual_tokens"
            )
        index = index_of(kv.states)
        if self.states is not None:
            self.states.load({n: s for n, s in kv.states.items() if n not in index})
        if self.index is not None:
            self.index.load(index)
        if self.shapes:
            with torch.no_grad():
                self.start_from(flatten(kv))


class FlatEncoder(PrefixEncoder):
    """The keys and values themselves are the parameters, as PEFT's without projection."""

    def __init__(
        self,
        config: PrefixConfig,
        shapes: Shapes,
        states: StateShapes,
        index: StateShapes | None = None,
    ) -> None:
        super().__init__(config, shapes, states, index)
        if not shapes:
            for name in ("num_frozen_tokens", "prefix_dropout", "prefix_always_visible"):
                if given := getattr(config, name):
                    raise PrefixError(
                        f"{name} is {given}; it is of keys and values, of which this prefix has "
                        f"none: leave it {type(given)()}"
                    )
            return
        frozen, p = config.num_frozen_tokens, config.num_virtual_tokens
        start = torch.zeros(p, self.width)
        if config.init_weights is None:
            # PEFT starts from torch.nn.Embedding's default, a standard normal distribution.
            start.normal_()
        self.register_buffer("sink", start[:frozen].clone())
        self.embedding = nn.Parameter(start[frozen:].clone())

    def flat(self) -> torch.Tensor:
        if self.config.num_frozen_tokens == 0:
            return self.embedding
        return torch.cat([self.get_buffer("sink"), self.embedding])

    def start_from(self, flat: torch.Tensor) -> None:
        frozen = self.config.num_frozen_tokens
        self.get_buffer("sink").copy_(flat[:frozen])
        self.embedding.copy_(flat[frozen:])


class MLPEncoder(PrefixEncoder):
    """An embedding and a two-layer MLP yield the prefix (Li and Liang 2021, section 4.3).

    Started from a given prefix, the encoder yields that prefix plus the difference that training
    makes to the MLP's output: zero at first, so that the start is exact, which an MLP fitted to
    the given keys and values would not be.
    """

    def __init__(
        self,
        config: PrefixConfig,
        shapes: Shapes,
        states: StateShapes,
        hidden_size: int,
        index: StateShapes | None = None,
    ) -> None:
        super().__init__(config, shapes, states, index)
        if not shapes:
            raise PrefixError(
                "prefix_projection reparametrises keys and values, of which this prefix has none; "
                "leave it false"
            )
        p = config.num_virtual_tokens
        inner = config.encoder_hidden_size or hidden_size
        self.embedding = nn.Embedding(p, hidden_size)
        self.transform = nn.Sequential(
            nn.Linear(hidden_size, inner), nn.Tanh(), nn.Linear(inner, self.width)
        )
        self.register_buffer("offset", torch.zeros(p, self.width))
        if config.init_weights == "zero":
            self._silence_last_layer()

    def flat(self) -> torch.Tensor:
        moved = self.transform(self.embedding.weight)
        frozen = self.config.num_frozen_tokens
        if frozen:
            keep = torch.ones(len(moved), 1, device=moved.device)
            keep[:frozen] = 0
            moved = moved * keep
        return self.get_buffer("offset") + moved

    def start_from(self, flat: torch.Tensor) -> None:
        self.get_buffer("offset").copy_(flat)
        self._silence_last_layer()

    def _silence_last_layer(self) -> None:
        last = self.transform[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


class NoEncoder(nn.Module):
    """The encoder of an empty prefix: it yields none and trains nothing."""

    def forward(self) -> None:
        """No prefix."""

    def given(self) -> None:
        """No prefix."""

    def load(self, kv: KVPrefix) -> None:
        """Raise PrefixError: there is nothing to load into."""
        self.chosen_of(kv)

    def chosen_of(self, kv: KVPrefix) -> KVPrefix:
        """Raise PrefixError as `load` does."""
        raise PrefixError(
            f"the model has no prefix that could start from one of {len(kv)} virtual tokens; make "
            f"it with PrefixConfig(num_virtual_tokens={len(kv)})"
        )


def build_encoder(
    config: PrefixConfig,
    shapes: Shapes,
    hidden_size: int,
    states: StateShapes | None = None,
    index: StateShapes | None = None,
) -> PrefixEncoder:
    """The encoder that a configuration asks for, of these keys, values, states and index keys."""
    if config.prefix_projection:
        return MLPEncoder(config, shapes, states or {}, hidden_size, index)
    return FlatEncoder(config, shapes, states or {}, index)
