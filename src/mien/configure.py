# SPDX-License-Identifier: Apache-2.0
"""From plain values (a config.json, keyword arguments) to a method: names and types are checked against its signature.

Only what the constructor declares is accepted, and values stay values: no import path is ever followed.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mien.errors import BadInput, unknown_name

T = TypeVar("T")


def build(cls: type[T], config: Mapping[str, Any], what: str) -> T:
    """An instance of `cls` from its constructor's keyword arguments.

    Args:
        cls: A method, or a dataclass of options such as a network or an optimiser's recipe.
        config: Name -> value. A dict where the constructor wants a dataclass becomes that dataclass, and fields that it
            does not name keep the values of the constructor's default; an instance is taken as it is.
        what: What the errors call it, for instance "acmf".

    Raises:
        BadInput: An unknown name (with the nearest one), a missing argument, or a value of the wrong type.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for name in config:
        if name not in parameters:
            raise unknown_name(f"option of {what}:", name, parameters)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in config:
            raise BadInput(f"{what} needs {name!r}: it has no default")
    hints = get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)
    whole = {name: _completed(value, parameters[name].default) for name, value in config.items()}
    return cls(**{name: fit_type(value, hints.get(name, Any), f"{what}.{name}") for name, value in whole.items()})


def _completed(value: Any, default: Any) -> Any:
    """A dict with some fields of a dataclass, with the default's others; of another class in a union, as it is.

    >>> from mien.optim.recipe import Recipe
    >>> _completed({"lr": 0.3}, Recipe("sgd", 0.1, momentum=0.5))["momentum"]
    0.5
    """
    if not isinstance(value, Mapping) or not dataclasses.is_dataclass(default) or isinstance(default, type):
        return value
    fields = {field.name: getattr(default, field.name) for field in dataclasses.fields(default) if field.init}
    if not fields.keys() >= value.keys():
        return value
    return {name: _completed(value[name], own) if name in value else own for name, own in fields.items()}


def fit_type(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` wants it. Raises BadInput when it does not fit.

    >>> fit_type(1, float, "lr")
    1.0
    >>> fit_type([3, 4], tuple[int, ...], "sizes")
    (3, 4)
    """
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first_that_fits(value, get_args(hint), where)
    if origin is Literal:
        if value in get_args(hint):
            return value
        if isinstance(value, str):
            raise unknown_name(f"value of {where}:", value, map(str, get_args(hint)))
        raise _wrong(value, hint, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return _sequence(value, hint, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise _wrong(value, hint, where)
    if hint is None:
        hint = type(None)
    plain = origin or hint
    if isinstance(plain, type) and not isinstance(value, plain):
        raise _wrong(value, hint, where)
    return value


def _first_that_fits(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    errors = []
    exact = [hint for hint in hints if isinstance(hint, type) and type(value) is hint]  # 1 in int | float stays an int
    for hint in exact or hints:
        try:
            return fit_type(value, hint, where)
        except BadInput as error:
            errors.append((hint, error))
    inner = [error for hint, error in errors if dataclasses.is_dataclass(hint) and isinstance(value, Mapping)]
    if inner:
        raise inner[0]  # the user meant the dataclass, and something in it is wrong
    raise _wrong(value, Union[hints], where)  # noqa: UP007 - made at run time


def _sequence(value: Any, hint: Any, where: str) -> Any:
    wanted = get_origin(hint) or hint
    arguments = get_args(hint)
    if not isinstance(value, (list, tuple)):
        raise _wrong(value, hint, where)
    if wanted is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise _wrong(value, hint, where)
        return tuple(
            fit_type(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, arguments, strict=True))
        )
    kind = arguments[0] if arguments else Any
    items = [fit_type(item, kind, f"{where}[{i}]") for i, item in enumerate(value)]
    return tuple(items) if wanted is tuple else items


def _wrong(value: Any, hint: Any, where: str) -> BadInput:
    return BadInput(f"{where} is {value!r}: it must be {describe(hint)}")


def describe(hint: Any) -> str:
    """A type in words.

    >>> describe(int | None)
    'int or None'
    """
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(kind) for kind in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(value) for value in get_args(hint))
    if hint is None or hint is type(None):
        return "None"
    if get_origin(hint) is not None:
        return str(hint).replace("collections.abc.", "")
    return getattr(hint, "__name__", str(hint))
