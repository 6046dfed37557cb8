"""A JSON Schema (2020-12) of recipes, built from what is registered, for help in the editor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import annotated_types
from attrs import asdict, define, field, fields, has

from uldm_core.errors import MistakeError
from uldm_core.kinds import Kind
from uldm_core.recipe.reader import FORMAT, NAME
from uldm_core.recipe.run_options import RunOptions
from uldm_core.registry.component import Component
from uldm_core.registry.lookup import Registry
from uldm_core.spec.annotations import Matches, constraints, is_sequence, is_union
from uldm_core.spec.building import describe
from uldm_core.spec.format_types import format_type, takes_component
from uldm_core.spec.options import WEIGHTS, Option, Partial, Weighted, options_of

Schema = dict[str, Any]
VARIABLE: Schema = {"type": "string", "pattern": r"\$\{\s*vars\."}
_WITHOUT_USE: Schema = {"not": {"anyOf": [{"required": ["use"]}, {"required": ["ref"]}]}}
_SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string"}
_TEXT: Schema = {"type": "string", "minLength": 1}
_NAMES: Schema = {"pattern": rf"^{NAME.pattern}$"}
_KEYWORDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "min_length": "minItems",
    "max_length": "maxItems",
    "pattern": "pattern",
}


def schema_of(registry: Registry) -> Schema:
    """Return the schema of the recipes that can be written with what is registered.

    It holds their structure: names, options, types, ranges, what is required and what excludes each other.
    How components and stages depend on each other is beyond a schema.
    """
    return _Writer(registry).document()


@define
class _Writer:
    registry: Registry
    definitions: Schema = field(factory=dict)

    def document(self) -> Schema:
        """Return the schema of a whole recipe."""
        for kind in self.registry.kinds.values():
            self._define_kind(kind)
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": "uldm.schema.json",
            "title": "A recipe of uldm",
            "type": "object",
            "if": {"required": ["extends"]},
            "then": self._tables("part"),
            "else": self._tables("whole"),
            "$defs": self.definitions,
        }

    def _tables(self, group: str) -> Schema:
        """Return what may be at the top; ``group`` decides whether tables may be partial."""
        components = {
            kind.name: _ref(group, kind.name) for kind in self.registry.kinds.values() if kind.top_level
        }
        stage = next(kind for kind in self.registry.kinds.values() if kind.stage)
        stages = {"type": "object", "propertyNames": _NAMES, "additionalProperties": _ref(group, stage.name)}
        otherwise = [{"properties": {"kind": {"const": name}}, **table} for name, table in components.items()]
        return {
            "propertyNames": _NAMES,
            "properties": {**self._beside(), "stages": stages, **components},
            "patternProperties": {_ending(name, components): table for name, table in components.items()},
            "additionalProperties": {"type": "object", "required": ["kind"], "anyOf": otherwise},
        }

    def _beside(self) -> Schema:
        """Return the keys beside components and stages."""
        hints = get_type_hints(RunOptions, include_extras=True)
        run = {
            option.name: {**self._value(hints[option.name]), "default": _plain(option.default)}
            for option in fields(RunOptions)
        }
        return {
            "uldm": {"const": FORMAT, "description": "the recipe format"},
            "extends": {**_TEXT, "description": "a recipe that this one changes"},
            "seed": self._value(Annotated[int, annotated_types.Ge(0)]),
            "vars": {"type": "object", "description": 'values, for "${vars.NAME}"'},
            "run": {"type": "object", "properties": run, "additionalProperties": False},
            "versions": {"type": "object", "additionalProperties": {"type": "string"}},
        }

    def _define_kind(self, kind: Kind) -> None:
        """Define how a component of a kind may be written: within another, at the top, in a weighted list."""
        components = self.registry.components(kind.name)
        tables = [self._define(component) for component in components]
        bare = {"enum": sorted({name for component in components for name in self._names(component)})}
        reference = _table({"ref": _TEXT}, "ref")
        within = [{**table, "unevaluatedProperties": False} for table in tables]
        self._put("kind", kind.name, [bare, VARIABLE, reference, *within], kind.summary)
        fields = {name: self._value(option.annotation) for name, option in WEIGHTS.items()}
        referred = _table({"ref": _TEXT, **fields}, "ref")
        terms = [{"properties": fields, **table} for table in within]
        self._put("term", kind.name, [bare, VARIABLE, referred, *terms], kind.summary)
        beside = {"kind": {"const": kind.name}, "from": _TEXT}
        of_a_run = {"type": "object", "properties": beside, "required": ["from"], **_WITHOUT_USE}
        at_the_top = [of_a_run, *({"properties": beside, **table} for table in within)]
        whole = [reference, *within] if kind.stage else at_the_top
        self._put("whole", kind.name, [bare, *whole], kind.summary)
        part = {"type": "object", **_WITHOUT_USE}
        self._put("part", kind.name, [part, _ref("whole", kind.name)], kind.summary)

    def _put(self, group: str, name: str, choices: list[Schema], description: str) -> None:
        self.definitions.setdefault(group, {})[name] = {"description": description, "anyOf": choices}

    def _names(self, component: Component) -> list[str]:
        """Return the values of ``use``: its name, with or without its plugin's."""
        return sorted({component.name, self.registry.name_of(component), _full_name(component)})

    def _define(self, component: Component) -> Schema:
        """Define a component's table, open to further keys beside its options; return a reference to it."""
        kinds = self.definitions.setdefault("component", {})
        kinds.setdefault(component.kind, {})[_full_name(component)] = self._table(component)
        return _ref("component", component.kind, _full_name(component))

    def _table(self, component: Component) -> Schema:
        use = {"enum": self._names(component), "description": component.summary}
        table: Schema = {"title": component.path, "description": component.summary, "type": "object"}
        try:
            options = describe(self.registry, component.kind, _full_name(component)).options
        except MistakeError:  # its library is not here: any options
            return {**table, "properties": {"use": use}, "required": ["use"], "additionalProperties": True}
        kind = self.registry.kind(component.kind)
        required = [o.name for o in options if o.required and not self._is_filled_in(kind, o)]
        both = [{"not": {"required": [o.name, other]}} for o in options for other in o.excludes]
        table |= {
            "properties": {"use": use, **{option.name: self._option(option) for option in options}},
            "required": ["use", *required],
        }
        return {**table, "allOf": both} if both else table

    def _is_filled_in(self, kind: Kind, option: Option) -> bool:
        """Whether an option is inferred from the recipe's components."""
        members = get_args(option.annotation) if is_union(option.annotation) else (option.annotation,)
        return option.name in kind.inferred or (kind.stage and any(map(self.registry.kind_of, members)))

    def _option(self, option: Option) -> Schema:
        type_text = format_type(option.annotation, self.registry)
        schema = self._value(option.annotation)
        if isinstance(option.default, Mapping) and "use" in option.default:
            schema = {"anyOf": [schema, self._changes(option)]}
        described = {**schema, "description": f"{type_text}: {option.help}" if option.help else type_text}
        default = _plain(option.default)
        return described if option.required or default is None else {**described, "default": default}

    def _changes(self, option: Option) -> Schema:
        """Return the schema of a table without ``use``: options of the default component."""
        kind, use = self._kind_within(option.annotation), option.default["use"]
        if kind is None:
            return {"type": "object", **_WITHOUT_USE}
        name = _full_name(self.registry.get(kind.name, use))
        options = describe(self.registry, kind.name, use).options
        own = ("component", kind.name, name, "properties")
        properties = {other.name: _ref(*own, other.name) for other in options}
        changes = {"type": "object", "properties": properties, "additionalProperties": False}
        self.definitions.setdefault("changes", {}).setdefault(kind.name, {})[name] = changes
        return _ref("changes", kind.name, name)

    def _kind_within(self, annotation: Any) -> Kind | None:
        """Return the kind of component that an annotation is, perhaps finished by its owner."""
        inner = get_args(annotation)[0] if get_origin(annotation) is Partial else annotation
        return self.registry.kind_of(inner)

    def _value(self, annotation: Any) -> Schema:
        """Return the schema of an option's value."""
        origin, args = get_origin(annotation), get_args(annotation)
        if kind := self.registry.kind_of(annotation):
            return _ref("kind", kind.name)
        if origin is Partial:
            return self._value(args[0])
        if origin is Weighted:
            kind = self.registry.kind_of(args[0])
            return _ref("term", kind.name) if kind else {}
        if is_union(annotation):
            members = [self._value(arg) for arg in args if arg is not type(None)]
            return members[0] if len(members) == 1 else {"anyOf": members}
        if origin is Annotated:
            return _constrained(self._value(args[0]), annotation)
        if origin is Literal:
            return {"anyOf": [{"enum": list(args)}, VARIABLE]}
        if annotation is Path:
            return {"anyOf": [_TEXT, VARIABLE]}
        if annotation in _SCALARS:
            return {"anyOf": [{"type": _SCALARS[annotation]}, VARIABLE]}
        return self._container(annotation, args)

    def _container(self, annotation: Any, args: tuple[Any, ...]) -> Schema:
        origin = get_origin(annotation) or annotation
        if is_sequence(origin):
            fixed = origin is tuple and args and args[-1] is not Ellipsis
            items: Schema = {"items": self._value(args[0])} if args and not fixed else {}
            if fixed:
                length = {"minItems": len(args), "maxItems": len(args)}
                items = {"prefixItems": [self._value(arg) for arg in args], **length}
            if any(takes_component(self.registry, arg) for arg in args):
                items["uniqueItems"] = True
            return {"anyOf": [{"type": "array", **items}, VARIABLE]}
        if has(origin):
            options = {name: self._value(option.annotation) for name, option in options_of(origin).items()}
            return {
                "anyOf": [{"type": "object", "properties": options, "additionalProperties": False}, VARIABLE]
            }
        if origin in (dict, Mapping):
            values = {"additionalProperties": self._value(args[1])} if len(args) == 2 else {}
            return {"anyOf": [{"type": "object", **values}, VARIABLE]}
        return {}


def _table(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _ending(kind: str, kinds: Iterable[str]) -> str:
    """Return the pattern of names that end in a kind, and in no longer kind's name."""
    longer = "|".join(other for other in kinds if other.endswith(f"_{kind}"))
    return f"^(?!.*_({longer})$).+_{kind}$" if longer else f"^.+_{kind}$"


def _constrained(schema: Schema, annotation: Any) -> Schema:
    """Add constraints to the first of a value's alternatives, which is not the variable."""
    keywords = {
        _KEYWORDS[name]: f"^({bound.pattern})$" if isinstance(bound, Matches) else bound
        for name, bound in constraints(annotation).items()
    }
    if not keywords or "anyOf" not in schema:
        return schema
    first, *others = schema["anyOf"]
    return {"anyOf": [{**first, **keywords}, *others]}


def _ref(*path: str) -> Schema:
    pointer = "/".join(part.replace("~", "~0").replace("/", "~1") for part in path)
    return {"$ref": f"#/$defs/{pointer}"}


def _full_name(component: Component) -> str:
    return f"{component.plugin}/{component.name}" if component.plugin else component.name


def _plain(value: Any) -> Any:
    if has(type(value)):
        value = asdict(value, recurse=False)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
