"""A prefix that is trained among frozen ones of other documents, as they will be used together.

Prefixes that were trained alone answer near chance once they are composed: each learned to be all
that stands before its inputs. Trained now and then with others beside it, one learns to be found
among them (Cartridges at Scale, arXiv 2606.04557).
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.prefix.architecture.key_positions import KeyPositions
from pipeline.prefix.composition import one_after_another, positions_for, refuse_apart
from pipeline.prefix.errors import PrefixError
from pipeline.prefix.kv import KVPrefix
from pipeline.prefix.model import PrefixModel
from pipeline.prefix.parameters.config import PrefixConfig
from pipeline.prefix.parameters.encoder import PrefixEncoder


class AccompaniedPrefix:
    """The models in which a trained prefix stands among others, which take no gradient.

    Args:
        model: of the prefix that is trained; its encoder's parameters are those of every model
            given here, dropout and reparametrisation included.
        others: frozen prefixes that it can stand among, moved to the model's device.
        names: what errors call them.
        most: the most virtual tokens of them that stand beside it at once.

    Raises:
        PrefixError: where they cannot be composed with it (`pipeline.prefix.composition`).
    """

    def __init__(
        self, model: PrefixModel, others: Sequence[KVPrefix], names: Sequence[str], most: int
    ) -> None:
        own, config = model.kv_prefix(), model.prefix_config
        if own is None or config is None:
            raise PrefixError("the model has no prefix to train; make it with a PrefixConfig")
        refuse_apart([own, *others], ["the prefix that is trained", *names])
        self._model, self._config = model, config
        self._others = [kv.detached().to(model.device, torch.float32) for kv in others]
        with model.frozen() as frozen:
            self._positions = positions_for(frozen, len(own) + most)
        # Of each length the model that has room for it; what stands in it changes.
        self._models: dict[int, tuple[PrefixModel, _AccompaniedEncoder]] = {}

    def among(self, before: Sequence[int], after: Sequence[int]) -> PrefixModel:
        """The model whose inputs follow some of the others, the trained prefix, and more of them.

        It is the same object for every choice of one length, and as the last call left it.
        """
        first, last = ([self._others[i] for i in chosen] for chosen in (before, after))
        length = self._config.num_virtual_tokens + sum(map(len, [*first, *last]))
        if length not in self._models:
            self._models[length] = self._of_length(length)
        model, encoder = self._models[length]
        encoder.before, encoder.after = first, last
        return model.train(self._model.training)

    def detach(self) -> None:
        """Remove the hooks of these models from the frozen model."""
        for model, _ in self._models.values():
            model.detach()

    def _of_length(self, length: int) -> tuple[PrefixModel, "_AccompaniedEncoder"]:
        trained = self._model.encoder
        assert isinstance(trained, PrefixEncoder)
        config = replace(
            self._config,
            num_virtual_tokens=length,
            num_frozen_tokens=0,
            prefix_projection=False,
            encoder_hidden_size=None,
        )
        encoder = _AccompaniedEncoder(config, trained, self._positions)
        return PrefixModel(self._model.frozen_model, config, encoder), encoder


class _AccompaniedEncoder(PrefixEncoder):
    """Yields another encoder's prefix between frozen ones."""

    def __init__(
        self, config: PrefixConfig, trained: PrefixEncoder, positions: KeyPositions
    ) -> None:
        super().__init__(config, trained.shapes, {})
        self.trained = trained
        self.before: Sequence[KVPrefix] = ()
        self.after: Sequence[KVPrefix] = ()
        self._positions = positions

    @property
    def begins_at(self) -> int:
        return sum(map(len, self.before))

    def forward(self) -> KVPrefix:
        """The composition, with gradients to the trained one."""
        return self._among(self.trained())

    def given(self) -> KVPrefix:
        """The composition as the frozen model is given it, with the trained one's dropout."""
        return self._among(self.trained.given())

    def _among(self, kv: KVPrefix) -> KVPrefix:
        return one_after_another([*self.before, kv, *self.after], self._positions)
