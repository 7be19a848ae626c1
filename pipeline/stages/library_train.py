"""Stages `library_alone` and `library_among`: one document's prefix, the second beside others."""

import shutil
from pathlib import Path
from typing import Literal

import torch

from pipeline.config import Params
from pipeline.config.library import LibraryParams
from pipeline.data.beginning import following
from pipeline.data.rendering import Renderer
from pipeline.data.rows import rows_of
from pipeline.data.splits import load_split
from pipeline.errors import DivergedError
from pipeline.library.start import document_start
from pipeline.loss.for_model import loss_columns
from pipeline.models.shared import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.models.trainable import prefix_config
from pipeline.prefix import KVPrefix, PrefixModel
from pipeline.prefix.composition import composed
from pipeline.prefix.packed.backends import use_backend
from pipeline.preflight.names import check_document
from pipeline.storage.atomic import atomic_folder
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.digest import digest_of_training
from pipeline.training.distractors import Distractors
from pipeline.training.divergence import in_section
from pipeline.training.left_out import LeftOut
from pipeline.training.loop import train_prefix
from pipeline.training.results import write_results
from pipeline.workspace import location, paths
from pipeline.workspace.checkpoints import checkpoint_name, document_name, remove_checkpoints

Round = Literal["alone", "among"]
_PREFIX = "prefix.safetensors"


def run(params: Params, name: str, of: Round) -> None:
    """Write data/library/<round>/<name>: the prefix, the loss history, what training came to.

    In the round `among` prefixes of other documents, as `alone` left them, stand beside it in some
    steps. Without any the prefix that was trained alone is taken as it is.
    """
    check_document(params, name)
    library = params.library
    alone = paths.LIBRARY_ALONE / name
    if of == "among" and not library.distractors.count:
        with atomic_folder(paths.LIBRARY_AMONG / name) as folder:
            shutil.copytree(alone, folder, dirs_exist_ok=True)
        print(f"{name}: as it was trained alone, since library.distractors.count is 0")
        return
    use_backend(params.hardware.attention)
    torch.manual_seed(library.prefix.seed)
    frozen = load_frozen_model(paths.MODEL, library.train, params.device_map)
    model = PrefixModel(frozen, prefix_config(library.prefix.encoder, library.prefix.length, ()))
    if of == "among" and library.distractors.start == "alone":
        start = KVPrefix.load(alone / _PREFIX)
    else:
        renderer = Renderer(params.task, load_tokenizer(paths.MODEL))
        start = document_start(library, name, frozen, renderer)
    if library.prefix.kinds is not None:
        start = start.of_kinds(tuple(library.prefix.kinds))
    # Said before any training: what cannot stand beside others is of no use in a library.
    composed(frozen, [start, start], [name, name])
    model.load_kv_prefix(start)
    tokenized = paths.LIBRARY_TOKENIZED / name
    train, validation = (
        following(load_split(tokenized, split), model.begins_text)
        for split in ("train", "validation")
    )
    others = _others(library, name) if of == "among" else {}
    distractors = None
    if others:
        longest = int(rows_of(train, loss_columns(train)).tokens.max())
        kvs = {other: KVPrefix.load(path) for other, path in others.items()}
        drawn, seed = library.distractors.drawn, library.prefix.seed
        distractors = Distractors(model, kvs, drawn, seed, longest, "library.distractors")
    checkpoints = _checkpoints(params, name, of, start, others)
    with checkpoints.locked():
        try:
            result = train_prefix(
                *(model, train, validation, library.train, library.prefix.seed, lambda *_: None),
                checkpoints,
                params.memory.max_tokens_per_batch,
                beside=None if distractors is None else distractors.model_of,
                left_out=LeftOut(
                    len(start),
                    library.prefix.token_dropout,
                    library.prefix.num_frozen_tokens,
                    library.prefix.seed,
                ),
            )
        except DivergedError as error:
            raise in_section(error, {"train.": "library.train."}) from error

        def save(aside: Path) -> None:
            result.prefix.save(aside / _PREFIX)

        folder = paths.LIBRARY_ALONE if of == "alone" else paths.LIBRARY_AMONG
        write_results(folder / name, model, result, len(train), save)
    if distractors is not None:
        distractors.detach()
    model.detach()
    if not location.is_temporary():
        # Its own stay until the measurement: DVC has yet to take the outputs over.
        kept = checkpoints.folder
        remove_checkpoints(kept.parent, document_name(of, name), keep=kept.name)


def _others(library: LibraryParams, name: str) -> dict[str, Path]:
    return {
        other: paths.LIBRARY_ALONE / other / _PREFIX
        for other in sorted(library.documents)
        if other != name
    }


def _checkpoints(
    params: Params, name: str, of: Round, start: KVPrefix, others: dict[str, Path]
) -> CheckpointFolder:
    library = params.library
    settings = {
        "document": name,
        "round": of,
        "train": library.train.model_dump(),
        "prefix": library.prefix.model_dump(),
        "distractors": library.distractors.model_dump() if others else None,
    }
    inputs = [paths.MODEL, paths.LIBRARY_TOKENIZED / name]
    digest = digest_of_training(settings, start, inputs, others, f"library_{of}")
    folder = location.home() / paths.CHECKPOINTS
    folder /= checkpoint_name(document_name(of, name), digest)
    return CheckpointFolder(folder, digest, params.checkpoints.every_steps)
