"""The benchmark of a hybrid runs whole in miniature, and counts what greedy decoding writes."""

import pytest
import torch
from click.testing import CliRunner
from transformers.modeling_outputs import CausalLMOutput

from benchmarks.hybrid import MINIATURE, TASKS, WAYS, Result, adapted, main, verdict
from benchmarks.hybrid_letters import measured, trained_model
from benchmarks.letters import FIRST, LETTERS, PAD, SORT, TOLD, UNMARKED, examples


def test_in_miniature() -> None:
    found = CliRunner().invoke(main, ["--small"], catch_exceptions=False).stdout
    lines = [line for line in found.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in rows] == [
        [task, way] for task in TASKS for way in ("nothing", *WAYS)
    ]
    numbers = [int(row[2]) for row in rows if row[1] != "nothing"]
    assert max(numbers) <= 1.01 * min(numbers)
    for task in TASKS:
        losses = {row[1]: float(row[4].split()[0]) for row in rows if row[0] == task}
        del losses["nothing"]
        winner = found.split(f"\n{task}: the lowest mean test loss is of ")[1].split(",")[0]
        assert losses[winner] == min(losses.values())


def test_the_same_seed_trains_the_same_prefix_and_another_one_another() -> None:
    frozen, rule = trained_model(1), TOLD[SORT]
    for way in ("keys and values", "states"):
        first, again, other = (
            torch.cat([p.flatten() for p in model.encoder.parameters()])
            for model in (
                adapted(frozen, WAYS[way], rule, seed, 0.1, MINIATURE) for seed in (0, 0, 1)
            )
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class _Knowing(torch.nn.Module):
    """Writes what comes next, but the last token wrong where the first letter is an A."""

    def forward(self, input_ids: torch.Tensor) -> CausalLMOutput:
        following = input_ids.roll(-1, dims=1)
        following[:, 0] = PAD  # what a source goes on with is not asked for
        following[input_ids[:, 1] == FIRST, -2] = PAD
        of_one = torch.nn.functional.one_hot(following, FIRST + LETTERS)
        return CausalLMOutput(logits=of_one.float() * 50)


def test_a_target_counts_when_every_token_is_right() -> None:
    pairs = examples(UNMARKED, TOLD[SORT], 200, seed=3)
    wrong = sum(source[1] == FIRST for source, _ in pairs)
    loss, exact = measured(_Knowing(), pairs)
    assert 0 < wrong < 100
    assert exact == pytest.approx(1 - wrong / 200)
    assert loss == pytest.approx(50 * wrong / sum(len(target) + 1 for _, target in pairs), rel=1e-4)


def test_the_verdict_names_the_lowest_mean_and_counts_its_seeds() -> None:
    found = [
        Result("a", 1, 0.1, (1.0, 3.0, 2.0), (0.0,)),
        Result("b", 1, 0.1, (2.0, 1.0, 1.0), (0.0,)),
    ]
    assert (
        verdict("sort", found) == "sort: the lowest mean test loss is of b, lowest on 2 of 3 seeds"
    )
