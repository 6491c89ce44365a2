"""What every part of a spec shares: strict, frozen, with rules that the API server keeps, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema


@dataclass(frozen=True)
class Rule:
    """A condition that a schema cannot express, told twice: to the API server and to Python."""

    cel: str
    """`x-kubernetes-validations` of the object, where `self` has all defaults."""
    message: str
    """What to change, for whoever wrote the spec."""
    holds: Callable[[Any], bool]
    """The same condition of the typed part."""


@dataclass(frozen=True)
class Transition:
    """A condition on a change, which only the API server sees."""

    cel: str
    """Of the object; it compares `self` with `oldSelf`."""
    message: str
    """What to do instead."""


class Ruled(BaseModel):
    """Something with rules."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    transitions: ClassVar[tuple[Transition, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        schema.update(cls.validations())
        return schema

    @classmethod
    def validations(cls) -> dict[str, list[dict[str, str]]]:
        """Rules and transitions as the schema of a CRD has them; nothing without any."""
        told: tuple[Rule | Transition, ...] = (*cls.rules, *cls.transitions)
        entries = [{"rule": each.cel, "message": each.message} for each in told]
        return {"x-kubernetes-validations": entries} if entries else {}

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.rules:
            if not rule.holds(self):
                raise ValueError(rule.message)
        return self


class Part(Ruled):
    """A piece of a spec: what it does not know is an error, as are wrong types."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class StatusPart(BaseModel):
    """A piece of a status: what a newer operator wrote there is left alone."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )
