"""The tables of what params.yaml can name: a row is all that a further kind takes."""

import re
import subprocess
import sys
from typing import Any, Literal, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from pipeline.baselines.table import TRAINED_BASELINES, UNTRAINED_BASELINES
from pipeline.errors import PipelineError
from pipeline.initialization.context import StartContext
from pipeline.initialization.start import Start
from pipeline.initialization.table import INITIALIZATIONS
from pipeline.models.definition import read_definition, write_definition
from pipeline.models.for_initialization import ForInitialization
from pipeline.models.for_variant import ForVariant
from pipeline.prefix import KVPrefix, PrefixConfig, PrefixModel
from pipeline.schema.alternatives import one_of
from pipeline.schema.section import Section
from pipeline.sweep.variants import Variant
from tests.conftest import ROOT, tiny_model
from tests.test_initializations import TYPES


def documentation(section: str) -> str:
    """A section of params.yaml, with the comment right above it."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (found,) = re.findall(rf"((?:^#.*\n)+{section}:.*\n(?:  .*\n)*)", text, flags=re.MULTILINE)
    return str(found)


def kind_of(row: type[Section]) -> str:
    """The value of `type` that chooses a row."""
    (kind,) = get_args(row.model_fields["type"].annotation)
    return str(kind)


@pytest.mark.parametrize("row", INITIALIZATIONS, ids=lambda row: row.__name__)
def test_every_initialisation_is_documented_and_tested(row: type[Start]) -> None:
    entry = rf"^#   {kind_of(row)}  +(.*\n(?:#     +.*\n)*)"
    documented = re.search(entry, documentation("initializations"), re.MULTILINE)
    assert documented is not None
    for key in row.model_fields.keys() - {"path", "type"}:
        assert re.search(rf"\b{key}\b", documented[1]), key
    assert kind_of(row) in {definition["type"] for definition in TYPES.values()}


@pytest.mark.parametrize(
    ("section", "row"),
    [
        *(("baselines", row) for row in UNTRAINED_BASELINES),
        *(("trained_baselines", row) for row in TRAINED_BASELINES),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_baseline_is_documented(section: str, row: type[Section]) -> None:
    documented = documentation(section)
    assert re.search(rf"\btype: {kind_of(row)}\b", documented)
    for key in row.model_fields:
        assert re.search(rf"\b{key}\b", documented), key


class Ones(Start):
    """An initialisation that the table lacks."""

    type: Literal["ones"]
    scale: float = 1.0

    def start(self, context: StartContext) -> KVPrefix:
        keys, values = zip(*context.kv_shapes, strict=True)

        def filled(shapes: Any) -> tuple[torch.Tensor, ...]:
            return tuple(
                torch.full((heads, context.length, size), self.scale) for heads, size in shapes
            )

        return KVPrefix(filled(keys), filled(values))


def test_a_row_is_all_that_another_initialisation_takes() -> None:
    known: TypeAdapter[Start] = TypeAdapter(one_of((*INITIALIZATIONS, Ones)))
    given = {"type": "ones", "path": "data/model/config.json", "scale": 2.0}
    with pytest.raises(ValidationError, match="union_tag_invalid"):
        TypeAdapter(one_of(INITIALIZATIONS)).validate_python(given)
    with pytest.raises(ValidationError, match=r"ones\.scales\n.*not permitted"):
        known.validate_python({**given, "scales": 2.0})
    definition = known.validate_python(given)
    model = PrefixModel(tiny_model(), PrefixConfig(num_virtual_tokens=3))
    kv = definition.start(ForVariant(Variant(3, "ones", 0), model))
    model.load_kv_prefix(kv)
    loaded = model.kv_prefix()
    assert loaded is not None
    assert loaded.values[1].eq(2.0).all()
    nothing: Any = None
    assert definition.cached(ForInitialization(nothing, "ones")) is None


def test_an_initialisation_comes_back_from_its_file(tmp_path: Any) -> None:
    known: TypeAdapter[Start] = TypeAdapter(one_of(INITIALIZATIONS))
    for given in TYPES.values():
        definition = known.validate_python(given)
        write_definition(tmp_path, definition)
        assert read_definition(tmp_path) == definition
    (tmp_path / "definition.json").write_text('{"type": "magic"}')
    with pytest.raises(PipelineError, match=r"is no initialisation; run `dvc repro --force kv_pre"):
        read_definition(tmp_path)


def test_reading_params_imports_neither_torch_nor_what_is_above() -> None:
    code = (
        "import sys, pipeline.config\n"
        "heavy = ('torch', 'transformers', 'peft', 'pandas', 'datasets', 'mlflow')\n"
        "rooms = ('prefix', 'data', 'models', 'training', 'stages')\n"
        "names = (*heavy, *(f'pipeline.{room}' for room in rooms))\n"
        "print([name for name in names if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[]\n"
