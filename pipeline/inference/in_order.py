"""Answers to many inputs, computed together and given in the order of the inputs."""

from collections import deque
from collections.abc import Iterator, Sequence

from pipeline.data.conversation import Turns
from pipeline.inference.continuations import Batch, Continuation
from pipeline.inference.decoding import Decoding
from pipeline.inference.generator import TextGenerator
from pipeline.models.room import refuse_without_room


def answers_in_order(
    generator: TextGenerator,
    asked: Sequence[str | Turns],
    decoding: Decoding,
    max_tokens: int,
    together: int | None = None,
) -> Iterator[str]:
    """The answer to each input as soon as it and all before it are there.

    One that has ended makes room for the next. Those computed at once have up to `max_tokens`
    tokens of cache and are `together` at the most; one alone may have more. What packed rows do not
    serve is computed one by one.

    Raises PipelineError, before any work, for an input without room in the model's context.
    """
    prompts = [generator.prompt_ids(each) for each in asked]
    for prompt in prompts:
        refuse_without_room(generator.model, len(prompt), decoding.max_new_tokens)
    longest = max(map(len, prompts), default=0) + decoding.max_new_tokens
    if together == 1 or not generator.is_packed(longest):
        yield from (generator.answer(prompt, decoding) for prompt in prompts)
        return
    batch: Batch[Continuation] = Batch(generator.model.frozen_model)
    stem = generator.stem()
    texts = [Continuation(stem, prompt, decoding, generator.ends) for prompt in prompts]
    waiting, unfinished = deque(texts), deque(texts)
    most = together or len(texts)
    while unfinished:
        joining: list[Continuation] = []
        while waiting and len(batch.running) + len(joining) < most:
            tokens = batch.cached_tokens + sum(each.cached_tokens for each in joining)
            if (batch.running or joining) and tokens + waiting[0].cached_tokens > max_tokens:
                break
            joining.append(waiting.popleft())
        with batch.at_work():
            if joining:
                batch.begin(joining)
            # Until one ends, which makes room.
            count = len(batch.running)
            while batch.running and len(batch.running) == count:
                batch.step()
        running, begun = set(batch.running), len(texts) - len(waiting)
        while unfinished and len(texts) - len(unfinished) < begun and unfinished[0] not in running:
            yield generator.text_of(unfinished.popleft().tokens)
