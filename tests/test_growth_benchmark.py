"""The benchmark of growth writes params that the pipeline takes."""

from benchmarks.growth import examples
from benchmarks.growth.variants import params_of
from pipeline.config.params import Params


def test_a_swept_project_has_the_params_that_are_asked_for() -> None:
    params = Params.model_validate(params_of(3))
    assert params.sweep.seeds == [0, 1, 2]


def test_so_do_the_examples_of_a_training() -> None:
    assert Params.model_validate(examples.params()).task.max_length == examples.TOKENS
