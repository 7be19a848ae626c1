"""A frozen model with hooks through which it sees a prefix: its forward, and generation."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import torch
from transformers import Cache, PreTrainedModel

from pipeline.prefix.architecture.context import refuse_beyond_context
from pipeline.prefix.architecture.devices import input_device
from pipeline.prefix.architecture.parts import (
    Place,
    chosen_places,
    is_decoder_only,
    parts_of,
    places_of,
    shapes_of,
    takes,
)
from pipeline.prefix.architecture.shapes import CacheShapes, cache_shapes, chosen_shapes
from pipeline.prefix.architecture.turns import turn_of
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.causal import CausalInjection
from pipeline.prefix.injection.heads import HeadInjection
from pipeline.prefix.injection.hiding import hidden_tokens, layers_left_out
from pipeline.prefix.injection.hooks import Injection
from pipeline.prefix.injection.parts import PartInjection
from pipeline.prefix.injection.replay import replayed_within
from pipeline.prefix.packed_model import PackedModel
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.encoder import PrefixEncoder, build_encoder
from pipeline.prefix.parameters.flat import Shapes
from pipeline.prefix.parameters.heads import TrainedModules
from pipeline.prefix.states import StateShapes


class InjectedModel(PackedModel):
    """A frozen model that sees a prefix while this object's `forward` or `generate` runs."""

    def __init__(
        self,
        frozen_model: PreTrainedModel,
        config: PrefixConfig | None = None,
        encoder: PrefixEncoder | None = None,
    ) -> None:
        # Without a prefix it is the model itself that is trained.
        super().__init__(frozen_model, config)
        self.parts: tuple[str, ...] = ()
        self._places: list[Place] | None = None
        self._injection = Injection(frozen_model)
        if config is not None:
            self._inject(config, encoder)
        modules = () if config is None else config.modules_to_save
        self.heads = TrainedModules(frozen_model, modules)
        self._head_injection = HeadInjection(frozen_model, self.heads)

    def _inject(self, config: PrefixConfig, encoder: PrefixEncoder | None) -> None:
        """Build the encoder that a configuration asks for, and what brings its prefix in."""
        model = self.frozen_model.requires_grad_(False).eval()
        self.parts = parts_of(model, config.parts)
        places: list[Place] = []
        if is_decoder_only(model):
            chosen = chosen_shapes(self.cache_shapes, config)
        else:
            if "state" in (config.kinds or ()):
                raise PrefixError("kinds names 'state', but a model with an encoder has none")
            self._places = places_of(model, self.parts)
            places = chosen_places(self._places, config.layers)
            chosen = CacheShapes(0, dict(enumerate(shapes_of(places))), layers=config.layers)
        refuse_beyond_context(config.num_virtual_tokens, model)
        if encoder is None:
            hidden_size = model.config.get_text_config().hidden_size
            encoder = build_encoder(config, chosen.kv, hidden_size, chosen.states, chosen.index)
        encoder = encoder.to(self.device)
        encoder.layers = chosen.layers
        if self._places is None:
            self._injection = CausalInjection(model, config, self.cache_shapes, encoder.given)
        else:
            encoder.parts = tuple(place.part for place in places)
            self._injection = PartInjection(
                model, self._places, config.layers, encoder.given, config.prefix_always_visible
            )
        self.encoder = encoder

    @cached_property
    def cache_shapes(self) -> CacheShapes:
        """What the model caches layer by layer, or the keys and values of a prefix's places."""
        if self._places is None:
            return cache_shapes(self.frozen_model)
        shapes = shapes_of(self._places)
        return CacheShapes(len(shapes), dict(enumerate(shapes)))

    @property
    def kv_shapes(self) -> Shapes:
        """For each place of a prefix `(num_kv_heads, head_dim)` of keys and of values."""
        return self.cache_shapes.kv

    @property
    def state_shapes(self) -> StateShapes:
        """Of each state of the model's recurrent layers its shape, by names as in `KVPrefix`."""
        return self.cache_shapes.states

    @property
    def device(self) -> torch.device:
        """Where inputs go and the prefix's parameters are: where the frozen model begins."""
        return input_device(self.frozen_model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The frozen model's own forward and output class, with the prefix before the input.

        `input_ids` and `attention_mask` are `[batch, tokens]` of the input alone, padded on either
        side; `position_ids`, where given, count from the input's first token.

        Where one pass with padding before a row is not what that row is alone, as on every model
        whose layers recur, rows with equal padding are computed together and without it: a pass for
        each length, and zeros in the place of padding. Raises PrefixError for what there is none of
        then, such as attention weights.
        """
        if self._recomputes and takes(self.frozen_model, "use_cache"):
            # A layer that appends to a cache would append twice.
            kwargs["use_cache"] = False
        with self._injected():
            return self.frozen_model(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Training mode of what is trained: with a prefix the frozen model stays as it is."""
        if self.prefix_config is None:
            return super().train(mode)
        self.training = mode
        for module in self.children():
            # Others may be at work with it, and would meet its dropout.
            if module is not self.frozen_model:
                module.train(mode)
        return self

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The frozen model's own `generate`, with the prefix before the input.

        A batch is read as by `forward`, and then decoded in one pass a token, but for models that
        count places in their cache, which take one for each length.
        """
        with self._injected():
            cached = self.prefix_length and kwargs.setdefault("use_cache", True)
            if cached and self._injection.through_cache:
                self._injection.go_on(
                    kwargs.setdefault(self._injection.cache_name, self.new_cache())
                )
            return self.frozen_model.generate(*args, **kwargs)

    @property
    def pads_exactly(self) -> bool:
        """Whether one pass with padding before a row leaves the prefix what the text would be."""
        with turn_of(self.frozen_model):
            return self._injection.pads_exactly()

    @property
    def hidden(self) -> torch.Tensor | None:
        """Which virtual tokens are hidden in this thread, boolean `[places, p]`: see `without`."""
        return self._injection.hidden

    @contextmanager
    def without(
        self,
        tokens: Collection[int] | None = None,
        places: Collection[int] | None = None,
        states: Collection[int] | None = None,
    ) -> Iterator[None]:
        """Within it no query of this thread attends to some virtual tokens, in some layers.

        They are hidden as by the attention's mask: all else stands where it stood, an input after
        p tokens. Without `tokens` all of them, without `places` everywhere; places count as the
        keys of `kv_prefix` do. `states` are layers that recur from nothing meanwhile, as at the
        start of a text; given alone they are all that is hidden, and where nothing is given, all
        layers are among them.

        Raises PrefixError for a token, place or state that the prefix has not.
        """
        encoder = self.encoder
        count = len(encoder.shapes) if isinstance(encoder, PrefixEncoder) else 0
        recurring = encoder.recurring if isinstance(encoder, PrefixEncoder) else frozenset()
        hidden = hidden_tokens(count, self.prefix_length, tokens, places, states)
        left_out = layers_left_out(recurring, states, tokens is None and places is None)
        with self._injection.hiding(hidden, left_out):
            yield

    @contextmanager
    def _injected(self) -> Iterator[None]:
        """The frozen model with the prefix, layers to be recomputed included."""
        replayed = replayed_within(self._injection.recompute_context)
        with (
            # Before the prefix is read, which another thread may be loading.
            turn_of(self.frozen_model),
            self._injection.active(),
            self._without_dropout(),
            self._head_injection.active(),
            replayed,
        ):
            yield

    @property
    def cache_name(self) -> str:
        """The argument that takes a cache: `past_key_values`, `cache_params` of Mamba's kin."""
        return self._injection.cache_name

    def new_cache(self) -> Cache | None:
        """An empty growing cache after the prefix, to pass as `cache_name` from call to call.

        None where the prefix is in the parts of an encoder-decoder, which makes its own.
        """
        return self._injection.new_cache()

    @contextmanager
    def frozen(self) -> Iterator[PreTrainedModel]:
        """The frozen model without any trace of this prefix, its hooks removed meanwhile.

        Calls of other threads wait.
        """
        with turn_of(self.frozen_model):
            self.detach()
            try:
                yield self.frozen_model
            finally:
                self._injection.attach()
                self._head_injection.attach()

    def detach(self) -> None:
        """Remove this prefix's hooks from the frozen model; the next call adds them again."""
        self._injection.detach()
        self._head_injection.detach()
