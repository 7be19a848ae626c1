"""What a served model keeps a copy of, against what it imports."""

from pipeline.tracking.registered_model import SERVED_ROOMS
from tests.graph.closure import imports


def test_a_served_model_has_the_rooms_that_it_imports_and_no_others() -> None:
    """All the way down, imports inside functions included."""
    found: set[str] = set()
    waiting = ["pipeline.tracking.text_model"]
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(imports().find_modules_directly_imported_by(module))
    assert {name.split(".")[1] for name in found if "." in name} == set(SERVED_ROOMS)
