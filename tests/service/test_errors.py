import re

from service import errors
from service.errors import FieldViolation, InvalidRequest, ModelNotFound


def test_the_tree_that_is_drawn_is_the_tree_that_is_there() -> None:
    assert errors.__doc__ is not None
    drawn: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"^ {4}([\s\u2502]*)(?:[\u251c\u2514]\u2500\u2500 )?(\w+)\b", line):
            deep = 0 if "\u2500" not in line else 1 + len(match[1]) // 4
            drawn.append((deep, match[2]))

    def tree(kind: type[Exception], deep: int = 0) -> list[tuple[int, str]]:
        below = [entry for child in kind.__subclasses__() for entry in tree(child, deep + 1)]
        return [(deep, kind.__name__), *below]

    assert drawn == tree(errors.ServiceError)


def test_a_refusals_text_names_every_field() -> None:
    violations = (FieldViolation("a", "is bad"), FieldViolation("b", "is worse"))
    assert str(InvalidRequest(violations)) == "a: is bad; b: is worse"


def test_an_unknown_models_name_is_shown_readable_and_short() -> None:
    assert str(ModelNotFound("a\nb", "demo")) == "model 'a\\nb' is not served here; 'demo' is"
    assert len(str(ModelNotFound("x" * 10_000, "demo"))) < 200
