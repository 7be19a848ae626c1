"""An input with a tiny image, found by trying the kinds of image that models of transformers take.

How many tokens stand for an image depends on a processor, which a random model has none of: the
number is found as well, as the one that the model does not refuse.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.census.attempts import NotMeasuredError
from benchmarks.census.configurations import IMAGE_TOKEN, ORDINARY

ROWS, _BEFORE, _AFTER = 2, 3, 5
_MOST_TOKENS = 16

Inputs = dict[str, torch.Tensor]


def with_image(model: PreTrainedModel) -> tuple[torch.Tensor, Inputs]:
    """Ids `[2, tokens]` with an image in each row, and what goes with them.

    Raises NotMeasuredError when the model runs with none of the kinds that are known here.
    """
    takes = inspect.signature(model.forward).parameters.keys()
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(ORDINARY.start, ORDINARY.stop, (ROWS, _BEFORE + _AFTER), generator=draw)
    last = "it takes no pixel_values"
    for kind in KINDS:
        for inputs in kind(model.config, draw):
            if not inputs.keys() <= takes:
                continue
            for number in range(1, _MOST_TOKENS + 1):
                ids = _around_image(tokens, _image_token(model), number)
                given = {**inputs, **_per_token(ids, _image_token(model), takes)}
                try:
                    if _depends_on_pixels(model, ids, given):
                        return ids, given
                    last = "its logits do not depend on the pixels"
                except Exception as error:  # the next kind or number may be right
                    last = " ".join(str(error).split())[:150]
    raise NotMeasuredError(last)


@torch.no_grad()
def _depends_on_pixels(model: PreTrainedModel, ids: torch.Tensor, given: Inputs) -> bool:
    logits = model(input_ids=ids, **given).logits
    # The images of the rows exchanged: a model may normalise away their size.
    others = {**given, "pixel_values": given["pixel_values"].flip(0)}
    return bool((logits - model(input_ids=ids, **others).logits).abs().max() > 1e-3)


def _image_token(model: PreTrainedModel) -> int:
    token = getattr(model.config, "image_token_id", None)
    return IMAGE_TOKEN if token is None else int(token)


def _around_image(tokens: torch.Tensor, image: int, number: int) -> torch.Tensor:
    between = torch.full((ROWS, number), image)
    return torch.cat([tokens[:, :_BEFORE], between, tokens[:, _BEFORE:]], 1)


def _per_token(ids: torch.Tensor, image: int, takes: Any) -> Inputs:
    """What a model is told of each token: whether it is of an image, and which sees which."""
    given = {}
    if "cross_attention_mask" in takes:
        given["cross_attention_mask"] = torch.ones(*ids.shape, 1, 1, dtype=torch.long)
    types = next((name for name in ("mm_token_type_ids", "token_type_ids") if name in takes), None)
    return given | ({} if types is None else {types: (ids == image).long()})


def _vision(config: Any) -> Any:
    return getattr(config, "vision_config", None) or config


def _side(config: Any) -> int:
    return _number(getattr(_vision(config), "image_size", None) or 16)


def _number(size: Any) -> int:
    """Of a size that may be given for each side."""
    return int(size[0] if isinstance(size, list | tuple) else size)


def _on_a_grid(config: Any, draw: torch.Generator) -> list[Inputs]:
    """Patches of all images in one list (Qwen2-VL and its kin), flat or as squares."""
    vision = _vision(config)
    patch = _number(getattr(vision, "patch_size", 4))
    channels = _number(getattr(vision, "in_channels", None) or getattr(vision, "num_channels", 3))
    frames = _number(getattr(vision, "temporal_patch_size", 1))
    grid = torch.tensor([[1, 4, 4]] * ROWS)
    shapes = [(channels * frames * patch**2,), (channels, patch, patch)]
    return [
        {"pixel_values": torch.randn(ROWS * 16, *shape, generator=draw), "image_grid_thw": grid}
        for shape in shapes
    ]


def _of_a_size(config: Any, draw: torch.Generator) -> list[Inputs]:
    """Images of several sizes (Pixtral), or in parts of one size (LLaVA-NeXT)."""
    side = _side(config)
    sizes = torch.tensor([[min(side, 16)] * 2] * ROWS)
    shapes = [(3, min(side, 16), min(side, 16)), (1, 3, side, side), (2, 3, side, side)]
    return [
        {"pixel_values": torch.randn(ROWS, *shape, generator=draw), "image_sizes": sizes}
        for shape in shapes
    ]


def _with_mask(config: Any, draw: torch.Generator) -> list[Inputs]:
    """Several images a row, with a mask of their pixels (Idefics)."""
    side = _side(config)
    pixels = torch.randn(ROWS, 1, 3, side, side, generator=draw)
    mask = torch.ones(ROWS, 1, side, side, dtype=torch.bool)
    return [{"pixel_values": pixels, "pixel_attention_mask": mask}]


def _with_places(config: Any, draw: torch.Generator) -> list[Inputs]:
    """Patches with the place of each (Gemma 4)."""
    patch = _number(getattr(_vision(config), "patch_size", 4))
    pixels = torch.randn(ROWS, 16, 3 * patch**2, generator=draw).sigmoid()
    places = torch.tensor([[at % 4, at // 4] for at in range(16)]).expand(ROWS, -1, -1).clone()
    return [{"pixel_values": pixels, "image_position_ids": places}]


def _with_aspect_ratio(config: Any, draw: torch.Generator) -> list[Inputs]:
    """Images in tiles, of which attention across sees each (Llama 3.2)."""
    side = _side(config)
    ones = torch.ones(ROWS, 1, dtype=torch.long)
    return [
        {
            "pixel_values": torch.randn(ROWS, 1, 1, 3, side, side, generator=draw),
            "aspect_ratio_ids": ones,
            "aspect_ratio_mask": ones[:, None],
        }
    ]


def _plain(config: Any, draw: torch.Generator) -> list[Inputs]:
    """One image a row, in one piece or in parts."""
    side = _side(config)
    shapes = [(3, side, side), (1, 3, side, side)]
    return [{"pixel_values": torch.randn(ROWS, *shape, generator=draw)} for shape in shapes]


KINDS: tuple[Callable[[Any, torch.Generator], list[Inputs]], ...] = (
    *(_on_a_grid, _with_places, _with_aspect_ratio, _with_mask, _of_a_size),
    _plain,
)
"""Those that say most of an image first, for a model may run without what it should be told."""
