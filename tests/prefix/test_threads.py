"""Requests side by side: each gets what it gets alone, whatever threads and prefixes share."""

import copy
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from pipeline.config.task import TaskParams
from pipeline.inference.generator import Decoding, TextGenerator
from pipeline.prefix import (
    KVPrefix,
    PrefixConfig,
    PrefixModel,
    kv_prefix_from_tokens,
    random_kv_prefix,
)
from tests.conftest import kv_of, tiny_model, tiny_tokenizer
from tests.prefix import encoders

pytestmark = pytest.mark.slow

Request = Callable[[], Any]
THREADS, REQUESTS = 8, 400
TASK = TaskParams(input_template="{{ x }}", target_template="{{ y }}")


@pytest.fixture(autouse=True)
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def randomly(frozen: PreTrainedModel, seed: int, p: int = 6, **config: Any) -> PrefixModel:
    tuned = PrefixModel(frozen, PrefixConfig(p, **config)).eval()
    draw = torch.Generator().manual_seed(seed)
    tuned.load_kv_prefix(random_kv_prefix(tuned.kv_shapes, p, 1.0, draw))
    return tuned


def answers_of(requests: list[Request], threads: int) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(request) for request in requests]]


def check(kinds: list[Request], count: int = REQUESTS, threads: int = THREADS) -> None:
    """Every answer beside others is the one that the request gets alone, to the bit."""
    alone = [kind() for kind in kinds]
    # Where prefixes make no difference, a lost one would not be seen.
    assert len({str(answer) for answer in alone}) == len(kinds)
    found = answers_of([kinds[i % len(kinds)] for i in range(count)], threads)
    wrong = [i for i, answer in enumerate(found) if str(answer) != str(alone[i % len(kinds)])]
    assert not wrong


def logits_of(model: Any, ids: torch.Tensor, **extra: Any) -> Request:
    @torch.no_grad()
    def request() -> Any:
        return model(input_ids=ids, **extra).logits.sum(-1).tolist()

    return request


def generated(model: PrefixModel, ids: torch.Tensor) -> Request:
    """Greedy generation, by the logits of every step."""
    how: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "pad_token_id": 3}
    how |= {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}

    def request() -> Any:
        return torch.stack(model.generate(input_ids=ids, **how).logits).sum(-1).tolist()

    return request


def test_a_decoder_that_two_prefixes_share() -> None:
    """Forward passes, padded and packed, generation, greedy and sampled, and without a prefix."""
    frozen = tiny_model()
    models = [randomly(frozen, 1), randomly(frozen, 2, p=9, layers=(0,)), PrefixModel(frozen)]
    ids = torch.arange(20, 32).view(2, 6)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    kinds = [logits_of(model, ids, attention_mask=mask) for model in models]
    for index, model in enumerate(models):
        kinds.append(generated(model, ids))
        generator = TextGenerator(model, tiny_tokenizer(), TASK)
        for seed in (2 * index, 2 * index + 1):
            how = Decoding(5, temperature=0.5, top_p=0.99, seed=seed)
            kinds.append(partial(generator, "What is it?", how))

    @torch.no_grad()
    def packed() -> Any:
        keep = torch.arange(12)
        return models[0].packed_logits(ids.flatten(), [5, 7], keep).sum(-1).tolist()

    check([*kinds, packed])


@pytest.mark.parametrize("name", ["bart", "t5", "roberta"])
def test_models_whose_attention_is_routed(name: str) -> None:
    """Two prefixes and the bare model itself, which sees no prefix while another thread's does."""
    frozen = encoders.build(name)
    ids = torch.tensor([[50, 51, 52, 53], [60, 61, 62, 63]])
    extra = {}
    if name in encoders.ENCODER_DECODERS:
        extra = {"decoder_input_ids": torch.tensor([[3, 70, 71], [3, 72, 73]])}
    heads: dict[str, Any] = {} if extra else {"modules_to_save": ("classifier",)}
    models = [randomly(frozen, seed, **heads) for seed in (1, 2)]
    kinds = [logits_of(model, ids, **extra) for model in (*models, frozen)]
    if extra:
        kinds += [generated(model, ids) for model in models]
    check(kinds, 120)


def test_the_bare_model_beside_a_prefix() -> None:
    frozen = tiny_model()
    ids = torch.arange(20, 32).view(2, 6)
    check([logits_of(model, ids) for model in (randomly(frozen, 1), frozen)], 100)


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_trainings_side_by_side(name: str, checkpointing: bool) -> None:
    """Gradients too, where layers are recomputed long after their forward pass."""
    if name == "llama":
        frozen: PreTrainedModel = tiny_model()
        batch = {"input_ids": torch.arange(20, 32).view(2, 6)}
    else:
        frozen = encoders.build(name, dropout_rate=0.0)
        ids = torch.arange(50, 58).view(2, 4)
        batch = {"input_ids": ids, "decoder_input_ids": ids}
    models = [randomly(frozen, seed).train() for seed in (1, 2)]
    if checkpointing:
        for model in models:
            model.gradient_checkpointing_enable()

    def gradient(model: PrefixModel) -> Any:
        loss = model(**batch, use_cache=False).logits.logsumexp(-1).sum()
        (parameter,) = model.encoder.parameters()
        return torch.autograd.grad(loss, parameter)[0].sum(-1).tolist()

    kinds: list[Request] = [partial(gradient, model) for model in models]
    if name == "llama":
        keep = torch.arange(12)

        @torch.no_grad()
        def packed() -> Any:
            ids = batch["input_ids"].flatten()
            return models[0].packed_logits(ids, [5, 7], keep).sum(-1).tolist()

        kinds.append(packed)
    check(kinds, 60, threads=4)


