"""Stage `in_context`: the first tokens of an initialisation's text in the context, untrained."""

from pipeline.baselines.in_context import text_stored
from pipeline.config import Params
from pipeline.evaluation.measure import measure_splits
from pipeline.models.first_tokens import first_tokens
from pipeline.models.prefixed import prefixed_model
from pipeline.models.shared import load_frozen_model
from pipeline.models.tokenizer import load_tokenizer
from pipeline.prefix.packed.backends import use_backend
from pipeline.sweep.baselines import IN_CONTEXT, Baseline
from pipeline.tracking.evaluation_log import log_baseline
from pipeline.tracking.store import never_fatal
from pipeline.workspace import paths


def run(params: Params, length: int, initialization: str) -> None:
    """Write data/evaluate/in_context_<initialization>-len<length>.

    The KV cache of a text as a prefix gives the logits of the text in the context: this is where
    the variants of that length and initialisation start, if they train all layers and kinds of it.
    """
    use_backend(params.hardware.attention)
    baseline = Baseline(IN_CONTEXT + initialization, length=length)
    frozen = load_frozen_model(paths.MODEL, params.evaluate, params.device_map)
    kv = first_tokens(paths.KV_PREFIX / initialization, length, frozen)
    model = prefixed_model(frozen, kv)
    measure_splits(
        model,
        load_tokenizer(paths.MODEL),
        params.evaluate,
        folder=paths.EVALUATE / baseline.name,
        max_tokens=params.memory.max_tokens_per_batch,
        stored=text_stored(length),
    )
    model.detach()
    with never_fatal("log the baseline"):
        log_baseline(params, baseline)
