"""What transformers' Trainer and its collators ask of a model, answered for a frozen one.

They read the columns and the labels of a data set from the signature of `forward` and the name of
its class, save and load a state dict, and set gradient checkpointing. A model that they take for
the frozen one in all of this trains and saves the prefix alone.
"""

import inspect
from functools import cache
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from pipeline.prefix.errors import PrefixError
from pipeline.prefix.injection.replay import recompute_context

# What is asked about the model itself. Not whether it is quantized: the Trainer refuses to train
# weights that are, and no weight of the frozen model is trained.
_OF_THE_FROZEN_MODEL = (
    *(
        "accepts_loss_kwargs",
        "dtype",
        "hf_device_map",
        "loss_type",
        "main_input_name",
        "name_or_path",
    ),
    *("is_activation_checkpointing", "is_gradient_checkpointing", "quantization_method"),
    *("prepare_decoder_input_ids_from_labels", "can_generate"),
)


class TrainerModel(nn.Module):
    """A module around a `frozen_model` that transformers' Trainer takes for a model of its own."""

    frozen_model: PreTrainedModel
    _saves_frozen_model: bool

    def __init__(self, frozen_model: PreTrainedModel, saves_frozen_model: bool) -> None:
        super().__init__()
        # The Trainer asks the class, not the object, which of its arguments are labels.
        kind: Any = type(frozen_model)
        self.__class__ = _class_of(_plain(type(self)), kind)
        self.frozen_model = frozen_model
        self._saves_frozen_model = saves_frozen_model
        self.register_state_dict_post_hook(_without_frozen_model)
        self.register_load_state_dict_pre_hook(_with_frozen_model)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_FROZEN_MODEL and "frozen_model" in self.__dict__.get("_modules", {}):
            return getattr(self.frozen_model, name)
        return super().__getattr__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        # The class was made on the way: it has no name to be found under.
        return _restored, (_plain(type(self)), type(self.frozen_model)), self.__dict__

    def _get_name(self) -> str:
        # By this name the Trainer's label smoothing knows that a causal model's labels shift.
        return type(self.frozen_model).__name__

    @property
    def generation_config(self) -> Any:
        """The frozen model's settings of `generate`."""
        return self.frozen_model.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        self.frozen_model.generation_config = value

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **how: Any
    ) -> None:
        """Keep no activations inside layers; effective in training mode.

        Arguments are those of transformers (`every_n_layers`, `offload`); a layer is recomputed
        with the prefix that its forward pass had. Raises PrefixError for reentrant checkpointing,
        which recomputes without it, and for a `context_fn`, which is the prefix's way in.
        """
        given = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        if given["use_reentrant"] or "context_fn" in given:
            raise PrefixError(
                "activation_checkpointing_kwargs: use_reentrant=True and context_fn would "
                "recompute layers without the prefix; leave both out"
            )
        given["context_fn"] = recompute_context
        self.frozen_model.activation_checkpointing_enable(
            activation_checkpointing_kwargs=given, **how
        )

    def activation_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self.frozen_model.activation_checkpointing_disable()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **how: Any
    ) -> None:
        """`activation_checkpointing_enable` by its older name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **how)

    def gradient_checkpointing_disable(self) -> None:
        """`activation_checkpointing_disable` by its older name."""
        self.activation_checkpointing_disable()


@cache
def _class_of(plain: Any, frozen: Any) -> type[Any]:
    """A subclass of `plain` whose `forward` says that it takes what the frozen model's takes."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return plain.forward(self, *args, **kwargs)

    forward.__doc__ = plain.forward.__doc__
    forward.__signature__ = inspect.signature(frozen.forward)  # type: ignore[attr-defined]
    # "QuestionAnswering" in the name tells that positions are labels.
    name = f"{plain.__name__}Of{frozen.__name__}"
    return type(name, (plain,), {"forward": forward, "_plain": plain})


def _plain(kind: Any) -> Any:
    return getattr(kind, "_plain", kind)


def _restored(plain: Any, frozen: Any) -> Any:
    return object.__new__(_class_of(plain, frozen))


def _without_frozen_model(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, _: dict[str, Any]
) -> None:
    """Of what is saved, drop the frozen model's weights, which are elsewhere and stay as they are.

    Tied ones among them could not be saved as safetensors either.
    """
    if module._saves_frozen_model:
        return
    for key in [key for key in state_dict if key.startswith(f"{prefix}frozen_model.")]:
        del state_dict[key]


def _with_frozen_model(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """What is loaded leaves the frozen model's weights as they are, missing or not."""
    if module._saves_frozen_model:
        return
    start = f"{prefix}frozen_model."
    for key in [key for key in state_dict if key.startswith(start)]:
        del state_dict[key]
    own = module.get_submodule("frozen_model").state_dict()
    state_dict.update({f"{start}{key}": tensor for key, tensor in own.items()})
