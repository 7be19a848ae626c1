"""Which variant comes first, where one is to come before the others."""

from pipeline.config import Params
from pipeline.errors import PipelineError
from pipeline.sweep.grid import sweep
from pipeline.sweep.variants import Variant
from pipeline.workspace import paths


def soonest_to_tell(params: Params) -> Variant:
    """The variant that shows first what a prefix can do, before anything is trained.

    It starts from a text that a person wrote for the task where one does, else from any text, else
    from what needs no other variant, and has the longest prefix: short trainings reach most there.
    """

    def rank(variant: Variant) -> tuple[bool, bool, bool, int]:
        start = params.initializations[variant.initialization]
        is_written = start.stands_in_context and start.path_is_users_own
        needs_another = start.path.startswith(f"{paths.TRAIN}/")
        return (needs_another, not is_written, not start.stands_in_context, -variant.length)

    return min(sweep(params), key=rank)


def variant_named(params: Params, name: str) -> Variant:
    """The variant of params.yaml of this name. Raises PipelineError when there is none."""
    known = {variant.name: variant for variant in sweep(params)}
    if name not in known:
        shown = ", ".join([*known][:8]) + (f", ... ({len(known)} in all)" if len(known) > 8 else "")
        raise PipelineError(f"'{name}' is no variant of params.yaml; use one of: {shown}")
    return known[name]
