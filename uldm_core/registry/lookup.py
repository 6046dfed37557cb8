"""The registry: which components there are, by kind and name, and which plugin brought them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cache

from uldm_core.errors import MistakeError, did_you_mean, listing, with_article
from uldm_core.kinds import BUILTIN_KINDS, Kind
from uldm_core.registry.component import Component
from uldm_core.registry.plugins import (
    CORE_COMMANDS,
    OWN_PLUGIN,
    Command,
    Plugin,
    PluginWarning,
    discover,
)


class Registry:
    """Components by kind and name, and the plugins they came from."""

    def __init__(self) -> None:
        self.kinds: dict[str, Kind] = {kind.name: kind for kind in BUILTIN_KINDS}
        self.plugins: dict[str, Plugin] = {}
        self.commands: dict[str, Command] = {}
        self._components: dict[tuple[str, str], list[Component]] = {}

    def load_plugins(self, block: Iterable[str] = (), *, strict: bool = False) -> None:
        """Add every installed plugin but those named in ``block``; a broken one is skipped with a warning.

        Raises:
            MistakeError: ``strict``, and one is broken.
        """
        found = sorted(discover(block), key=lambda plugin: plugin.name != OWN_PLUGIN)  # ours keep their names
        for kind in (kind for plugin in found for kind in plugin.kinds):
            self.kinds.setdefault(kind.name, kind)  # all first: components may be of a later plugin's kind
        for plugin in found:
            try:
                self.add_plugin(plugin)
            except MistakeError as error:
                self.add_plugin(plugin.without(error.problems[0].what))
        for broken in [plugin for plugin in self.plugins.values() if plugin.error]:
            what = f"{broken} was skipped: {broken.error}"
            if strict:
                hint = "uldm doctor shows more; without --strict it is only skipped"
                raise MistakeError(what, hint=hint)
            warnings.warn(what, PluginWarning, stacklevel=2)

    def add_plugin(self, plugin: Plugin) -> None:
        """Add a plugin's kinds, components and commands.

        Raises:
            MistakeError: a component's kind is unknown, or a kind or command is uldm's own; then nothing is
                added.
        """
        kinds = {kind.name: kind for kind in plugin.kinds}
        if own := kinds.keys() & {kind.name for kind in BUILTIN_KINDS}:
            raise MistakeError(f"it brings a kind {min(own)!r}, which uldm has")
        if plugin.name != OWN_PLUGIN:
            brought = self.plugins[OWN_PLUGIN].commands if OWN_PLUGIN in self.plugins else ()
            ours = {*CORE_COMMANDS, *(command.name for command in brought)}
            if own := ours & {command.name for command in plugin.commands}:
                raise MistakeError(f"it brings a command {min(own)!r}, which uldm has")
        for component in plugin.components:
            _kind(component.kind, self.kinds | kinds)
        self.kinds |= kinds
        self.plugins[plugin.name if plugin.name not in self.plugins else str(plugin)] = plugin
        for component in plugin.components:
            self.register(component)
        for command in plugin.commands:
            self.commands.setdefault(command.name, command)

    def register(self, component: Component) -> None:
        """Add one component; a later one of the same name, kind and plugin replaces the earlier one."""
        self.kind(component.kind)
        found = self._components.setdefault((component.kind, component.name), [])
        found[:] = [other for other in found if other.plugin != component.plugin] + [component]

    def kind(self, name: str) -> Kind:
        """Return the kind of that name."""
        return _kind(name, self.kinds)

    def kind_of(self, annotation: object) -> Kind | None:
        """Return the kind whose protocol the annotation is, or None."""
        return _kinds_by_protocol(tuple(self.kinds.values())).get(annotation)

    def components(self, kind: str | None = None) -> list[Component]:
        """Return all components (of one kind), by kind in the order of the kinds, then by name."""
        order = list(self.kinds)
        wanted = order if kind is None else [self.kind(kind).name]
        found = [component for records in self._components.values() for component in records]
        found = [component for component in found if component.kind in wanted]
        return sorted(found, key=lambda c: (order.index(c.kind), c.name, c.plugin != OWN_PLUGIN, c.plugin))

    def names(self, kind: str) -> list[str]:
        """Return the names of a kind's components, sorted."""
        return sorted({component.name for component in self.components(kind)})

    def get(self, kind: str, name: str) -> Component:
        """Return a component by its name, or by ``plugin/name``.

        Raises:
            MistakeError: there is none, or several plugins bring one of that bare name.
        """
        plugin, _, bare = name.rpartition("/")
        named = self._components.get((self.kind(kind).name, bare), [])
        found = [component for component in named if plugin in ("", component.plugin)]
        own = [component for component in found if component.plugin == OWN_PLUGIN]
        if not found:
            what = f"unknown {kind} {name!r}{did_you_mean(bare, self.names(kind))}"
            raise MistakeError(what, hint=self._elsewhere(kind, plugin, bare))
        if len(found) > 1 and not own:
            choices = listing([f"{component.plugin}/{name}" for component in found])
            what = f"{kind} {name!r} is brought by several plugins"
            raise MistakeError(what, hint=f"write one of: {choices}")
        return (own or found)[0]

    def _elsewhere(self, kind: str, plugin: str, name: str) -> str:
        """Return what is registered of a kind, what else has a name, and which plugins were skipped."""
        hints = [f"registered: {listing(self.names(kind))}"]
        others = {component.kind for component in self.components() if component.name == name} - {kind}
        if others:
            hints.insert(0, f"{name} is {' and '.join(map(with_article, sorted(others)))}")
        for other in self.plugins.values():
            if other.error and plugin in ("", other.name):
                hints.append(f"{other} was skipped, see uldm doctor; {other.fix}")
        return "; ".join(hints)

    def name_of(self, component: Component) -> str:
        """Return how recipes write it: its bare name, or ``plugin/name`` where another has that name too."""
        found = self._components[component.kind, component.name]
        unique = found == [component] or component.plugin == OWN_PLUGIN
        return component.name if unique or not component.plugin else f"{component.plugin}/{component.name}"


def _kind(name: str, kinds: Mapping[str, Kind]) -> Kind:
    if name not in kinds:
        what, hint = f"unknown kind {name!r}{did_you_mean(name, kinds)}", listing(sorted(kinds))
        raise MistakeError(what, hint=f"the kinds are: {hint}")
    return kinds[name]


@cache
def _kinds_by_protocol(kinds: tuple[Kind, ...]) -> dict[object, Kind]:
    return {kind.load_protocol(): kind for kind in kinds}