def test_a_seed_is_a_requests_own() -> None:
    """Whatever draws random numbers beside it, and it moves on nobody else's."""
    generator = TextGenerator(randomly(tiny_model(), 1), tiny_tokenizer(), TASK)
    how = Decoding(12, temperature=9.0, seed=5)
    torch.manual_seed(0)
    expected = generator("What is it?", how)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(1), drawn)
    stop = threading.Event()

    def drawing() -> None:
        while not stop.is_set():
            torch.rand(3)

    beside = threading.Thread(target=drawing)
    beside.start()
    try:
        assert {generator("What is it?", how) for _ in range(5)} == {expected}
    finally:
        stop.set()
        beside.join()
    assert generator("What is it?", Decoding(12, temperature=9.0, seed=6)) != expected


def test_streaming_to_another_thread_and_asking_while_streaming() -> None:
    """No request waits for one that waits for it."""
    model = randomly(tiny_model(), 1)
    tokenizer = tiny_tokenizer()
    ids = torch.arange(20, 26)[None]
    how: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 3}
    expected = model.generate(input_ids=ids, **how)

    class Asking(BaseStreamer):
        """A streamer that asks the model itself, in the middle of a generation."""

        answers: list[torch.Tensor] = []  # noqa: RUF012

        def put(self, value: torch.Tensor) -> None:
            self.answers.append(model.generate(input_ids=ids, **how))

        def end(self) -> None:
            pass

    assert torch.equal(model.generate(input_ids=ids, streamer=Asking(), **how), expected)
    assert all(torch.equal(answer, expected) for answer in Asking.answers)

    streamer = TextIteratorStreamer(tokenizer, timeout=20)
    generating = threading.Thread(
        target=lambda: model.generate(input_ids=ids, streamer=streamer, **how)
    )
    generating.start()
    for _ in streamer:
        assert torch.equal(model.generate(input_ids=ids, **how), expected)
    generating.join(20)
    assert not generating.is_alive()


def test_a_prefix_is_loaded_whole() -> None:
    """Beside requests, which meet the one before or the one after it."""
    model = randomly(tiny_model(), 1, p=64)
    ids = torch.arange(20, 32).view(2, 6)
    draws = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    prefixes = [random_kv_prefix(model.kv_shapes, 64, 1.0, draw) for draw in draws]
    kinds = [logits_of(model, ids), generated(model, ids), lambda: kv_of(model).keys[1].tolist()]
    known: list[list[str]] = [[], [], []]
    for kv in prefixes:
        model.load_kv_prefix(kv)
        for answers, kind in zip(known, kinds, strict=True):
            answers.append(str(kind()))
    stop = threading.Event()

    def loading() -> None:
        while not stop.is_set():
            for kv in prefixes:
                model.load_kv_prefix(kv)

    beside = threading.Thread(target=loading)
    beside.start()
    try:
        for answers, kind in zip(known, kinds, strict=True):
            assert {str(kind()) for _ in range(15)} <= set(answers)
    finally:
        stop.set()
        beside.join()


def test_a_forked_process_waits_for_no_thread_of_its_parent() -> None:
    model = randomly(tiny_model(), 1)
    how: dict[str, Any] = {"input_ids": torch.arange(20, 26)[None], "max_new_tokens": 2}
    begun, go_on = threading.Event(), threading.Event()

    class Halting(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            begun.set()
            go_on.wait(20)

        def end(self) -> None:
            pass

    generating = threading.Thread(target=lambda: model.generate(streamer=Halting(), **how))
    generating.start()
    try:
        assert begun.wait(20)
        if (child := os.fork()) == 0:
            signal.alarm(10)
            model.generate(**how)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        go_on.set()
        generating.join()


def test_a_prefix_is_saved_by_several_threads(tmp_path: Path) -> None:
    model = randomly(tiny_model(), 1)
    expected = str(kv_of(model).keys)

    def saved() -> Any:
        model.save_pretrained(tmp_path)
        kv_of(model).save(tmp_path / "kv.safetensors")
        again = PrefixModel.from_pretrained(model.frozen_model, tmp_path)
        return {str(kv.keys) for kv in (kv_of(again), KVPrefix.load(tmp_path / "kv.safetensors"))}

    assert all(answer == {expected} for answer in answers_of([saved] * 24, THREADS))


@torch.no_grad()
def test_a_copy_is_a_model_of_its_own() -> None:
    model = randomly(tiny_model(), 1)
    ids = torch.arange(20, 26)[None]
    expected = model(input_ids=ids).logits
    twin = copy.deepcopy(model)
    for parameter in model.encoder.parameters():
        parameter.zero_()
    assert torch.equal(twin(input_ids=ids).logits, expected)
    kv = kv_prefix_from_tokens(twin.frozen_model, [4, 5, 6, 7, 8, 9])
    twin.load_kv_prefix(kv)
    assert not torch.equal(twin(input_ids=ids).logits, expected)
