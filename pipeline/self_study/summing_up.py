"""A summary of a corpus: a short one of each chunk, one after another in the corpus' order."""

from pipeline.errors import PipelineError
from pipeline.self_study.kept import KeptChunks
from pipeline.self_study.plan import Plan
from pipeline.self_study.writing import Sampling, Writer


def sum_up(plan: Plan, index: int, writer: Writer, kept: KeptChunks) -> None:
    """Write and keep a chunk's summary, where there are to be some and it is not kept yet."""
    share, settings = plan.summary_share, plan.settings
    if not share or kept.load_summary(index, share) is not None:
        return
    sampling = Sampling(settings.answer_temperature, settings.top_p, share)
    requests = [plan.summary_request(index)]
    (written,) = writer.write(plan.chunks[index].context, requests, sampling)
    kept.save_summary(index, share, " ".join(written.text.split()))


def summary(plan: Plan, kept: KeptChunks) -> str:
    """The summaries of all chunks, a line each; one that came to nothing has none.

    What the last token allowed cut off stays: it is a part of what a reader pays for.
    """
    share = plan.summary_share
    if not share:
        return ""
    lines = []
    for index in range(len(plan.chunks)):
        text = kept.load_summary(index, share)
        if text is None:
            raise PipelineError(
                f"{kept.folder}: a finished chunk's summary is gone or damaged; run the stage again"
            )
        lines.append(text)
    return "".join(f"{line}\n" for line in lines if line)
